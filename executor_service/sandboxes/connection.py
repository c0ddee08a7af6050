"""Frames of the guest protocol over an asyncio connection: the host's end of one operation.

What comes in is hostile: `executor_service.guest.protocol` bounds each frame before it is read,
and the stream's own buffer gives back-pressure. Not here: what the operations mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from executor_service.guest import protocol
from executor_service.guest.protocol import Kind, ProtocolError

__all__ = ["abandon", "read_frame", "read_json", "send_frame", "send_json"]


async def read_frame(reader: asyncio.StreamReader, limit: int = protocol.MAX_FRAME) -> tuple[Kind, bytes]:
    """The next frame: its kind and payload, at most `limit` bytes.

    Raises:
        EOFError: the peer closed, in the middle of a frame or between two.
        ProtocolError: not a frame of this protocol, or one that is too long.
    """
    try:
        header = await reader.readexactly(protocol.HEADER.size)
        kind, length = protocol.parse_header(header, limit)
        return kind, await reader.readexactly(length)
    except OSError as error:  # a reset is an end like any other
        raise EOFError("connection lost") from error


async def read_json(reader: asyncio.StreamReader, limit: int = protocol.MAX_FRAME) -> dict[str, Any]:
    """The object of the next frame, which must be JSON.

    Raises:
        EOFError: the peer closed.
        ProtocolError: another kind, or not a JSON object.
    """
    kind, payload = await read_frame(reader, limit)
    if kind is not Kind.JSON:
        raise ProtocolError(f"expected a JSON frame, got {kind.name}")
    return protocol.parse_json(payload)


async def send_frame(writer: asyncio.StreamWriter, kind: Kind, payload: bytes) -> None:
    """Send one frame; returns once the peer keeps up (back-pressure).

    Raises:
        EOFError: the peer closed.
    """
    try:
        writer.write(protocol.pack(kind, payload))
        await writer.drain()
    except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError on a closed transport
        raise EOFError("connection lost") from error


async def send_json(writer: asyncio.StreamWriter, value: Mapping[str, Any]) -> None:
    """Send one JSON frame; returns once the peer keeps up.

    Raises:
        EOFError: the peer closed.
    """
    await send_frame(writer, Kind.JSON, protocol.pack_json(dict(value))[protocol.HEADER.size :])


def abandon(writer: asyncio.StreamWriter) -> None:
    """Close at once, dropping what was not sent yet: the guest sees its operation's end."""
    writer.transport.abort()
