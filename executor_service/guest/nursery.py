"""The local backend's process that forks sandboxes: process 1 of a pid namespace that holds them all.

Started by the service as ``python -I -S nursery.py`` with one SOCK_SEQPACKET socket (`--control`). It
builds the template root, starts the image's zygotes, and then serves the service's requests:

    {"op": "create", "id", "warm", "disk_bytes", "network", "uid_base"} + [listening socket, *cgroup files]
    {"op": "kill", "id"}

and reports {"event": "ready"} once, then {"event": "created"|"failed"|"exited", "id", "detail"?}.
When the service ends, for whatever reason, so does this process, and with it everything it holds.
Single-threaded, no code of users, never in any sandbox.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, "/opt/codecell/lib")

from executor_service.guest import channel, linux
from executor_service.guest import main as guest
from executor_service.guest.privileges import Identity
from executor_service.guest.zygote import FLAVOURS, Zygote

CREATE_TIMEOUT = 20.0
MAX_ARMINGS = 200  # kernels started again in one sandbox, at most
SHARED_COUNTS = {"max_inotify_instances": 8, "max_inotify_watches": 8192}

_SANDBOX_NAMESPACES = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
)


@dataclass
class _Sandbox:
    id: str
    pid: int
    pidfd: int
    boot: socket.socket
    warm: str
    cgroup_fds: list[int]
    deadline: float | None
    armings: int = 0
    failure: str | None = field(default=None)


class Nursery:
    """The loop: requests from the service, words from guests, ends of guests and zygotes."""

    def __init__(self, control: socket.socket, identity: Identity, zygotes: dict[str, Zygote]) -> None:
        self._control = control
        self._identity = identity
        self._zygotes = zygotes
        self._sandboxes: dict[str, _Sandbox] = {}
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def serve(self) -> None:
        """Until the service is gone."""
        wakeup = _watch_children()
        self._watch(self._control.fileno(), self._on_request)
        self._watch(wakeup, lambda: self._on_children(wakeup))
        self._tell({"event": "ready"})
        while True:
            for fd, _ in self._poll.poll(self._timeout()):
                handler = self._handlers.get(fd)
                if handler:
                    handler()
            self._expire()

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._poll.unregister(fd)

    def _tell(self, message: dict[str, Any]) -> None:
        channel.send(self._control, message)

    def _on_request(self) -> None:
        try:
            request, fds = channel.receive(self._control)
        except EOFError:
            os._exit(0)
        if request["op"] == "create":
            try:
                self._create(request, fds)
            except OSError as error:
                self._tell({"event": "failed", "id": request["id"], "detail": str(error)})
                self._tell({"event": "exited", "id": request["id"]})
            finally:
                channel.close(fds)
        elif request["op"] == "kill":
            sandbox = self._sandboxes.get(request["id"])
            if sandbox:
                self._kill(sandbox, None)

    def _create(self, request: dict[str, Any], fds: list[int]) -> None:
        ours, theirs = channel.pair()
        pid, pidfd = linux.clone(_SANDBOX_NAMESPACES)
        if pid == 0:
            _guest_main(theirs, fds, request, self._identity)
        theirs.close()
        sandbox = _Sandbox(
            id=request["id"],
            pid=pid,
            pidfd=pidfd,
            boot=ours,
            warm=request["warm"],
            cgroup_fds=[os.dup(fd) for fd in fds[1:]],
            deadline=time.monotonic() + CREATE_TIMEOUT,
        )
        self._sandboxes[sandbox.id] = sandbox
        self._watch(ours.fileno(), lambda: self._on_guest(sandbox))
        try:
            _write_id_maps(pid, request["uid_base"])
            channel.send(ours, {"go": True})
        except OSError as error:
            self._kill(sandbox, f"uid map: {error}")

    def _on_guest(self, sandbox: _Sandbox) -> None:
        """A word from process 1 of a sandbox; it is ours, but it may have been broken into."""
        try:
            message, fds = channel.receive(sandbox.boot)
        except (EOFError, OSError, ValueError, RecursionError, TypeError):
            self._unwatch(sandbox.boot.fileno())
            return
        word = message.get("word")
        if (
            word == "arm"
            and len(fds) == 2
            and sandbox.armings < MAX_ARMINGS
            and sandbox.warm in self._zygotes
        ):
            sandbox.armings += 1
            self._zygotes[sandbox.warm].fork_into([sandbox.pidfd, *fds, *sandbox.cgroup_fds])
        elif word == "ready" and sandbox.deadline is not None:
            sandbox.deadline = None
            self._tell({"event": "created", "id": sandbox.id})
        elif word == "failed" and sandbox.deadline is not None:
            self._kill(sandbox, str(message.get("detail"))[:2000])
        elif word == "failed":  # a guest has no stderr of its own; one such word, then it is killed
            sys.stderr.write(f"codecell guest {sandbox.id}: {str(message.get('detail'))[:2000]!r}\n")
            self._unwatch(sandbox.boot.fileno())
            self._kill(sandbox, None)
        channel.close(fds)

    def _kill(self, sandbox: _Sandbox, failure: str | None) -> None:
        sandbox.failure = sandbox.failure or failure
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(sandbox.pidfd, signal.SIGKILL)

    def _on_children(self, wakeup: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._on_exit(pid, status)

    def _on_exit(self, pid: int, status: int) -> None:
        for zygote in self._zygotes.values():
            if zygote.owns(pid):
                zygote.on_exit(pid)
                return
        for sandbox in self._sandboxes.values():
            if sandbox.pid == pid:
                self._forget(sandbox, status)
                return

    def _forget(self, sandbox: _Sandbox, status: int) -> None:
        del self._sandboxes[sandbox.id]
        self._unwatch(sandbox.boot.fileno())
        sandbox.boot.close()
        channel.close([sandbox.pidfd, *sandbox.cgroup_fds])
        if sandbox.deadline is not None:
            detail = sandbox.failure or f"the guest ended while starting (status {status})"
            self._tell({"event": "failed", "id": sandbox.id, "detail": detail})
        self._tell({"event": "exited", "id": sandbox.id})

    def _timeout(self) -> float | None:
        deadlines = [s.deadline for s in self._sandboxes.values() if s.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1 if deadlines else None

    def _expire(self) -> None:
        now = time.monotonic()
        for sandbox in list(self._sandboxes.values()):
            if sandbox.deadline is not None and sandbox.deadline < now:
                self._kill(sandbox, f"not ready within {CREATE_TIMEOUT:g} s")


def _watch_children() -> int:
    """A descriptor that becomes readable when a child ends."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


