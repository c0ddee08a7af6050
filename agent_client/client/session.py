"""A session: state kept between executions, files, commands, a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import quote

from agent_client.blocking import call
from agent_client.client.bodies import CommandOptions, ExecutionOptions, command_body, execution_body
from agent_client.client.files import AsyncFiles
from agent_client.client.operation import AsyncOperation, EventStream, Operations
from agent_client.client.terminal import AsyncTerminal, open_terminal
from agent_client.client.transport import Transport
from agent_client.errors import ApiError, CodecellError
from agent_client.wire.events import InputRequest
from agent_client.wire.results import CommandResult, ExecutionResult
from agent_client.wire.service import SessionInfo

OnInput = Callable[[str], str | Awaitable[str]]


class AsyncSession:
    """One session. As a context manager it is closed at the end."""

    def __init__(self, transport: Transport, info: SessionInfo) -> None:
        self._transport = transport
        self._path = f"/v1/sessions/{quote(str(info.id), safe='')}"
        self.info = info
        self.files = AsyncFiles(transport, self._path)
        self._executions = Operations(transport, f"{self._path}/executions", ExecutionResult.parse)
        self._commands = Operations(transport, f"{self._path}/commands", CommandResult.parse)

    @property
    def id(self) -> str:
        return self.info.id

    async def execute(
        self, code: str, *, on_input: OnInput | None = None, **options: Unpack[ExecutionOptions]
    ) -> ExecutionResult:
        """Execute `code` in the session's kernel and wait. `on_input(prompt)` answers `input()`."""
        if on_input is None:
            return await self._executions.run(execution_body(code, **options))
        options["allow_input"] = True
        async with self.stream(code, **options) as events:
            async for event in events:
                if isinstance(event, InputRequest):
                    await self.answer(events.id, await call(on_input, event.prompt))
        return events.result

    def stream(self, code: str, **options: Unpack[ExecutionOptions]) -> EventStream[ExecutionResult]:
        """Execute `code` and get its events as they come; closing the stream interrupts the code."""
        return self._executions.stream(execution_body(code, **options))

    async def start(self, code: str, **options: Unpack[ExecutionOptions]) -> AsyncOperation[ExecutionResult]:
        """Execute `code` detached: it goes on whatever becomes of this client."""
        return await self._executions.start(execution_body(code, **options))

    def execution(self, id: str) -> AsyncOperation[ExecutionResult]:
        """A handle on an execution by its id."""
        return AsyncOperation(self._executions, id)

    async def executions(self) -> Sequence[ExecutionResult]:
        """The session's executions, newest first."""
        return await self._executions.list()

    async def answer(self, execution_id: str, text: str) -> None:
        """Answer the `input()` that an execution waits in."""
        await self.execution(execution_id).input(text)

    async def command(self, command: str | Sequence[str], **options: Unpack[CommandOptions]) -> CommandResult:
        """Run a command beside the kernel and wait: a text for the shell, or a list of arguments."""
        return await self._commands.run(command_body(command, **options))

    def stream_command(
        self, command: str | Sequence[str], **options: Unpack[CommandOptions]
    ) -> EventStream[CommandResult]:
        """Run a command and get its events as they come; closing the stream kills it."""
        return self._commands.stream(command_body(command, **options))

    async def start_command(
        self, command: str | Sequence[str], **options: Unpack[CommandOptions]
    ) -> AsyncOperation[CommandResult]:
        """Run a command detached, such as a server: it lives until it is stopped or the session closes."""
        return await self._commands.start(command_body(command, **options))

    def command_handle(self, id: str) -> AsyncOperation[CommandResult]:
        """A handle on a command by its id."""
        return AsyncOperation(self._commands, id)

    async def commands(self) -> Sequence[CommandResult]:
        """The session's commands, newest first."""
        return await self._commands.list()

    @contextlib.asynccontextmanager
    async def terminal(self, rows: int = 24, cols: int = 80) -> AsyncIterator[AsyncTerminal]:
        """A shell on a pseudo-terminal, as a context manager. Needs the package `websockets`."""
        address = await self._transport.address()
        async with open_terminal(address, f"{self._path}/terminal", rows=rows, cols=cols) as terminal:
            yield terminal

    async def interrupt(self) -> None:
        """Interrupt what executes; state is kept."""
        await self._transport.json("POST", f"{self._path}/interrupt")

    async def restart(self) -> SessionInfo:
        """Restart the kernel: state is lost, files stay."""
        return self._took(await self._transport.json("POST", f"{self._path}/restart"))

    async def renew(self, ttl: float) -> SessionInfo:
        """Let it live `ttl` seconds from now."""
        return self._took(await self._transport.json("POST", f"{self._path}/renew", json={"ttl": ttl}))

    async def refresh(self) -> SessionInfo:
        """What the service says of it now."""
        return self._took(await self._transport.json("GET", self._path))

    async def close(self) -> None:
        """Close it: sandbox, state and files are gone. Closing twice is fine."""
        await self._transport.json("DELETE", self._path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except CodecellError as failure:
            if error is None and not isinstance(failure, ApiError):
                raise  # never hide what went wrong inside; a session that is gone already is fine

    def _took(self, data: Mapping[str, Any]) -> SessionInfo:
        self.info = SessionInfo.parse(data)
        return self.info


class OpeningSession:
    """What `create_session` gives: await it for a session, or use it as `async with`."""

    def __init__(self, open: Callable[[], Awaitable[AsyncSession]]) -> None:
        self._open = open
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, None, AsyncSession]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._open()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.__aexit__(kind, error, trace)
