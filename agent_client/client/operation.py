"""One operation from outside: its events as they come, and a handle on a detached one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

from agent_client.client.bodies import encoded
from agent_client.client.transport import QUIET_TIME, WORK_TIME, Transport, body_of, read_all
from agent_client.errors import ServiceUnreachable, StreamBroken
from agent_client.wire.events import Completed, Event, SseDecoder, parse_event
from agent_client.wire.fold import Fold
from agent_client.wire.parse import items

R = TypeVar("R")
Parse = Callable[[Any], R]
_RESUMES = 5


class EventStream(Generic[R]):
    """The events of an operation, an async iterator; `result` is there once it ended.

    Leaving it early closes the connection, which stops the work (unless it is detached). Use it as
    a context manager to be sure of that: `async with session.stream(code) as events: ...`.
    """

    def __init__(self, events: AsyncGenerator[tuple[int, Event]], parse: Parse[R]) -> None:
        self._events = events
        self._fold: Fold[R] = Fold(parse=parse)
        self._ended = False
        self.last_event_id = 0

    @property
    def id(self) -> str:
        """The operation's id; "" until the first event came."""
        return self._fold.id

    @property
    def result(self) -> R:
        """How it ended.

        Raises:
            RuntimeError: it has not ended yet.
        """
        if self._fold.result is None:
            raise RuntimeError("the operation has not ended: read its events to the end first")
        return self._fold.result

    async def wait(self) -> R:
        """Read what is left and return the result."""
        async for _ in self:
            pass
        return self.result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        number, event = await anext(self._events)
        self.last_event_id = number or self.last_event_id
        self._fold.add(event)
        if isinstance(event, Completed):
            self._ended = True
            await self._events.aclose()
        return event

    async def aclose(self) -> None:
        """Close the connection."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def events_of(
    transport: Transport, method: str, path: str, *, body: dict[str, Any] | None = None, after: int = 0
) -> AsyncGenerator[tuple[int, Event]]:
    """The numbered events that an endpoint answers with, up to `completed`.

    Raises:
        StreamBroken: the stream ended without `completed`.
    """
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after else {})
    url = (await transport.address()).url
    last = after
    async with transport.stream(method, path, json=body, headers=headers, wait=QUIET_TIME) as response:
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise StreamBroken(f"{url} answered without events: {(await read_all(response))[:200]!r}")
        decoder = SseDecoder()
        try:
            async for chunk in body_of(response):
                for sent in decoder.feed(chunk):
                    last = int(sent.id) if sent.id.isdecimal() else last
                    yield last, parse_event(sent)
                    if sent.type == "completed":
                        return
            raise StreamBroken(
                f"The service at {url} closed the stream before the end of the work. Check that it is alive"
                " (GET /healthz); what ran may or may not have finished."
            )
        except StreamBroken as broken:
            broken.last_event_id = last
            raise


async def resumed(transport: Transport, path: str, *, after: int = 0) -> AsyncGenerator[tuple[int, Event]]:
    """The events of a detached operation; a broken connection is taken up where it broke."""
    for attempt in range(_RESUMES + 1):
        source = events_of(transport, "GET", path, after=after)
        try:
            async for number, event in source:
                after = number
                yield number, event
            return
        except (StreamBroken, ServiceUnreachable):
            if attempt == _RESUMES:
                raise
            await asyncio.sleep(0.2 * 2**attempt)
        finally:
            await source.aclose()


class Operations(Generic[R]):
    """The operations of one kind, at one path: run and waited for, streamed, detached."""

    def __init__(self, transport: Transport, path: str, parse: Parse[R]) -> None:
        self.transport = transport
        self.path = path
        self.parse = parse

    async def run(self, body: dict[str, Any]) -> R:
        """Start one and wait for its result."""
        return self.parse(await self.transport.json("POST", self.path, json=body, wait=WORK_TIME))

    def stream(self, body: dict[str, Any]) -> EventStream[R]:
        """Start one once the first event is asked for."""
        return EventStream(events_of(self.transport, "POST", self.path, body=body), self.parse)

    async def start(self, body: dict[str, Any]) -> AsyncOperation[R]:
        """Start one that goes on whatever becomes of this client."""
        begun = await self.transport.json("POST", self.path, json=body | {"detach": True})
        return AsyncOperation(self, begun["id"])

    async def list(self) -> Sequence[R]:
        """Those that are known, newest first."""
        listed = await self.transport.json("GET", self.path)
        return [self.parse(each) for each in items(listed.get("items"))]


class AsyncOperation(Generic[R]):
    """A handle on a detached run, execution or command. Kept for 10 minutes after its end."""

    def __init__(self, kind: Operations[R], id: str) -> None:
        self._transport = kind.transport
        self._path = f"{kind.path}/{quote(id, safe='')}"
        self._parse = kind.parse
        self.id = id

    async def get(self) -> R:
        """The result so far; its `outcome` is None until the end."""
        return self._parse(await self._transport.json("GET", self._path))

    def stream(self, after: int = 0) -> EventStream[R]:
        """All events from the start (or behind event number `after`), then those to come.

        The stream's `result` covers the events it read, so with `after` it lacks earlier output.
        """
        return EventStream(resumed(self._transport, self._path, after=after), self._parse)

    async def wait(self) -> R:
        """Wait for the end; the whole result."""
        async with self.stream() as events:
            await events.wait()
        return await self.get()

    async def stop(self) -> None:
        """Stop it, if it still runs."""
        await self._transport.json("DELETE", self._path)

    async def input(self, data: str | bytes = "", *, close: bool = False) -> None:
        """Answer an execution's `input()` with a text, or feed a command's stdin (`close` ends it)."""
        text, encoding = encoded(data)
        body = {"base64" if encoding == "base64" else "text": text} | ({"close": True} if close else {})
        await self._transport.json("POST", f"{self._path}/input", json=body)

    async def signal(self, name: str = "SIGTERM") -> None:
        """Send a command a signal."""
        await self._transport.json("POST", f"{self._path}/signal", json={"signal": name})