def _write_id_maps(pid: int, uid_base: int | None) -> None:
    """Map 0, 1000 and 1001 to three host ids from `uid_base`, or only 1000 to 1000 when there is one uid."""
    if uid_base is None:
        text = "1000 1000 1\n"
    else:
        text = f"0 {uid_base} 1\n1000 {uid_base + 1} 1\n1001 {uid_base + 2} 1\n"
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def _guest_main(boot: socket.socket, fds: list[int], request: dict[str, Any], identity: Identity) -> None:
    """In the new process 1: never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close_others([boot.fileno(), *fds])
        channel.leave_standard_streams()
        _bound_shared_counts()
        guest.start(boot, fds[0], fds[1:], request, identity)
        status = 0
    except BaseException:
        with contextlib.suppress(OSError):
            channel.send(boot, {"word": "failed", "detail": traceback.format_exc()[-2000:]})
        time.sleep(1)  # let the word be read before the end is seen
    finally:
        os._exit(status)


def _bound_shared_counts() -> None:
    """Of what Linux counts for the maker of a user namespace too (one account for all sandboxes and a host
    user), a sandbox gets a small part: else code could use it up for all. See namespaces(7), /proc/sys/user.
    """
    for name, most in SHARED_COUNTS.items():
        path = f"/proc/sys/user/{name}"
        with contextlib.suppress(FileNotFoundError), open(path, "r+") as file:
            if int(file.read()) > most:
                file.seek(0)
                file.write(str(most))


def main() -> None:
    """Process 1 of the nursery's pid namespace, inside the template root."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the service's business
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    config, _ = channel.receive(control)
    identity = Identity.of(config)
    zygotes: dict[str, Zygote] = {}
    try:
        for flavour in FLAVOURS:
            zygotes[flavour] = Zygote(flavour, config)
        for zygote in zygotes.values():
            zygote.wait_ready()
        gc.collect()
        gc.freeze()
        Nursery(control, identity, zygotes).serve()
    except Exception:
        channel.send(control, {"event": "broken", "detail": traceback.format_exc()[-4000:]})
        raise


if __name__ == "__main__":
    main()
