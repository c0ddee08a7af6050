"""Runs: one program in a fresh sandbox, then gone."""
from __future__ import annotations

from types import TracebackType
from typing import Self

from executor_service.sessions.operation import Operation
from executor_service.sessions.requests import RunRequest


class Runs:
    """Starts runs and keeps the detached ones. An async context manager that owns their tasks.

    ``Runs(pool=pool, catalog=catalog, policy=policy)``; `catalog` is
    :class:`executor_service.sessions.catalog.Catalog`.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def start(self, request: RunRequest, owner: str) -> Operation:
        """Check, take a sandbox, put the files, and start. Everything that can be refused is refused here.

        Attached: call `operation.stop()` when the client goes away.

        Raises:
            CallerError: LanguageNotFound, ImageNotFound, InvalidPath, InvalidRequest, LimitTooHigh,
                NetworkNotAllowed, QuotaExceeded.
            ServiceFault: Capacity, SandboxFailed, BackendUnavailable, DiskFull.
        """
        raise NotImplementedError

    def get(self, run_id: str, owner: str) -> Operation:
        """A run that goes on, or a detached one that ended a short while ago. Raises RunNotFound."""
        raise NotImplementedError

    async def stop(self, run_id: str, owner: str) -> None:
        """End it if it runs, wait for its end. Raises RunNotFound."""
        raise NotImplementedError

    async def drain(self, grace: float) -> None:
        """Take no more; let what runs finish within `grace` seconds, then stop it."""
        raise NotImplementedError
