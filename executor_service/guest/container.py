"""Process 1 of a container: the same guest as in a local sandbox, with nobody beside it.

Started by the engine as ``python3 -I -S container.py`` with uid 0 and no capability but SETUID, SETGID and
KILL. Its configuration is mounted read-only. `HOME` is a directory that it shares with the service alone:
there it puts the listening socket, and what went wrong where it could not start. It starts the warm
interpreter by exec, which then itself becomes the program or the kernel: a zygote in each container would
only cost its memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, "/opt/codecell/lib")

from executor_service.guest import channel, linux
from executor_service.guest.privileges import Identity, become_file_helper, become_user
from executor_service.guest.protocol import (
    HEADER,
    MAX_REQUEST,
    pack_json,
    parse_header,
    parse_json,
    recv_json,
    send_json,
)
from executor_service.guest.state import Armed
from executor_service.guest.zygote import BOOT, CONTROL, PYTHON

HOME = "/run/codecell/guest"
CONFIG = "/run/codecell/config.json"
SOCKET, FAILED = "guest.sock", "failed"
STARTED_BY = "executor_service.guest.container:become_armed"
FONTS, FONTS_HERE = "/opt/codecell/env/share/codecell/matplotlib", "/tmp/.matplotlib"
HELPER_TIMEOUT = 1.0  # seconds
IMPORT_TIMEOUT = 60.0  # seconds that an interpreter has to be warm, on a busy machine too
_GROUPS = "/sys/fs/cgroup"


class Container:
    """The `Place` of a container; `config` is the service's."""

    def __init__(self, config: Mapping[str, Any], identity: Identity, failed_fd: int) -> None:
        self._config = config
        self._identity = identity
        self._failed_fd = failed_fd
        self._meters = meters()
        self._status: dict[
            int, int
        ] = {}  # of warm interpreters: pid -> the end of a pipe where its end is told
        self._before: dict[int, float] = {}  # CPU seconds that their imports took
        self._baseline = 0

    def ready(self) -> Mapping[str, Any]:
        """Memory in use by what is ours."""
        if not self._baseline:  # a later service must not take the user's memory for ours
            self._baseline = self._meters.memory()
        return {"memory": self._baseline}

    def arm(self) -> Armed:
        """Start an interpreter as user code; it answers when its imports are done."""
        ours, theirs = socket.socketpair()
        status, status_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._exec_armed(theirs)
        theirs.close()
        self._status[pid] = status_write
        self._leave_failed()
        ours.settimeout(IMPORT_TIMEOUT)
        try:
            send_json(ours, {key: self._config[key] for key in ("warm", "preload")})
            before = self._before[pid] = _hear_armed(ours)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            ours.close()
            os.close(status)
            raise
        ours.settimeout(None)
        return Armed(
            control=ours, status=status, pid=pid, pidfd=os.pidfd_open(pid), child=True, cpu_time=before
        )

    def _exec_armed(self, control: socket.socket) -> None:
        try:
            os.setsid()
            os.dup2(control.fileno(), CONTROL)
            null = os.open("/dev/null", os.O_RDWR)
            errors = null if self._failed_fd < 0 else self._failed_fd
            for target, fd in ((0, null), (1, null), (2, errors)):
                os.dup2(fd, target)
            channel.close_others([CONTROL])
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.chdir("/workspace")
            become_user(self._identity)
            _give_fonts()
            environment = {**self._config["environment"], **BOOT, "CODECELL_ZYGOTE": STARTED_BY}
            os.execve(PYTHON, ["python3", "main.py"], environment)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(127)

    def _leave_failed(self) -> None:
        """Only the first interpreter may say there what went wrong: user code may steer a later one."""
        if self._failed_fd >= 0:
            os.close(self._failed_fd)
            self._failed_fd = -1

    def process_limit(self, processes: int) -> int | None:  # noqa: ARG002
        """None: RLIMIT_NPROC would count uid 1000 of all containers. The cgroup counts this one's."""
        return None

    def limit_processes(self, armed: Armed, processes: int) -> None:
        """The cgroup's."""

    def limit_open_files(self, pid: int, number: int) -> None:
        """By a helper under the user's uid: prlimit(2) of another uid's process wants CAP_SYS_RESOURCE."""
        helper = os.fork()
        if helper:
            _wait_or_kill(helper, HELPER_TIMEOUT)
            return
        try:
            become_file_helper(self._identity)
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(number, hard), hard))
        finally:
            os._exit(0)

    def set_cpus(self, count: int) -> None:
        """The service's: the file lies in its directory."""

    def reaped(self, pid: int, status: int, cpu_time: float) -> None:
        """Tell whoever waits for a warm interpreter how it ended."""
        pipe, before = self._status.pop(pid, None), self._before.pop(pid, 0.0)
        if pipe is not None:
            with contextlib.suppress(OSError):
                os.write(
                    pipe, json.dumps({"status": status, "cpu_time": max(0.0, cpu_time - before)}).encode()
                )
            os.close(pipe)

    def stats(self) -> Mapping[str, Any] | None:
        """From the container's control groups, less what was in use when it was ready."""
        return {
            "kills": self._meters.kills(),
            "cpu_time": self._meters.cpu_time(),
            "peak_memory_bytes": max(0, self._meters.peak() - self._baseline),
        }


