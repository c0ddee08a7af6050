"""The async client of the whole API."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self, Unpack

from agent_client.client.address import locate
from agent_client.client.bodies import RunOptions, SessionOptions, run_body, session_body
from agent_client.client.operation import AsyncOperation, EventStream, Operations
from agent_client.client.session import AsyncSession, OpeningSession
from agent_client.client.transport import Transport
from agent_client.errors import ApiError
from agent_client.wire.parse import items
from agent_client.wire.results import RunResult
from agent_client.wire.service import Image, Language, ServiceInfo, SessionInfo, SessionPage

OPENING_TIME = 120.0  # seconds for a session's sandbox and kernel to start


class AsyncExecutorClient:
    """The executor service's API.

    Address and key come from the arguments, else `CODECELL_URL` and `CODECELL_API_KEY`. With no address
    at all, the service on 127.0.0.1:8700 is used or, unless `autostart` is false, one is started.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        autostart: bool = True,
    ) -> None:
        where = functools.partial(locate, base_url, api_key, autostart=autostart)
        self._transport = Transport(where, retries=retries)
        self._runs = Operations(self._transport, "/v1/runs", RunResult.parse)

    async def run(self, code: str | None = None, **options: Unpack[RunOptions]) -> RunResult:
        """Run one program in a fresh sandbox and wait for its end."""
        return await self._runs.run(run_body(code, **options))

    def stream_run(self, code: str | None = None, **options: Unpack[RunOptions]) -> EventStream[RunResult]:
        """Run one program and get its events as they come; closing the stream kills it."""
        return self._runs.stream(run_body(code, **options))

    async def start_run(
        self, code: str | None = None, **options: Unpack[RunOptions]
    ) -> AsyncOperation[RunResult]:
        """Run one program detached: it goes on whatever becomes of this client."""
        return await self._runs.start(run_body(code, **options))

    def detached_run(self, id: str) -> AsyncOperation[RunResult]:
        """A handle on a detached run by its id."""
        return AsyncOperation(self._runs, id)

    def create_session(self, **options: Unpack[SessionOptions]) -> OpeningSession:
        """A new session: `session = await client.create_session()`, or
        `async with client.create_session() as session`, which closes it at the end.
        """

        async def open_session() -> AsyncSession:
            body = session_body(**options)
            created = await self._transport.json("POST", "/v1/sessions", json=body, wait=OPENING_TIME)
            return AsyncSession(self._transport, SessionInfo.parse(created))

        return OpeningSession(open_session)

    async def get_session(self, id: str) -> AsyncSession:
        """An existing session."""
        session = AsyncSession(self._transport, SessionInfo(id=id))
        await session.refresh()
        return session

    async def close_session(self, id: str) -> None:
        """Close a session by its id; one that is closed already is fine."""
        await AsyncSession(self._transport, SessionInfo(id=id)).close()

    async def list_sessions(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> SessionPage:
        """A page of this key's sessions, those whose metadata has all the given pairs."""
        params: dict[str, Any] = {f"metadata.{key}": value for key, value in (metadata or {}).items()}
        params |= {k: v for k, v in (("limit", limit), ("cursor", cursor)) if v is not None}
        return SessionPage.parse(await self._transport.json("GET", "/v1/sessions", params=params))

    async def iter_sessions(self, *, metadata: Mapping[str, str] | None = None) -> AsyncIterator[SessionInfo]:
        """All of this key's sessions, page by page."""
        cursor: str | None = None
        while True:
            page = await self.list_sessions(metadata=metadata, cursor=cursor)
            for info in page.items:
                yield info
            cursor = page.next_cursor
            if not cursor:
                return

    async def languages(self) -> Sequence[Language]:
        """The languages that run here."""
        listed = await self._transport.json("GET", "/v1/languages")
        return [Language.parse(e) for e in items(listed.get("items"))]

    async def images(self) -> Sequence[Image]:
        """The named environments to run in."""
        listed = await self._transport.json("GET", "/v1/images")
        return [Image.parse(e) for e in items(listed.get("items"))]

    async def info(self) -> ServiceInfo:
        """What this service is, enforces and allows."""
        return ServiceInfo.parse(await self._transport.json("GET", "/v1/info"))

    async def ready(self) -> bool:
        """Whether the service can take work now."""
        try:
            await self._transport.json("GET", "/readyz")
        except ApiError:
            return False
        return True

    async def url(self) -> str:
        """The address in use."""
        return (await self._transport.address()).url

    async def close(self) -> None:
        """Close the connections. Sessions stay until closed or expired."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
