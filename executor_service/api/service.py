"""What the routes work with: one value, made by the app, found by each request."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from executor_service.api.ports import About, Operation, Runs, Session, Sessions
from executor_service.errors import CodecellError
from executor_service.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Service:
    """The rooms below HTTP, and the few things that HTTP itself keeps."""

    runs: Runs
    sessions: Sessions
    about: About
    metrics: Metrics
    _followed: set[asyncio.Task[None]] = field(default_factory=set)

    async def finish(self, operation: Operation) -> None:
        """An attached operation's request is over: stop it if it still runs, and count it."""
        if operation.state == "running":
            await operation.stop()
        self.metrics.operation_ended(operation)

    def follow(self, operation: Operation) -> None:
        """Count a detached operation when it ends."""
        task = asyncio.create_task(self._count(operation))
        self._followed.add(task)
        task.add_done_callback(self._followed.discard)

    async def close(self) -> None:
        """Stop counting."""
        for task in list(self._followed):
            task.cancel()
        await asyncio.gather(*self._followed, return_exceptions=True)

    async def drain(self, grace: float) -> None:
        """Take no more work; what runs has `grace` seconds to finish."""
        await asyncio.gather(self.runs.drain(grace), self.sessions.drain(grace))

    async def _count(self, operation: Operation) -> None:
        with contextlib.suppress(CodecellError):
            await operation.wait()
        self.metrics.operation_ended(operation)


def service_of(connection: HTTPConnection) -> Service:
    """The service that this request came to."""
    found: Service = connection.app.state.service
    return found


def owner_of(connection: HTTPConnection) -> str:
    """The id of the key that the caller showed; empty where no keys are set."""
    return str(connection.scope.get("state", {}).get("owner", ""))


async def session_of(connection: HTTPConnection, session_id: str) -> Session:
    """The session in the request's path.

    Raises:
        SessionNotFound, SessionClosed: as docs/api.md says.
    """
    return service_of(connection).sessions.get(session_id, owner_of(connection))


SessionHere = Annotated[Session, Depends(session_of)]