class Meters:
    """Version 2 of control groups. What a kernel does not tell is 0."""

    def memory(self) -> int:
        return _number("memory.current")

    def peak(self) -> int:
        return _number("memory.peak")  # Linux 5.19

    def kills(self) -> int:
        return _field("memory.events", "oom_kill")

    def cpu_time(self) -> float:
        return _field("cpu.stat", "usage_usec") / 1e6


class MetersV1:
    """Version 1."""

    def memory(self) -> int:
        return _number("memory/memory.usage_in_bytes")

    def peak(self) -> int:
        return _number("memory/memory.max_usage_in_bytes")

    def kills(self) -> int:
        return _field("memory/memory.oom_control", "oom_kill")

    def cpu_time(self) -> float:
        return _number("cpuacct/cpuacct.usage") / 1e9


def meters() -> Meters | MetersV1:
    """Those of the mounted version."""
    return MetersV1() if os.path.exists(f"{_GROUPS}/memory") else Meters()


def _number(name: str) -> int:
    try:
        with open(f"{_GROUPS}/{name}", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _field(name: str, key: str) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"{_GROUPS}/{name}") as file:
        for line in file:
            if line.startswith(key + " "):
                return int(line.split()[1])
    return 0


def _hear_armed(control: socket.socket) -> float:
    """The CPU seconds that an interpreter used until it was ready; user code may be what speaks there.

    Raises:
        TimeoutError, EOFError, ValueError: it did not say so, in time and in short.
    """
    deadline = time.monotonic() + IMPORT_TIMEOUT
    said = bytearray()
    while (
        len(said) < HEADER.size or len(said) < HEADER.size + parse_header(bytes(said[: HEADER.size]), 256)[1]
    ):
        control.settimeout(max(0.001, deadline - time.monotonic()))
        part = control.recv(512 - len(said))
        if not part:
            raise EOFError("the interpreter ended")
        said += part
    return float(parse_json(bytes(said[HEADER.size :]))["cpu_time"])


def _wait_or_kill(pid: int, seconds: float) -> None:
    """Wait for a child, which user code may have stopped: it has the same uid."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(seconds * 1000):
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    os.waitpid(pid, 0)


def become_armed() -> None:
    """In the warm interpreter, called by `boot/sitecustomize.py`; returns as the program, see `armed`."""
    from executor_service.guest import forking

    control = socket.socket(fileno=CONTROL)
    config = recv_json(control)
    flavour = config["warm"]

    def tell() -> None:
        control.sendall(pack_json({"word": "armed", "cpu_time": time.process_time()}))
        if flavour == "kernel":
            control.close()

    become = forking.prepare(flavour, config["preload"] if flavour == "program" else [], listening=tell)
    channel.close_others([CONTROL])
    channel.leave_standard_streams()
    if flavour != "kernel":
        tell()
    become(control)


def _give_fonts() -> None:
    """What matplotlib would find out about the image's fonts; 0.1 s of its import."""
    with contextlib.suppress(OSError):
        names = os.listdir(FONTS)
        os.makedirs(FONTS_HERE, exist_ok=True)
        for name in names:
            with open(f"{FONTS}/{name}", "rb") as source, open(f"{FONTS_HERE}/{name}", "xb") as copy:
                copy.write(source.read())


def _check_home() -> None:
    """Raises PermissionError: user code could reach the directory, and put another socket in our place."""
    above = os.stat(os.path.dirname(HOME))
    if above.st_uid != 0 or stat.S_IMODE(above.st_mode) & 0o077:
        raise PermissionError(f"{os.path.dirname(HOME)} in the image must be root's alone (mode 0700)")


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = f"{HOME}/.{SOCKET}"
    listener.bind(made)
    os.chmod(made, 0o660)
    listener.listen(64)
    os.rename(made, f"{HOME}/{SOCKET}")  # whoever sees it can connect
    return listener


def main() -> None:
    """Never returns."""
    os.umask(0o022)
    failed_fd = os.open(f"{HOME}/{FAILED}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o660)
    try:
        _serve(failed_fd)
    except BaseException:
        os.write(failed_fd, traceback.format_exc().encode()[-4000:])
        raise


def _serve(failed_fd: int) -> None:
    from executor_service.guest.main import Guest

    _check_home()
    with open(CONFIG, "rb") as file:
        config = json.loads(file.read(MAX_REQUEST))
    identity = Identity.of({**config, "many_uids": True})
    if os.getsid(0) != os.getpid():
        os.setsid()  # see `procs`: what is in this session is ours
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guest = Guest(_listen(), identity, Container(config, identity, os.dup(failed_fd)))
    if config["warm"] != "none":
        guest.arm()
    if config["warm"] == "kernel":
        guest.rehearse()
    guest.require_watch()
    guest.serve()


if __name__ == "__main__":
    main()
