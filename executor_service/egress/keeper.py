"""Keeps connections parked in the sandboxes that have a way out, and serves those that a program takes.

The guest's word is not trusted: one that takes connections and drops them, or talks without end, costs no
more than one that behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from executor_service.egress.policy import Grant
from executor_service.egress.proxy import Client, Proxy
from executor_service.egress.tunnel import finish
from executor_service.errors import SandboxFailed
from executor_service.guest.egress import STREAMS
from executor_service.guest.protocol import VERSION, ProtocolError, pack_json
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.connection import abandon, read_json
from executor_service.tasks import Tasks

log = logging.getLogger(__name__)

PARKED = 4  # connections that wait in a sandbox for its programs
LOOKUPS = 2  # of names, under way at once for one sandbox
RATE, BURST = 50.0, 100.0  # streams a second that one sandbox may begin, in the long run and at once
ANSWER_TIME = 10.0  # seconds that a guest has to take a connection
PAUSE, MAX_PAUSE = 0.1, 5.0  # seconds before the next attempt where the guest does not take one
MAX_REPLY = 64 * 1024
FIRST = 16 * 1024


class Egress:
    """All sandboxes' ways out. An async context manager; leaving it ends every stream."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self._proxy = proxy or Proxy()
        self._keepers: set[Keeper] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for keeper in list(self._keepers):
            await keeper.close()

    async def open(self, sandbox: Sandbox, grant: Grant, fields: Mapping[str, str]) -> Keeper:
        """A way out for `sandbox`, ready when this returns; close it before the sandbox is released.

        `fields` name it in logs. Call it before any code of users runs in there.

        Raises:
            SandboxFailed: the guest does not take a connection.
        """
        client = Client(grant=grant, fields=dict(fields), lookups=asyncio.Semaphore(LOOKUPS))
        keeper = Keeper(sandbox, self._proxy, client, on_close=self._keepers.discard)
        self._keepers.add(keeper)
        try:
            await keeper.start()
        except BaseException:
            await keeper.close()
            raise
        return keeper

    def numbers(self) -> Mapping[str, float]:
        """For metrics."""
        return {"streams": self._proxy.open, "allowed": self._proxy.allowed, "refused": self._proxy.refused}


class Keeper:
    """The way out of one sandbox."""

    def __init__(
        self, sandbox: Sandbox, proxy: Proxy, client: Client, *, on_close: Callable[[Keeper], None]
    ) -> None:
        self._sandbox = sandbox
        self._proxy = proxy
        self._client = client
        self._on_close = on_close
        self._parked = asyncio.Semaphore(PARKED)
        self._streams = asyncio.Semaphore(STREAMS + PARKED)
        self._failures = 0  # in a row: connections that were not taken, or dropped without a word
        self._tasks = Tasks()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Park the first connection, then keep on. Raises SandboxFailed."""
        await self._one()
        self._begin(self._keep(), f"egress {self._sandbox.id}")

    async def close(self) -> None:
        """End every stream. Idempotent."""
        await self._tasks.cancel()
        for writer in self._writers:  # of streams that were cancelled before their first step
            abandon(writer)
        self._on_close(self)

    async def _keep(self) -> None:
        pace = Pace(RATE, BURST)
        while not self._sandbox.died.is_set():
            if self._failures:
                await asyncio.sleep(min(PAUSE * 2.0 ** min(self._failures, 16), MAX_PAUSE))
            await pace.turn()
            try:
                await self._one()
            except SandboxFailed as error:
                self._failures += 1
                log.debug("no egress connection could be parked: %s", error.detail)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """In a context of its own: it outlives the request whose id logs would show."""
        contextvars.Context().run(partial(self._tasks.start, work, name=name))

    async def _one(self) -> None:
        """Wait for room, and park one. Raises SandboxFailed."""
        async with contextlib.AsyncExitStack() as stack:
            for room in (self._parked, self._streams):
                await room.acquire()
                stack.callback(room.release)
            reader, writer = await self._park()
            self._writers.add(writer)
            self._begin(self._serve(reader, writer), f"egress stream {self._sandbox.id}")
            stack.pop_all()  # the stream gives them back

    async def _park(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._sandbox.connect()
        try:
            writer.write(pack_json({"v": VERSION, "op": "egress"}))
            async with asyncio.timeout(ANSWER_TIME):
                answer = await read_json(reader, MAX_REPLY)
            if answer.get("type") != "parked":
                raise SandboxFailed(f"the guest refused a way out: {str(answer.get('detail'))[:500]!r}")
        except (TimeoutError, EOFError, OSError, ProtocolError) as error:
            abandon(writer)
            raise SandboxFailed(f"the guest did not take a connection: {error!r}") from error
        except BaseException:
            abandon(writer)
            raise
        return reader, writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await self._first(reader)
            if first:
                await self._proxy.serve(first, reader, writer, self._client)
                await finish(writer)
        except (OSError, EOFError, RuntimeError) as error:  # the program, or the sandbox, is gone
            log.debug("an egress stream broke: %r", error)
        finally:
            abandon(writer)
            self._writers.discard(writer)
            self._streams.release()

    async def _first(self, reader: asyncio.StreamReader) -> bytes:
        """The first bytes of the program that takes this connection; none if the guest drops it."""
        first = b""
        try:
            first = await reader.read(FIRST)
            return first
        finally:
            self._failures = 0 if first else self._failures + 1
            self._parked.release()


class Pace:
    """Lets `burst` through at once and `rate` a second in the long run."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, asyncio.get_running_loop().time()

    async def turn(self) -> None:
        """Wait until it is one's turn."""
        now = asyncio.get_running_loop().time()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1.0
        self._at = now
        if self._left < 0:
            await asyncio.sleep(-self._left / self._rate)
