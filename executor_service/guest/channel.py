"""Small JSON messages with descriptors over SOCK_SEQPACKET pairs, among our own processes on one host."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

MAX_MESSAGE = 64 * 1024
MAX_FDS = 16


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair; each end keeps message borders."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(message).encode()], ancillary)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and the descriptors that came with it (close-on-exec).

    Raises:
        EOFError: the peer is gone.
        ValueError, RecursionError, TypeError: what it sent is no message.
    """
    fds = array.array("i")
    try:
        data, ancillary, _, _ = sock.recvmsg(
            MAX_MESSAGE, socket.CMSG_LEN(MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        raise EOFError from None
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not data:
        close(fds)
        raise EOFError
    message = json.loads(data)
    if not isinstance(message, dict):
        close(fds)
        raise TypeError("a message must be an object")
    return message, list(fds)


def close(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def close_others(keep: Sequence[int]) -> None:
    """Close every descriptor but 0, 1, 2 and `keep`."""
    low = 3
    for fd in sorted(set(keep)):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, 1 << 30)


def leave_standard_streams() -> None:
    """Leave the service's for /dev/null: through ours, the sandbox's code could read the service's log."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
