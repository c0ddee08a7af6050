"""Copying bytes both ways between two connections, within bounds of time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

CHUNK = 64 * 1024
FLUSH_TIME = 10.0  # seconds that a peer has to take what was sent to it before the end
_TORN = (OSError, RuntimeError, EOFError)  # uvloop raises RuntimeError on a closed transport


class End(NamedTuple):
    """One of the two connections."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Idle:
    """Notes when something last moved."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.moved()

    def moved(self) -> None:
        """Something did."""
        self._last = asyncio.get_running_loop().time()

    async def over(self) -> None:
        """Until nothing has moved for so long."""
        while (left := self._last + self._seconds - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)  # not an event, which would be set with each chunk


async def tunnel(inside: End, outside: End, *, idle_time: float) -> None:
    """Copy both ways until both have ended; the end of one is passed on to the other."""
    idle = Idle(idle_time)
    up = asyncio.create_task(copy(inside.reader, outside.writer, idle))
    down = asyncio.create_task(copy(outside.reader, inside.writer, idle))
    await _wait(idle, up, down, enough={up, down})


async def answer_one(inside: End, outside: End, *, body_bytes: int, idle_time: float) -> None:
    """Pass so many bytes of a request on, and the answer back to its end; nothing from behind the request."""
    idle = Idle(idle_time)
    up = asyncio.create_task(_request(inside.reader, outside.writer, idle, body_bytes))
    down = asyncio.create_task(copy(outside.reader, inside.writer, idle))
    await _wait(idle, up, down, enough={down})


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: Idle) -> bool:
    """Copy to the source's end and pass that on; False if either side was torn off."""
    with contextlib.suppress(*_TORN):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
            idle.moved()
        writer.write_eof()
        return True
    return False


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: Idle, size: int) -> bool:
    """Copy `size` bytes; False if they did not come, or more came. Does not end before the program does."""
    with contextlib.suppress(*_TORN):
        while size > 0:
            data = await reader.read(min(size, CHUNK))
            if not data:
                return False
            size -= len(data)
            writer.write(data)
            await writer.drain()
            idle.moved()
        return not await reader.read(1)
    return False


async def _wait(
    idle: Idle, up: asyncio.Task[bool], down: asyncio.Task[bool], *, enough: set[asyncio.Task[bool]]
) -> None:
    """Until all of `enough` have ended, one was torn off, or nothing moves; then both are ended."""
    quiet = asyncio.create_task(idle.over())
    waiting: set[asyncio.Task[bool] | asyncio.Task[None]] = {up, down, quiet}
    try:
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if quiet in done or any(task.result() is False for task in done) or not waiting & enough:
                return
    finally:
        for task in (up, down, quiet):
            task.cancel()
        await asyncio.wait({up, down, quiet})


async def finish(writer: asyncio.StreamWriter) -> None:
    """Close once what was written has been taken; at once where that does not happen in time."""
    with contextlib.suppress(*_TORN, TimeoutError):
        async with asyncio.timeout(FLUSH_TIME):
            writer.close()
            await writer.wait_closed()
    writer.transport.abort()
