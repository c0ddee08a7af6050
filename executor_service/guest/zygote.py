"""A warm interpreter that is forked into sandboxes: `Zygote` is the nursery's handle, `main` the process.

The zygote is exec'd with a clean environment inside the template root, imports what its flavour needs
("program": the image's packages; "light": none; "kernel": the packages and ipykernel), and then only
forks. Each child enters one sandbox's namespaces, becomes user code, and is that sandbox's *armed*
interpreter: it turns into the program of a run, or is the session's kernel. The zygote reports the
child's end through a pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

LIB = "/opt/codecell/lib"
PYTHON = "/opt/codecell/env/bin/python3"
FLAVOURS = ("program", "light", "kernel")
CONTROL = 3  # the descriptor of a zygote's socket
RENEW_AFTER = 5000  # forks share their zygote's hash seed and address layout: see docs/security.md
RENEW_PAUSE = 60.0  # seconds before the next attempt, where a successor failed
QUICK = 10.0  # seconds: a zygote that ends so early did not start
MAX_QUICK_ENDS = 3

BOOT = {
    "PYTHONPATH": f"{LIB}/executor_service/guest/boot",
    "CODECELL_ZYGOTE": "executor_service.guest.zygote:main",
}


class _Process(NamedTuple):
    pid: int
    control: socket.socket
    started: float


class Zygote:
    """The nursery's handle on the zygote of one flavour; renews the process now and then."""

    def __init__(self, flavour: str, config: dict[str, Any]) -> None:
        self._flavour = flavour
        self._config = config
        self._current = _start(flavour, config)
        self._next: _Process | None = None
        self._renew_from = 0.0
        self._retired: set[int] = set()
        self._forks = 0
        self._quick_ends = 0

    def wait_ready(self) -> None:
        """Block until the imports are done.

        Raises:
            RuntimeError: the zygote ended instead; its traceback is on stderr.
        """
        if not _hear_ready(self._current):
            raise RuntimeError(f"the {self._flavour} zygote did not start; see the service's stderr")

    def fork_into(self, fds: Sequence[int]) -> None:
        """Ask for a fork: `fds` are the sandbox's pidfd, a control socket, a status pipe, cgroup files."""
        from executor_service.guest import channel

        self._renew()
        self._forks += 1
        with contextlib.suppress(OSError):  # a dead zygote: the guest sees its sockets close
            channel.send(self._current.control, {"op": "fork"}, fds)

    def owns(self, pid: int) -> bool:
        """Whether `pid` is a process of this zygote."""
        return pid in {self._current.pid, self._next.pid if self._next else 0, *self._retired}

    def on_exit(self, pid: int) -> None:
        """A process of ours ended: one that was told to is forgotten, another is replaced.

        Raises:
            RuntimeError: several in a row ended as soon as they were started.
        """
        if pid in self._retired:
            self._retired.discard(pid)
        elif self._next and pid == self._next.pid:
            self._next.control.close()
            self._next = None
            self._renew_from = time.monotonic() + RENEW_PAUSE
        else:
            self._current.control.close()
            quick = time.monotonic() - self._current.started < QUICK
            self._quick_ends = self._quick_ends + 1 if quick else 0
            if self._quick_ends == MAX_QUICK_ENDS:
                raise RuntimeError(f"the {self._flavour} zygote does not start; see the service's stderr")
            self._current = _start(self._flavour, self._config)
            self._forks = 0

    def _renew(self) -> None:
        if self._forks >= RENEW_AFTER and self._next is None and time.monotonic() >= self._renew_from:
            self._next = _start(self._flavour, self._config)
        if self._next and select.select([self._next.control], [], [], 0)[0] and _hear_ready(self._next):
            self._retired.add(self._current.pid)
            self._current.control.close()  # it ends when its last child has
            self._current, self._next, self._forks = self._next, None, 0


def _hear_ready(process: _Process) -> bool:
    try:
        return bool(process.control.recv(64))
    except ConnectionResetError:  # it ended without having read its configuration
        return False


def _start(flavour: str, config: dict[str, Any]) -> _Process:
    from executor_service.guest import channel

    ours, theirs = channel.pair()
    pid = os.fork()
    if pid:
        theirs.close()
        with contextlib.suppress(OSError):  # it ended already: `on_exit` is told
            channel.send(ours, {**config, "flavour": flavour})
        return _Process(pid, ours, time.monotonic())
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(theirs.fileno(), CONTROL)
        os.closerange(CONTROL + 1, 1 << 30)
        os.chdir("/workspace")
        os.execve(PYTHON, ["python3", "main.py"], {**config["environment"], **BOOT})
    finally:
        os._exit(127)


def main() -> None:
    """The zygote process, called by `boot/sitecustomize.py`; returns only in a child: its program."""
    from executor_service.guest import channel, forking, linux

    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=CONTROL)
    config, _ = channel.receive(control)
    try:
        forking.serve(config, control)
    except Exception:
        traceback.print_exc()
        os._exit(1)
