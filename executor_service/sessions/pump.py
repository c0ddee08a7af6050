"""From a program's bytes to events in a journal, while it is fed; the same for runs and commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from executor_service.errors import SandboxFailed
from executor_service.events import Stage
from executor_service.sandboxes.guest import Ended, finite
from executor_service.sessions.decode import TextStreams
from executor_service.sessions.journal import Journal
from executor_service.sessions.ports import ProgramPort


async def pump(
    program: ProgramPort,
    journal: Journal,
    *,
    limit: int,
    stage: Stage | None = None,
    kept: bool = False,
) -> Ended | None:
    """Write what an entered program prints into `journal` until it ends.

    One that is `kept` may have begun under another service, and is told how far its events are.

    Returns:
        How it ended; None if its sandbox could not say any more.
    """
    streams = TextStreams(limit=limit, stage=stage)
    if kept and program.state:
        streams.restore(program.state)
        journal.skip(max(0, finite(program.state.get("events")) - 1))
    try:
        async for stream, data in program:
            event = streams.feed(stream, data)
            if event is not None:
                journal.append(event)
            if kept:
                await program.mark(lambda: {"events": journal.last, **streams.state()})
    except SandboxFailed:
        return None
    finally:
        for event in streams.end():
            journal.append(event)
    return program.ended


async def feed(program: ProgramPort, stdin: bytes, *, close: bool) -> None:
    """Give a program its input, and its end if `close`."""
    if stdin:
        await program.write_stdin(stdin)
    if close:
        await program.close_stdin()


@asynccontextmanager
async def feeding(program: ProgramPort, stdin: bytes, *, close: bool) -> AsyncIterator[asyncio.Task[None]]:
    """Feed a program within this block: it may print before it has read, and must be heard to go on."""
    task = asyncio.create_task(feed(program, stdin, close=close))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
