"""What a zygote does once it runs: import, then fork into sandboxes and report how each child ended."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from executor_service.guest import channel, linux
from executor_service.guest.privileges import Identity, become_user
from executor_service.guest.protocol import pack_json

if TYPE_CHECKING:
    from executor_service.guest.stash import Stash

HELD_PAUSE = 20  # milliseconds
KERNEL_DIRECTORY = "/run/kernel"
KERNEL_OPEN_FILES = (1024, 4096)  # soft and hard: the default of an operation, and its usual ceiling
_JOINED = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)


def serve(config: dict[str, Any], control: socket.socket) -> None:
    """Until the nursery lets go of `control` and the last child has ended; returns only in a child."""
    identity = Identity.of(config)
    flavour = config["flavour"]
    become = prepare(flavour, [] if flavour == "light" else config["preload"])
    control.send(b"ready")
    children: dict[int, tuple[int, int]] = {}  # pidfd -> (pid, status pipe)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    held: set[int] = set()  # ended, but user code traces it: it cannot be reaped until the tracer ends
    while True:
        for fd in list(held):
            if _report(fd, *children[fd]):
                held.discard(fd)
                del children[fd]
        for fd, _ in poll.poll(HELD_PAUSE if held else None):
            if fd in children:
                poll.unregister(fd)
                if _report(fd, *children[fd]):
                    del children[fd]
                else:
                    held.add(fd)
                continue
            try:
                _, fds = channel.receive(control)
            except EOFError:
                poll.unregister(control)
                continue
            try:
                pid = _fork(fds)
            except OSError as error:  # the sandbox is gone already, or no process may be made
                channel.close(fds)
                sys.stderr.write(f"codecell zygote: {error}\n")
                continue
            if pid == 0:
                _become(become, identity, fds)
                return
            status = os.dup(fds[2])
            channel.close(fds)
            pidfd = os.pidfd_open(pid)
            children[pidfd] = (pid, status)
            poll.register(pidfd, select.POLLIN)
        if not children and _closed(control):
            os._exit(0)


def prepare(
    flavour: str, preload: list[str], *, listening: Callable[[], None] | None = None
) -> Callable[[socket.socket], None]:
    """Import everything; what a child calls at last, or this process itself where it is not to be forked.

    Where it is not, `listening` is called when its kernel can be connected to; what a first kernel imports is
    then left to it. A child itself must import nothing of ours: to look for a hidden module copies hundreds
    of pages.
    """
    from executor_service.guest import armed, kernel_start

    gc.disable()  # what is imported stays: to look at it again and again is a tenth of the time
    stash = armed.prepare_zygote(preload)
    if flavour == "kernel":
        if listening is None:
            kernel_start.preload()
        become = partial(
            _become_kernel, stash, partial(kernel_start.run_kernel, listening=listening), bool(listening)
        )
    else:
        become = partial(armed.serve_armed, stash=stash)
        stash.hide()
    gc.enable()
    gc.collect()
    gc.freeze()
    return become


def _become_kernel(
    stash: Stash, run_kernel: Callable[[str], None], keep_control: bool, control: socket.socket
) -> None:
    if not keep_control:
        control.close()
    # An execution has no process of its own to limit. What hostile code may open and pass around is also what
    # it can use up of its host user's share (descriptors in flight are counted by user).
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = KERNEL_OPEN_FILES[1] if hard == resource.RLIM_INFINITY else min(KERNEL_OPEN_FILES[1], hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(KERNEL_OPEN_FILES[0], most), most))
    stash.go_live_as_kernel()
    run_kernel(KERNEL_DIRECTORY)
    os._exit(0)


def _closed(control: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False


def _report(pidfd: int, pid: int, status_pipe: int) -> bool:
    # Not wait4: it imports `resource`, which is hidden, and a module brought back must be hidden again.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended, status = os.waitpid(pid, os.WNOHANG)  # never block: a zygote serves every sandbox
    if not ended:
        return False
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {"status": status, "cpu_time": sum(after[:2]) - sum(before[:2])}
    with contextlib.suppress(OSError):
        os.write(status_pipe, json.dumps(report).encode())
    os.close(status_pipe)
    os.close(pidfd)
    return True


def _fork(fds: list[int]) -> int:
    linux.setns(fds[0], linux.CLONE_NEWPID)  # concerns the next fork only
    return os.fork()


def _become(become: Callable[[socket.socket], None], identity: Identity, fds: list[int]) -> None:
    """In the child: enter the sandbox, become user code, and be its kernel, or return as its program."""
    try:
        _enter(identity, fds)
        control = socket.socket(fileno=fds[1])
        channel.close_others([control.fileno()])
        channel.leave_standard_streams()
        os.setsid()
        os.chdir("/workspace")
        become_user(identity)
        control.sendall(pack_json({"word": "armed", "pid": os.getpid()}))
        become(control)
    except Exception:
        traceback.print_exc()  # our own failure: on the service's stderr, until that is left
        os._exit(70)


def _enter(identity: Identity, fds: list[int]) -> None:
    for fd in fds[3:]:
        os.write(fd, b"0")  # joins the cgroup: the file was opened by the service
    linux.setns(fds[0], _JOINED)
    if identity.many_uids:
        # From an unmapped uid, setresuid(1000) would keep every capability; from uid 0 it drops them.
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
