"""What HTTP asks of the rooms below, as protocols; the app gives the real ones, tests give fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

from executor_service.errors import CodecellError
from executor_service.events import Event
from executor_service.sessions.requests import (
    CommandRequest,
    ExecutionRequest,
    RunRequest,
    SessionRequest,
)

Json = dict[str, Any]


class Journal(Protocol):
    """The numbered events of one operation."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened so far."""

    @property
    def failure(self) -> CodecellError | None:
        """Why it ended without `completed`, if it did."""

    def follow(self, after: int = 0) -> AsyncIterator[tuple[int, Event]]:
        """Events with numbers above `after`, as they come; ends after `completed`.

        Raises:
            CodecellError: the service failed; there is no `completed` then.
        """


class Operation(Protocol):
    """One run, execution or command."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> Literal["run", "execution", "command"]: ...
    @property
    def state(self) -> Literal["running", "done"]: ...
    @property
    def detached(self) -> bool: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""

    def fold(self) -> Json:
        """The JSON body, as far as it is known. Raises the service's failure if it ended by one."""

    async def wait(self) -> None:
        """Until it is done. Raises the service's failure if it ended by one."""

    async def stop(self) -> None:
        """Kill it, and wait until it is done."""

    async def input(self, data: bytes | str, close: bool = False) -> None:
        """Raises NotWaitingForInput."""

    async def signal(self, name: str) -> None:
        """Raises InvalidRequest: no such signal."""


class Runs(Protocol):
    """Programs in fresh sandboxes."""

    async def start(self, request: RunRequest, owner: str) -> Operation:
        """Raises what docs/api.md lists for `POST /v1/runs`."""

    def get(self, run_id: str, owner: str) -> Operation:
        """Raises RunNotFound."""

    async def stop(self, run_id: str, owner: str) -> None:
        """Raises RunNotFound."""

    async def drain(self, grace: float) -> None:
        """Take no more; let what runs finish within `grace` seconds, then stop it."""


class Entry(Protocol):
    """A file's or directory's particulars; `modified_at` in seconds since the epoch."""

    @property
    def path(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def modified_at(self) -> float: ...
    @property
    def mode(self) -> int: ...


class Files(Protocol):
    """The files of one sandbox, as its user sees them."""

    async def list(self, path: str = ".", recursive: bool = False) -> Sequence[Entry]: ...
    async def stat(self, path: str) -> Entry: ...
    def read(
        self, path: str, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[tuple[Entry, AsyncIterator[bytes]]]: ...
    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> Entry: ...
    async def delete(self, path: str) -> None: ...
    async def mkdir(self, path: str) -> None: ...
    async def move(self, path: str, to: str) -> None: ...
    def archive(self, path: str = ".") -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...
    async def extract(self, path: str, chunks: AsyncIterator[bytes]) -> None: ...


class Ended(Protocol):
    """How a program ended."""

    @property
    def exit_code(self) -> int | None: ...
    @property
    def signal(self) -> str | None: ...


class Program(Protocol):
    """A process on a pseudo-terminal."""

    @property
    def ended(self) -> Ended | None: ...
    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]: ...
    async def write_stdin(self, data: bytes) -> None: ...
    async def resize(self, rows: int, cols: int) -> None: ...


class Session(Protocol):
    """A caller's stateful claim on one sandbox."""

    @property
    def id(self) -> str: ...
    @property
    def files(self) -> Files: ...
    def view(self) -> Json: ...
    async def renew(self, ttl: float) -> None: ...
    async def execute(self, request: ExecutionRequest) -> Operation: ...
    async def command(self, request: CommandRequest) -> Operation: ...
    def executions(self) -> Sequence[Operation]: ...
    def commands(self) -> Sequence[Operation]: ...
    def execution(self, execution_id: str) -> Operation: ...
    def command_of(self, command_id: str) -> Operation: ...
    async def interrupt(self) -> None: ...
    async def restart(self) -> None: ...
    def terminal(self, rows: int, cols: int) -> AbstractAsyncContextManager[Program]: ...


class Sessions(Protocol):
    """All sessions, each visible to its owner alone."""

    async def create(self, request: SessionRequest, owner: str) -> Session:
        """Raises what docs/api.md lists for `POST /v1/sessions`."""

    def get(self, session_id: str, owner: str) -> Session:
        """Raises SessionNotFound, SessionClosed."""

    def list(
        self, owner: str, metadata: Mapping[str, str], limit: int, cursor: str | None
    ) -> tuple[Sequence[Session], str | None]: ...

    async def close(self, session_id: str, owner: str) -> None:
        """Raises SessionNotFound."""

    async def drain(self, grace: float) -> None:
        """Take no more; let what runs finish within `grace` seconds, then close all."""


class About(Protocol):
    """What the service says about itself."""

    def languages(self) -> list[Json]: ...
    def images(self) -> list[Json]: ...
    def info(self) -> Json: ...
    async def ready(self) -> Json:
        """Raises BackendUnavailable."""
