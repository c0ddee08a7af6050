"""A small ZMTP 3.0 client over a connected Unix socket: NULL mechanism, DEALER and SUB, no threads.

Enough to talk to a Jupyter kernel (https://rfc.zeromq.org/spec/23/), and no more: it lets the relay
do without libzmq, its threads and its context. The peer is hostile: greeting, frames, commands and
whole messages are bounded, and a message that is too large is skipped, not kept. Not here: what the
messages mean.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_MESSAGE = 32 * 1024 * 1024  # bytes of all parts of one message
MAX_PARTS = 64
MAX_COMMAND = 8 * 1024
RECEIVE = 256 * 1024  # bytes read at once

_GREETING_SIZE = 64
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_LONG_SIZE = struct.Struct(">Q")
_PROPERTY_SIZE = struct.Struct(">I")


class ZmtpError(Exception):
    """The peer does not speak ZMTP 3 with the NULL mechanism, or broke it."""


@dataclass(frozen=True, kw_only=True)
class Oversize:
    """Stands for a message that was skipped: it had `size` bytes, or too many parts."""

    size: int


Message = list[bytes] | Oversize


class Connection:
    """One ZMTP connection over a connected, non-blocking stream socket.

    `receive` when `fileno()` is readable, `flush` when it is writable and `wants_write`. `ready`
    turns true once the peer's READY has come; messages sent before that wait for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        socket_type: Literal["DEALER", "SUB"],
        *,
        identity: bytes = b"",
        max_message: int = MAX_MESSAGE,
        max_parts: int = MAX_PARTS,
    ) -> None:
        self._sock = sock
        self._type = socket_type
        self._decoder = _Decoder(max_message, max_parts)
        properties = _property(b"Socket-Type", socket_type.encode())
        if socket_type == "DEALER":
            properties += _property(b"Identity", identity)
        self._out = bytearray(_GREETING + _command(b"READY", properties))
        self._waiting = bytearray()
        self.ready = False
        self.closed = False

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._out) and not self.closed

    @property
    def buffered(self) -> int:
        """Bytes that wait to be written."""
        return len(self._out) + len(self._waiting)

    def receive(self) -> list[Message]:
        """What one read gives: whole messages, oldest first. `closed` turns true at the end.

        Raises:
            ZmtpError: the peer broke the protocol; the connection is of no more use.
        """
        try:
            data = self._sock.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return []
        messages: list[Message] = []
        for item in self._decoder.feed(data):
            if isinstance(item, bytes):
                self._obey(item)
            elif self.ready:
                messages.append(item)
            else:
                raise ZmtpError("message before READY")
        return messages

    def send(self, parts: Sequence[bytes]) -> None:
        """Queue one message and write as much as the socket takes."""
        out = self._out if self.ready else self._waiting
        last = len(parts) - 1
        for index, part in enumerate(parts):
            out += _frame(0 if index == last else _MORE, part)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes now."""
        try:
            while self._out and not self.closed:
                del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.closed = True

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self.closed = True
        self._sock.close()

    def _obey(self, command: bytes) -> None:
        name, body = _command_name(command)
        if name == b"READY":
            if self.ready:
                raise ZmtpError("READY twice")
            self.ready = True
            if self._type == "SUB":  # earlier, libzmq would lose it silently
                self._out += _frame(0, b"\x01")
            self._out += self._waiting
            self._waiting.clear()
        elif name == b"PING":
            self._out += _command(b"PONG", body[2:18])
        elif name == b"ERROR":
            raise ZmtpError("peer refused the connection")
        self.flush()


class _Decoder:
    """Bytes in, commands (`bytes`) and messages (`list` or `Oversize`) out."""

    def __init__(self, max_message: int, max_parts: int) -> None:
        self._max_message, self._max_parts = max_message, max_parts
        self._buffer = bytearray()
        self._greeted = False
        self._flags = -1  # of the frame in progress; -1 between frames
        self._left = 0  # bytes of it that are still to come
        self._frame = bytearray()
        self._parts: list[bytes] = []
        self._size = 0  # of the message in progress
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | list[bytes] | Oversize]:
        """Raises ZmtpError."""
        self._buffer += data
        if not self._greeted and not self._greet():
            return
        while self._flags >= 0 or self._header():
            taken = self._buffer[: self._left]
            del self._buffer[: len(taken)]
            self._left -= len(taken)
            if not self._skipping or self._flags & _COMMAND:
                self._frame += taken
            if self._left:
                return
            flags, self._flags = self._flags, -1
            frame, self._frame = bytes(self._frame), bytearray()
            if flags & _COMMAND:
                yield frame
                continue
            if not self._skipping:
                self._parts.append(frame)
            if not flags & _MORE:
                yield self._end_message()

    def _greet(self) -> bool:
        start = self._buffer[:_GREETING_SIZE]
        if (start and start[0] != 0xFF) or (len(start) > 9 and not start[9] & 1):
            raise ZmtpError("no ZMTP greeting")
        if len(start) < _GREETING_SIZE:
            return False
        if start[10] < 3 or start[12:32].rstrip(b"\0") != b"NULL":
            raise ZmtpError("not ZMTP 3 with the NULL mechanism")
        del self._buffer[:_GREETING_SIZE]
        self._greeted = True
        return True

    def _header(self) -> bool:
        """Begin a frame, if its header is there."""
        if not self._buffer:
            return False
        flags = self._buffer[0]
        size = 9 if flags & _LONG else 2
        if len(self._buffer) < size:
            return False
        length = _LONG_SIZE.unpack_from(self._buffer, 1)[0] if flags & _LONG else self._buffer[1]
        del self._buffer[:size]
        if flags & _COMMAND:
            if flags & _MORE or length > MAX_COMMAND:
                raise ZmtpError("bad command frame")
        else:
            self._size += length
            if self._size > self._max_message or len(self._parts) >= self._max_parts:
                self._skipping = True
                self._parts.clear()
        if flags & ~(_MORE | _LONG | _COMMAND):
            raise ZmtpError("reserved flags")
        self._flags, self._left = flags, length
        return True

    def _end_message(self) -> list[bytes] | Oversize:
        message = Oversize(size=self._size) if self._skipping else self._parts
        self._parts, self._size, self._skipping = [], 0, False
        return message


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) > 255:
        return bytes((flags | _LONG,)) + _LONG_SIZE.pack(len(body)) + body
    return bytes((flags, len(body))) + body


def _command(name: bytes, body: bytes) -> bytes:
    return _frame(_COMMAND, bytes((len(name),)) + name + body)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + _PROPERTY_SIZE.pack(len(value)) + value


def _command_name(command: bytes) -> tuple[bytes, bytes]:
    if not command or len(command) < 1 + command[0]:
        raise ZmtpError("bad command")
    return command[1 : 1 + command[0]], command[1 + command[0] :]
