"""Kernels that are started by exec, each in a tree of its own: any program that speaks Jupyter's protocol.

Process 1 holds them by name, beside the warm Python's kernel, and each has a *keeper*: a child of
process 1 that starts it as user code, reaps what it leaves behind, and ends its tree. They listen on the
sandbox's loopback: not all of them can do ipc sockets, nor leave those open to the relay's uid. Not here:
what is said to them (`relay`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from executor_service.guest import channel, linux, procs
from executor_service.guest.kernel_frames import CHANNELS
from executor_service.guest.launch import WORKSPACE, start_process
from executor_service.guest.privileges import Identity
from executor_service.guest.state import Lease

ROOM = "/run/kernel"
START_TIME = 10.0  # seconds until a keeper must have started its kernel's program
FIRST_PORT, LAST_PORT = 20_000, 32_000  # below those that the system hands out: a client never meets itself
ATTEMPTS = 1000
_SHELL = 'umask 077; printf %s "$1" > "$2" && umask 022 && shift 2 && exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Started:
    """A kernel that was started; it may have ended. `pid` leads its process group."""

    name: str
    keeper: int
    control: socket.socket  # the keeper ends the tree when this closes
    status: int  # a pipe: JSON when it has ended
    pid: int
    pidfd: int
    ports: Mapping[str, int]  # by the names in `CHANNELS`
    key: bytes  # that messages to it are signed with
    by_message: bool  # it is interrupted by a message, not by a signal

    def send_signal(self, number: signal.Signals) -> None:
        """To its process group, as Ctrl-C would be; nothing if it has ended."""
        if not select.select([self.pidfd], [], [], 0)[0]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        self.control.close()
        channel.close([self.status, self.pidfd])


class Kernels:
    """What process 1 holds: the last kernel that was started under each name."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._started: dict[str, Started] = {}

    def get(self, name: str) -> Started | None:
        """The kernel of that name, alive or not."""
        return self._started.get(name)

    def start(self, order: Mapping[str, Any], lease: Lease) -> Started:
        """A fresh kernel in place of the one of that name.

        `order`: `name`, `argv` (`{connection_file}` stands for that path), `env`, `open_files`, `interrupt`.

        Raises:
            OSError, EOFError, ValueError: it cannot be started.
        """
        name = str(order["name"])
        self.end(name)
        ports = dict(zip((*CHANNELS, "hb"), _free_ports(len(CHANNELS) + 1), strict=True))
        key = os.urandom(16).hex()
        ours, theirs = channel.pair()
        status, status_write = os.pipe2(os.O_CLOEXEC)
        keeper = os.fork()
        if keeper == 0:
            _keep(
                _program(order, name, _connection(name, ports, key)),
                theirs,
                status_write,
                self._identity,
                lease,
            )
        theirs.close()
        os.close(status_write)
        try:
            ours.settimeout(START_TIME)
            told, _ = channel.receive(ours)
            if "pid" not in told:
                raise OSError(f"kernel {name}: {told.get('error')}")
            ours.settimeout(None)
            pid = int(told["pid"])
            pidfd = os.pidfd_open(pid)
        except BaseException:
            ours.close()
            os.close(status)
            raise
        kernel = self._started[name] = Started(
            name=name,
            keeper=keeper,
            control=ours,
            status=status,
            pid=pid,
            pidfd=pidfd,
            ports={each: ports[each] for each in CHANNELS},
            key=key.encode(),
            by_message=order.get("interrupt") == "message",
        )
        return kernel

    def end(self, name: str) -> None:
        """Kill it and all that it started; nothing if there is none."""
        kernel = self._started.pop(name, None)
        if kernel is None:
            return
        if not procs.kill_all(lambda: procs.operation_processes(kernel.keeper)):
            os._exit(1)  # a tree that cannot be killed: give the whole sandbox up
        kernel.close()


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has. Raises OSError: user code took them all."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for _ in range(ATTEMPTS):
            port = FIRST_PORT + int.from_bytes(os.urandom(4)) % (LAST_PORT - FIRST_PORT)
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError("no ports are left for a kernel")


def _connection(name: str, ports: Mapping[str, int], key: str) -> str:
    """The text of the kernel's connection file."""
    return json.dumps(
        {
            **{f"{each}_port": port for each, port in ports.items()},
            "ip": "127.0.0.1",
            "transport": "tcp",
            "key": key,
            "signature_scheme": "hmac-sha256",
            "kernel_name": name,
        }
    )


def _program(order: Mapping[str, Any], name: str, connection: str) -> dict[str, Any]:
    """What is started: a shell, as the user, that writes the connection file and becomes the kernel."""
    path = f"{ROOM}/{name}.json"
    argv = [str(word).replace("{connection_file}", path) for word in order["argv"]]
    return {
        "argv": ["/bin/sh", "-c", _SHELL, "sh", connection, path, *argv],
        "env": order["env"],
        "cwd": WORKSPACE,
        "limits": {"open_files": int(order["open_files"])},
    }


def _keep(
    program: dict[str, Any], control: socket.socket, status: int, identity: Identity, lease: Lease
) -> NoReturn:
    """The keeper's whole life."""
    try:
        channel.close_others([control.fileno(), status])
        children = _hear_of_children()
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            pid, pidfd = start_process(program, [null, null, null], identity, lease.processes)
        except OSError as error:
            channel.send(control, {"error": str(error)[:1000]})
            os._exit(1)
        os.close(pidfd)
        channel.send(control, {"pid": pid})
        how = _wait_end(pid, control, children)
        procs.kill_all(lambda: procs.operation_processes(os.getpid()))
        with contextlib.suppress(OSError):
            os.write(status, json.dumps({} if how is None else {"status": how}).encode())
    finally:
        os._exit(0)


def _hear_of_children() -> int:
    """A descriptor that is readable when a child has ended."""
    wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return wakeup


def _wait_end(pid: int, control: socket.socket, children: int) -> int | None:
    """Until the kernel has ended, which gives its wait status, or process 1 lets go of it. Reaps orphans."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(children, select.POLLIN)
    while True:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == pid:
                    return ended[1]
        for fd, _ in poll.poll():
            if fd != children:
                return None
            with contextlib.suppress(BlockingIOError):
                os.read(children, 4096)
