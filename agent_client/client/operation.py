"""One operation from outside: its events as they come, and a handle on a detached one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

from agent_client.client.bodies import file_body
from agent_client.client.transport import QUIET_TIME, Transport, read_all, translated
from agent_client.errors import ServiceUnreachable, StreamBroken
from agent_client.wire.events import Completed, Event, SseDecoder, parse_event
from agent_client.wire.fold import Fold

R = TypeVar("R")
Parse = Callable[[dict[str, Any]], R]
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
    async with transport.stream(method, path, body=body, headers=headers, wait=QUIET_TIME) as response:
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise StreamBroken(f"{url} answered without events: {(await read_all(response))[:200]!r}")
        decoder = SseDecoder()
        with translated(url):
            chunks = response.aiter_bytes()
        while True:
            with translated(url, last):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            for sent in decoder.feed(chunk):
                last = int(sent.id) if sent.id.isdecimal() else last
                yield last, parse_event(sent)
                if sent.type == "completed":
                    return
    raise StreamBroken(
        f"The service at {url} closed the stream before the end of the work. Check that it is alive"
        " (GET /healthz); what ran may or may not have finished.",
        last_event_id=last,
    )


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


class AsyncOperation(Generic[R]):
    """A handle on a detached run, execution or command. Kept for 10 minutes after its end."""

    def __init__(self, transport: Transport, collection: str, id: str, parse: Parse[R]) -> None:
        self._transport = transport
        self._path = f"{collection}/{quote(id, safe='')}"
        self._parse = parse
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
        if isinstance(data, bytes):
            body: dict[str, Any] = {"base64": file_body("", data)["content"]}
        else:
            body = {"text": data}
        await self._transport.json(
            "POST", f"{self._path}/input", body=body | ({"close": True} if close else {})
        )

    async def signal(self, name: str = "SIGTERM") -> None:
        """Send a command a signal."""
        await self._transport.json("POST", f"{self._path}/signal", body={"signal": name})
