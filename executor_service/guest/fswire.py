"""Content in and listings out of a file operation, over its connection.

Used by the calls of :mod:`executor_service.guest.files`; knows frames, not files.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Any

from executor_service.guest import protocol
from executor_service.guest.fspaths import Refusal
from executor_service.guest.protocol import CHUNK, Kind

_FRAME_BYTES = 48 * 1024  # of paths in one frame of a listing


class Incoming:
    """The content that comes in DATA frames until an empty one; a file object for tarfile.

    Raises EOFError when the host goes away before the end.
    """

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._buffer = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer only at the end."""
        return b"".join(self._parts(size))

    def take(self, size: int) -> Iterator[bytes]:
        """Exactly `size` bytes in chunks.

        Raises:
            Refusal: the content ends before.
        """
        for part in self._parts(size):
            size -= len(part)
            yield part
        if size:
            raise Refusal("invalid_request", "less content than announced")

    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        while chunk := self._next():
            yield chunk

    def _parts(self, size: int) -> Iterator[bytes]:
        while size > 0 and (chunk := self._next()):
            part, self._buffer = chunk[:size], chunk[size:]
            size -= len(part)
            yield part

    def _next(self) -> bytes:
        if self._buffer:
            chunk, self._buffer = self._buffer, b""
            return chunk
        if self._ended:
            return b""
        kind, payload = protocol.recv_frame(self._conn, 1 << 20)
        if kind is not Kind.DATA:
            raise protocol.ProtocolError(f"expected a DATA frame, got {kind.name}")
        self._ended = not payload
        return payload


def send_content(conn: socket.socket, content: bytes) -> None:
    """Send `content` as DATA frames and the empty one that ends them."""
    for start in range(0, len(content), CHUNK):
        conn.sendall(protocol.pack(Kind.DATA, content[start : start + CHUNK]))
    conn.sendall(protocol.pack(Kind.DATA, b""))


def send_batches(conn: socket.socket, kind: str, field: str, items: Iterable[list[Any]]) -> None:
    """Send `items`, whose first element is a path, in frames of a bounded size."""
    batch: list[list[Any]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += 64 + 6 * len(item[0])
        if size > _FRAME_BYTES:
            protocol.send_json(conn, {"type": kind, field: batch})
            batch, size = [], 0
    if batch:
        protocol.send_json(conn, {"type": kind, field: batch})


def natural(call: dict[str, Any], field: str, default: int | None) -> int | None:
    """The whole number in a request's field.

    Raises:
        Refusal: `invalid_request` where it is something else.
    """
    value = call.get(field, default)
    if value is None or (type(value) is int and 0 <= value < 1 << 63):
        return value
    raise Refusal("invalid_request", f"{field!r} must be a whole number, not negative")
