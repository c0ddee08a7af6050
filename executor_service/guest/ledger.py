"""What process 1 knows of operations that outlive their connection, and what it holds for the service.

A *kept* operation's handler has a socket to process 1, over which later connections are passed to it.
The *stash* holds bytes that the service wants to find again after a restart and to write on no disk: a
session's variables, the events of operations that have ended. It is memory of the sandbox's, bounded.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from typing import Any

from executor_service.guest import channel
from executor_service.guest.protocol import CHUNK, Kind, ProtocolError, pack, recv_frame, send_json

NAME_LENGTH = 128
STASH_ITEMS = 256
STASH_BYTES = 32 * 1024 * 1024  # in all
ITEM_BYTES = 16 * 1024 * 1024


class Unknown(ValueError):
    """Nothing is kept or stashed under this name."""

    code = "unknown"


class Item:
    """Something in the stash; `until` is an instant of the monotonic clock, None for the sandbox's life."""

    def __init__(self, memory: int, until: float | None) -> None:
        self.memory = memory
        self.until = until

    @property
    def whole(self) -> bool:
        """Whether all of it has come: its writer has sealed it."""
        return bool(fcntl.fcntl(self.memory, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)

    @property
    def size(self) -> int:
        return os.fstat(self.memory).st_size


class Ledger:
    """Process 1's book of both."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[socket.socket, int]] = {}  # name -> its control, its handler's pid
        self._stash: dict[str, Item] = {}  # oldest first

    # -- kept operations --------------------------------------------------------------------------

    def keep(self, name: str, control: socket.socket, pid: int) -> None:
        """The handler `pid` keeps an operation; another one of this name is let go."""
        self.drop(name)
        control.setblocking(False)
        self._kept[check_name(name)] = (control, pid)

    def names(self) -> list[str]:
        """Which operations are kept."""
        return list(self._kept)

    def attach(self, name: str, connection: socket.socket, after: int) -> None:
        """Pass a connection on to the operation. Raises Unknown, OSError: it does not take it."""
        if name not in self._kept:
            raise Unknown(f"no operation {name[:NAME_LENGTH]!r} is kept")
        channel.send(self._kept[name][0], {"word": "attach", "after": after}, [connection.fileno()])

    def drop(self, name: str) -> None:
        """Let an operation go: its handler ends, with what it runs."""
        if name in self._kept:
            self._kept.pop(name)[0].close()

    def ended(self, pid: int) -> None:
        """A child of process 1 has ended."""
        for name, (control, handler) in list(self._kept.items()):
            if handler == pid:
                control.close()
                del self._kept[name]

    # -- the stash --------------------------------------------------------------------------------

    def open(self, name: str, seconds: float | None) -> int:
        """A memory file that becomes the item `name` once it is written and sealed (see `fill`)."""
        check_name(name)
        self._trim()
        self._remove(name)
        memory = os.memfd_create("stash", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        until = None if seconds is None else time.monotonic() + seconds
        self._stash[name] = Item(memory, until)
        return memory

    def find(self, name: str) -> int:
        """The memory file of an item. Raises Unknown."""
        self._trim()
        item = self._stash.get(name)
        if item is None or not item.whole:
            raise Unknown(f"nothing is stashed as {name[:NAME_LENGTH]!r}")
        return item.memory

    def _trim(self) -> None:
        now = time.monotonic()
        for name, item in list(self._stash.items()):
            if item.until is not None and item.until <= now:
                self._remove(name)
        passing = [name for name, item in self._stash.items() if item.until is not None]
        size = sum(item.size for item in self._stash.values())
        while passing and (size > STASH_BYTES or len(self._stash) >= STASH_ITEMS):
            size -= self._stash[passing[0]].size
            self._remove(passing.pop(0))

    def _remove(self, name: str) -> None:
        if item := self._stash.pop(name, None):
            os.close(item.memory)


def check_name(name: object) -> str:
    """Raises ValueError: no name."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH:
        raise ValueError("a name has 1 to 128 characters")
    return name


def fill(connection: socket.socket, memory: int) -> None:
    """In a handler: write what the service sends and seal it, so that it is there whole or not at all."""
    size = 0
    while True:
        kind, data = recv_frame(connection, CHUNK * 16)
        if kind is not Kind.DATA:
            raise ProtocolError("expected data")
        if not data:
            break
        size += len(data)
        if size > ITEM_BYTES:
            os.ftruncate(memory, 0)
            raise ProtocolError(f"more than {ITEM_BYTES} bytes")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(memory, rest) :]
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    send_json(connection, {"type": "ok"})


def pour(connection: socket.socket, memory: int) -> None:
    """In a handler: send an item."""
    send_json(connection, {"type": "ok"})
    at = 0
    while data := os.pread(memory, CHUNK, at):
        connection.sendall(pack(Kind.DATA, data))
        at += len(data)
    connection.sendall(pack(Kind.DATA, b""))


def answer(connection: socket.socket, ledger: Ledger, request: dict[str, Any]) -> bool:
    """Deal with the operations that need no handler; False for any other."""
    match request["op"]:
        case "attach":
            ledger.attach(str(request["id"]), connection, int(request.get("after", 0)))
        case "drop":
            ledger.drop(str(request["id"]))
            send_json(connection, {"type": "ok"})
        case "kept":
            send_json(connection, {"type": "kept", "ids": ledger.names()})
        case _:
            return False
    return True
