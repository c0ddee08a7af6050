"""One session: a sandbox with a kernel, claimed by one caller."""
from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from executor_service.events import Json
from executor_service.sessions.operation import Operation
from executor_service.sessions.requests import CommandRequest, ExecutionRequest


class Session:
    """Every method raises SessionClosed once it is closed, with the reason."""

    id: str

    def view(self) -> dict[str, Json]:
        """The JSON body of docs/api.md."""
        raise NotImplementedError

    async def renew(self, ttl: float) -> None:
        """It now lives `ttl` seconds from this instant. Raises InvalidRequest."""
        raise NotImplementedError

    async def execute(self, request: ExecutionRequest) -> Operation:
        """Start an execution (waits for a restart that goes on).

        Raises:
            CallerError: SessionBusy, LanguageNotFound, InvalidRequest, LimitTooHigh.
            ServiceFault: SandboxFailed.
        """
        raise NotImplementedError

    async def command(self, request: CommandRequest) -> Operation:
        """Start a command.

        Raises:
            CallerError: QuotaExceeded, InvalidRequest, InvalidPath, LimitTooHigh.
            ServiceFault: SandboxFailed.
        """
        raise NotImplementedError

    def executions(self) -> list[Operation]:
        """What is remembered, newest first."""
        raise NotImplementedError

    def commands(self) -> list[Operation]:
        """What is remembered, newest first."""
        raise NotImplementedError

    def execution(self, execution_id: str) -> Operation:
        """Raises ExecutionNotFound."""
        raise NotImplementedError

    def command_of(self, command_id: str) -> Operation:
        """Raises CommandNotFound. (`command` itself is the verb.)"""
        raise NotImplementedError

    async def interrupt(self) -> None:
        """Interrupt the execution that runs; nothing when idle. Does not wait for its end."""
        raise NotImplementedError

    async def restart(self) -> None:
        """A fresh kernel: state lost, files kept, what the kernel left running killed."""
        raise NotImplementedError

    @property
    def files(self) -> Any:
        """The workspace (:class:`executor_service.sandboxes.files.Files`); counts as use."""
        raise NotImplementedError

    def terminal(self, rows: int, cols: int) -> AbstractAsyncContextManager[Any]:
        """A shell on a pseudo-terminal: ``async with session.terminal(24, 80) as program``."""
        raise NotImplementedError
