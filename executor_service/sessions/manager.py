"""Sessions: finds, makes, expires and closes them."""
from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from executor_service.sessions.requests import SessionRequest
from executor_service.sessions.session import Session


class Sessions:
    """All sessions of this service. An async context manager that owns their tasks and expiry.

    ``Sessions(pool=pool, catalog=catalog, policy=policy, backend_name="local")``.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def create(self, request: SessionRequest, owner: str) -> Session:
        """A ready session.

        Raises:
            CallerError: LanguageNotFound (also one that keeps no state), ImageNotFound,
                InvalidRequest, LimitTooHigh, NetworkNotAllowed.
            ServiceFault: Capacity, SandboxFailed, BackendUnavailable.
        """
        raise NotImplementedError

    def get(self, session_id: str, owner: str) -> Session:
        """An open session. Raises SessionNotFound or SessionClosed."""
        raise NotImplementedError

    def list(
        self, owner: str, metadata: Mapping[str, str], limit: int, cursor: str | None
    ) -> tuple[list[Session], str | None]:
        """Open sessions of `owner` whose metadata has all of `metadata`, oldest first, and the next cursor.

        Raises:
            InvalidRequest: a cursor that this service did not give.
        """
        raise NotImplementedError

    async def close(self, session_id: str, owner: str) -> None:
        """Close it; nothing if it was closed before. Raises SessionNotFound."""
        raise NotImplementedError

    async def drain(self, grace: float) -> None:
        """Take no more; let what runs finish within `grace` seconds, then interrupt it and close all."""
        raise NotImplementedError
