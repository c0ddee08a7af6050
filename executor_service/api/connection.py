"""Watching whether the caller is still there while work goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive


async def until_gone(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Do `work`; cancel it when the caller hangs up. Whether it came to its end.

    The request body must have been read: `receive` then returns only when the connection is gone.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = working.done() and not working.cancelled()
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    if finished:
        working.result()
    return finished


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
