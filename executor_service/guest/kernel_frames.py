"""The payload of a KERNEL frame: one Jupyter message on one channel, for both ends.

Channel (1 byte), then each part as length (4 bytes, big endian) and bytes. The parts are those of
the Jupyter wire protocol after its delimiter: signature, header, parent_header, metadata, content,
buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from executor_service.guest import protocol
from executor_service.guest.protocol import Kind, ProtocolError

CHANNELS = ("shell", "iopub", "stdin", "control")  # a channel's number is its place here
SHELL, IOPUB, STDIN, CONTROL = range(4)
MIN_PARTS = 5
_SIZE = struct.Struct(">I")


def pack_message(channel: int, parts: Sequence[bytes]) -> bytes:
    """The whole KERNEL frame of one message."""
    body = bytes((channel,)) + b"".join(_SIZE.pack(len(part)) + part for part in parts)
    return protocol.pack(Kind.KERNEL, body)


def unpack_message(payload: bytes) -> tuple[int, list[bytes]]:
    """Channel and parts of a KERNEL frame's payload; at least `MIN_PARTS` parts.

    Raises:
        ProtocolError: no such channel, too few parts, or lengths that do not fit.
    """
    if not payload or payload[0] >= len(CHANNELS):
        raise ProtocolError("no such kernel channel")
    parts = list(_split(payload))
    if len(parts) < MIN_PARTS:
        raise ProtocolError("too few parts in a kernel message")
    return payload[0], parts


def _split(payload: bytes) -> Iterator[bytes]:
    at = 1
    while at < len(payload):
        start = at + _SIZE.size
        if start > len(payload):
            raise ProtocolError("cut kernel message")
        at = start + _SIZE.unpack_from(payload, at)[0]
        if at > len(payload):
            raise ProtocolError("cut kernel message")
        yield payload[start:at]
