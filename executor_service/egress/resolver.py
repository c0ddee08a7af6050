"""Looking names up, in threads of its own: a name server that never answers holds nobody else up."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from functools import partial

from executor_service.egress.names import Address

THREADS = 32
MAX_ADDRESSES = 16  # of one name that are looked at


class Resolver:
    """The system's resolver. Nothing is kept: each connection looks its name up once, for itself."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(THREADS)

    async def addresses(self, name: str, *, turn: asyncio.Semaphore, seconds: float) -> list[Address]:
        """The addresses of a name, in the order in which to try them; none if it has none.

        `turn` bounds how many lookups one sandbox has under way. It is given back when the lookup has ended
        in its thread, which cannot be stopped, not when we tire of waiting: nobody takes up all threads.

        Raises:
            TimeoutError: no answer within `seconds`.
        """
        async with asyncio.timeout(seconds):
            await turn.acquire()
            try:
                await self._all.acquire()
            except BaseException:
                turn.release()
                raise
            lookup = _start(name)
            for room in (turn, self._all):
                lookup.add_done_callback(partial(_give_back, room))
            return await asyncio.shield(lookup)


def _give_back(room: asyncio.Semaphore, _: object) -> None:
    room.release()


def _start(name: str) -> asyncio.Future[list[Address]]:
    """Not in an executor: the interpreter waits for those at its end, and a lookup may take half a minute."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()

    def work() -> None:
        addresses = _look_up(name)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(found.set_result, addresses)

    try:
        threading.Thread(target=work, name="egress-dns", daemon=True).start()
    except RuntimeError:  # no thread can be started
        found.set_result([])
    return found


def _look_up(name: str) -> list[Address]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    texts = dict.fromkeys(str(info[4][0]) for info in found)
    return [ipaddress.ip_address(text) for text in list(texts)[:MAX_ADDRESSES] if "%" not in text]
