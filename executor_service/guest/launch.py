"""Starting a program under the user's uid, and handing descriptors to an armed interpreter."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import termios
from collections.abc import Sequence
from typing import Any

from executor_service.guest import channel
from executor_service.guest.deliver import set_limits, write_source
from executor_service.guest.privileges import Identity, become_user
from executor_service.guest.protocol import pack_json

WORKSPACE = "/workspace"
EXEC_TIMEOUT = 10.0  # seconds between a program's fork and its exec


def send_with_fds(control: socket.socket, message: dict[str, Any], fds: Sequence[int]) -> None:
    """One JSON frame whose first byte carries the descriptors."""
    data = memoryview(pack_json(message))
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    sent = control.sendmsg([data], ancillary)
    if sent < len(data):  # a peer that has it all may be gone already
        control.sendall(data[sent:])


def start_process(
    request: dict[str, Any], fds: Sequence[int], identity: Identity, processes: int | None
) -> tuple[int, int]:
    """Fork and exec `argv` as user code; its pid and a pidfd.

    Raises:
        OSError: the program cannot be started (its errno and file name).
    """
    failed_read, failed_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(request, fds, identity, processes, failed_write)
    os.close(failed_write)
    if not select.select([failed_read], [], [], EXEC_TIMEOUT)[0]:  # user code stopped it before its exec
        os.kill(pid, signal.SIGKILL)
    with open(failed_read, "rb") as pipe:
        failure = pipe.read(4096)
    if failure:
        os.waitpid(pid, 0)
        errno, name = json.loads(failure)
        raise OSError(errno, os.strerror(errno), name)
    return pid, os.pidfd_open(pid)


def _child(
    request: dict[str, Any], fds: Sequence[int], identity: Identity, processes: int | None, failed: int
) -> None:
    try:
        os.setsid()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        if request.get("tty"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.dup2(failed, 3, inheritable=False)
        channel.close_others([3])
        become_user(identity, processes)
        set_limits(request["limits"])
        write_source(WORKSPACE, request.get("source"))
        os.chdir(request["cwd"])
        argv = [os.fsencode(word) for word in request["argv"]]
        environment = {os.fsencode(k): os.fsencode(v) for k, v in request["env"].items()}
        _default_signals()
        os.environb.clear()
        os.environb.update(environment)  # execvp searches this PATH
        os.execvp(argv[0], argv)
    except OSError as error:
        with contextlib.suppress(OSError):
            name = error.filename if isinstance(error.filename, str) else request["argv"][0]
            os.write(3, json.dumps([error.errno or 1, name]).encode()[:4096])
    finally:
        os._exit(127)


def _default_signals() -> None:
    """What is ignored or blocked here would stay so across exec: the program starts as from a shell."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) != signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
