"""The blocking client: the async one, run on a background loop, method by method.

Each name here is made from its async counterpart, so signatures and behaviour are written once.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from agent_client.blocking import iterate, run_sync
from agent_client.client.async_client import AsyncExecutorClient
from agent_client.client.files import AsyncFiles
from agent_client.client.operation import AsyncOperation, EventStream
from agent_client.client.session import AsyncSession, OpeningSession
from agent_client.client.terminal import AsyncTerminal, TerminalExit
from agent_client.wire.events import Event
from agent_client.wire.service import SessionInfo

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


class Wraps(Generic[A]):
    """A blocking object over an async one."""

    def __init__(self, wrapped: A) -> None:
        self.async_ = wrapped


Method = Callable[Concatenate[A, P], T]  # of an async object
Blocking = Callable[Concatenate[Wraps[A], P], T]


@overload
def blocking(method: Method[A, P, EventStream[R]]) -> Blocking[A, P, BlockingStream[R]]: ...
@overload
def blocking(method: Method[A, P, AsyncIterator[T]]) -> Blocking[A, P, Iterator[T]]: ...
@overload
def blocking(method: Method[A, P, AsyncOperation[R]]) -> Blocking[A, P, Operation[R]]: ...
@overload
def blocking(method: Method[A, P, Awaitable[AsyncOperation[R]]]) -> Blocking[A, P, Operation[R]]: ...
@overload
def blocking(method: Method[A, P, Awaitable[AsyncSession]]) -> Blocking[A, P, Session]: ...
@overload
def blocking(method: Method[A, P, Awaitable[T]]) -> Blocking[A, P, T]: ...
def blocking(method: Callable[..., Any]) -> Callable[..., Any]:
    """The blocking form of a method: what it gives, waited for and blocking itself."""

    @functools.wraps(method)
    def wrapper(self: Wraps[Any], /, *args: Any, **kwargs: Any) -> Any:
        made = functools.partial(method, self.async_, *args, **kwargs)
        if inspect.isasyncgenfunction(method):
            return iterate(made)
        given = run_sync(made) if inspect.iscoroutinefunction(method) else made()
        return _blocking_form(given)

    return wrapper


def _blocking_form(given: Any) -> Any:
    match given:
        case OpeningSession():
            return Session(run_sync(lambda: given))
        case AsyncSession():
            return Session(given)
        case EventStream():
            return BlockingStream(given)
        case AsyncOperation():
            return Operation(given)
    return given


class BlockingStream(Generic[R]):
    """The events of an operation, an iterator; `result` is there once it ended. See `EventStream`."""

    def __init__(self, stream: EventStream[R]) -> None:
        self._stream = stream
        self._events = iterate(lambda: stream)

    @property
    def id(self) -> str:
        return self._stream.id

    @property
    def result(self) -> R:
        return self._stream.result

    def wait(self) -> R:
        """Read what is left and return the result."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """Close the connection, which stops the work unless it is detached."""
        run_sync(self._stream.aclose)
        self._events.close()

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __next__(self) -> Event:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Operation(Wraps[AsyncOperation[R]]):
    """A handle on a detached run, execution or command. See `AsyncOperation`."""

    @property
    def id(self) -> str:
        return self.async_.id

    def get(self) -> R:
        """The result so far; its `outcome` is None until the end."""
        return run_sync(self.async_.get)

    def wait(self) -> R:
        """Wait for the end; the whole result."""
        return run_sync(self.async_.wait)

    stream = blocking(AsyncOperation.stream)
    stop = blocking(AsyncOperation.stop)
    input = blocking(AsyncOperation.input)
    signal = blocking(AsyncOperation.signal)


class Files(Wraps[AsyncFiles]):
    """A session's files. See `AsyncFiles`."""

    list = blocking(AsyncFiles.list)
    read = blocking(AsyncFiles.read)
    read_text = blocking(AsyncFiles.read_text)
    chunks = blocking(AsyncFiles.chunks)
    write = blocking(AsyncFiles.write)
    upload = blocking(AsyncFiles.upload)
    download = blocking(AsyncFiles.download)
    delete = blocking(AsyncFiles.delete)
    mkdir = blocking(AsyncFiles.mkdir)
    move = blocking(AsyncFiles.move)
    archive = blocking(AsyncFiles.archive)
    download_archive = blocking(AsyncFiles.download_archive)
    extract = blocking(AsyncFiles.extract)


class Terminal(Wraps[AsyncTerminal]):
    """An open terminal. See `AsyncTerminal`."""

    @property
    def exit(self) -> TerminalExit | None:
        return self.async_.exit

    read = blocking(AsyncTerminal.read)
    write = blocking(AsyncTerminal.write)
    resize = blocking(AsyncTerminal.resize)


class Session(Wraps[AsyncSession]):
    """One session. As a context manager it is closed at the end. See `AsyncSession`."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self.files = Files(session.files)

    @property
    def id(self) -> str:
        return self.async_.id

    @property
    def info(self) -> SessionInfo:
        return self.async_.info

    execute = blocking(AsyncSession.execute)
    executions = blocking(AsyncSession.executions)
    answer = blocking(AsyncSession.answer)
    command = blocking(AsyncSession.command)
    commands = blocking(AsyncSession.commands)
    interrupt = blocking(AsyncSession.interrupt)
    restart = blocking(AsyncSession.restart)
    renew = blocking(AsyncSession.renew)
    refresh = blocking(AsyncSession.refresh)
    close = blocking(AsyncSession.close)

    stream = blocking(AsyncSession.stream)
    start = blocking(AsyncSession.start)
    execution = blocking(AsyncSession.execution)
    stream_command = blocking(AsyncSession.stream_command)
    start_command = blocking(AsyncSession.start_command)
    command_handle = blocking(AsyncSession.command_handle)

    @contextlib.contextmanager
    def terminal(self, rows: int = 24, cols: int = 80) -> Iterator[Terminal]:
        """A shell on a pseudo-terminal, as a context manager. Needs the package `websockets`."""
        opened = self.async_.terminal(rows, cols)
        terminal = run_sync(opened.__aenter__)
        try:
            yield Terminal(terminal)
        finally:
            run_sync(lambda: opened.__aexit__(None, None, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run_sync(lambda: self.async_.__aexit__(kind, error, trace))


class ExecutorClient(Wraps[AsyncExecutorClient]):
    """The executor service's API, blocking. Arguments as `AsyncExecutorClient`. Works in notebooks."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        autostart: bool = True,
    ) -> None:
        super().__init__(AsyncExecutorClient(base_url, api_key, retries=retries, autostart=autostart))

    run = blocking(AsyncExecutorClient.run)
    close_session = blocking(AsyncExecutorClient.close_session)
    list_sessions = blocking(AsyncExecutorClient.list_sessions)
    iter_sessions = blocking(AsyncExecutorClient.iter_sessions)
    languages = blocking(AsyncExecutorClient.languages)
    images = blocking(AsyncExecutorClient.images)
    info = blocking(AsyncExecutorClient.info)
    ready = blocking(AsyncExecutorClient.ready)
    url = blocking(AsyncExecutorClient.url)
    close = blocking(AsyncExecutorClient.close)

    stream_run = blocking(AsyncExecutorClient.stream_run)
    start_run = blocking(AsyncExecutorClient.start_run)
    detached_run = blocking(AsyncExecutorClient.detached_run)
    create_session = blocking(AsyncExecutorClient.create_session)
    get_session = blocking(AsyncExecutorClient.get_session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
