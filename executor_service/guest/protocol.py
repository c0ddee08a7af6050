"""The framed protocol between the service and a guest: one connection is one operation.

A frame is a kind (1 byte), a length (4 bytes, big endian) and a payload. The first frame of a
connection is JSON and names the protocol's version and the operation: ``{"v": 1, "op": "..."}``,
at most `MAX_REQUEST` bytes, because process 1 reads it; what is large follows in frames that the
operation's own process reads. docs/guest-protocol.md lists the operations.

This file serves both sides: blocking sockets here, asyncio in `executor_service.sandboxes.guest`.
"""

from __future__ import annotations

import json
import socket
import struct
from enum import IntEnum
from typing import Any

VERSION = 1
MAX_REQUEST = 64 * 1024
MAX_FRAME = 64 * 1024 * 1024
CHUNK = 64 * 1024
HEADER = struct.Struct(">BI")


class Kind(IntEnum):
    """What a frame's payload is."""

    JSON = 0  # one JSON object, UTF-8
    STDOUT = 1  # bytes that the program wrote
    STDERR = 2
    STDIN = 3  # bytes for the program
    DATA = 4  # bytes of a file or an archive, either way; an empty frame ends them
    KERNEL = 5  # one Jupyter message: channel (1 byte), then each part as length (4 bytes) + bytes


class ProtocolError(Exception):
    """The peer broke the protocol: unknown kind, oversized frame, bad JSON, or an early end."""


def pack(kind: Kind, payload: bytes) -> bytes:
    """A whole frame."""
    return HEADER.pack(kind, len(payload)) + payload


def pack_json(value: dict[str, Any]) -> bytes:
    """A JSON frame. Lone surrogates are written as escapes, so any `str` passes."""
    return pack(Kind.JSON, json.dumps(value, separators=(",", ":")).encode())


def parse_header(header: bytes, limit: int = MAX_FRAME) -> tuple[Kind, int]:
    """Kind and payload length of a frame.

    Raises:
        ProtocolError: an unknown kind, or a payload longer than `limit`.
    """
    kind, length = HEADER.unpack(header)
    if length > limit:
        raise ProtocolError(f"frame of {length} bytes, at most {limit} allowed")
    try:
        return Kind(kind), length
    except ValueError:
        raise ProtocolError(f"unknown frame kind {kind}") from None


def parse_json(payload: bytes) -> dict[str, Any]:
    """The object of a JSON frame.

    Raises:
        ProtocolError: not JSON, or not an object.
    """
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("frame is not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("frame is not a JSON object")
    return value


def recv_exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes from a blocking socket.

    Raises:
        EOFError: the peer closed first.
    """
    parts = bytearray()
    while len(parts) < size:
        chunk = sock.recv(min(size - len(parts), 1 << 20))
        if not chunk:
            raise EOFError
        parts += chunk
    return bytes(parts)


def recv_frame(sock: socket.socket, limit: int = MAX_FRAME) -> tuple[Kind, bytes]:
    """The next frame from a blocking socket.

    Raises:
        EOFError: the peer closed.
        ProtocolError: not a frame of this protocol.
    """
    kind, length = parse_header(recv_exactly(sock, HEADER.size), limit)
    return kind, recv_exactly(sock, length)


def recv_json(sock: socket.socket, limit: int = MAX_FRAME) -> dict[str, Any]:
    """The next frame, which must be JSON.

    Raises:
        EOFError: the peer closed.
        ProtocolError: another kind, or not a JSON object.
    """
    kind, payload = recv_frame(sock, limit)
    if kind is not Kind.JSON:
        raise ProtocolError(f"expected a JSON frame, got {kind.name}")
    return parse_json(payload)


def send_json(sock: socket.socket, value: dict[str, Any]) -> None:
    """Send one JSON frame on a blocking socket."""
    sock.sendall(pack_json(value))
