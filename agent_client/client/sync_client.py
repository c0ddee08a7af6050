"""The blocking client: the async one, run on a background loop, method by method.

Each name here is made from its async counterpart, so signatures and behaviour are written once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack

from agent_client.blocking import iterate, run_sync
from agent_client.client.async_client import AsyncExecutorClient
from agent_client.client.bodies import SessionOptions
from agent_client.client.files import AsyncFiles
from agent_client.client.operation import AsyncOperation, EventStream
from agent_client.client.session import AsyncSession
from agent_client.client.terminal import AsyncTerminal, TerminalExit
from agent_client.wire.events import Event
from agent_client.wire.service import SessionInfo

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
R = TypeVar("R")


class Wraps(Protocol[A_co]):
    """A blocking object over an async one."""

    @property
    def async_(self) -> A_co: ...


def blocking(method: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[Wraps[A], P], T]:
    """The blocking form of an async method."""

    @functools.wraps(method)
    def wrapper(self: Wraps[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run_sync(lambda: method(self.async_, *args, **kwargs))

    return wrapper


def blocking_iterator(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Wraps[A], P], Iterator[T]]:
    """The blocking form of an async generator method."""

    @functools.wraps(method)
    def wrapper(self: Wraps[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return iterate(lambda: method(self.async_, *args, **kwargs))

    return wrapper


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


class Operation(Generic[R]):
    """A handle on a detached run, execution or command. See `AsyncOperation`."""

    def __init__(self, operation: AsyncOperation[R]) -> None:
        self.async_ = operation
        self.id = operation.id

    def get(self) -> R:
        """The result so far; its `outcome` is None until the end."""
        return run_sync(self.async_.get)

    def wait(self) -> R:
        """Wait for the end; the whole result."""
        return run_sync(self.async_.wait)

    def stream(self, after: int = 0) -> BlockingStream[R]:
        """All events from the start (or behind event number `after`), then those to come."""
        return BlockingStream(self.async_.stream(after))

    stop = blocking(AsyncOperation.stop)
    input = blocking(AsyncOperation.input)
    signal = blocking(AsyncOperation.signal)


def streaming(
    method: Callable[Concatenate[A, P], EventStream[R]],
) -> Callable[Concatenate[Wraps[A], P], BlockingStream[R]]:
    """The blocking form of a method that gives a stream."""

    @functools.wraps(method)
    def wrapper(self: Wraps[A], /, *args: P.args, **kwargs: P.kwargs) -> BlockingStream[R]:
        return BlockingStream(method(self.async_, *args, **kwargs))

    return wrapper


def handle(
    method: Callable[Concatenate[A, P], AsyncOperation[R]],
) -> Callable[Concatenate[Wraps[A], P], Operation[R]]:
    """The blocking form of a method that gives a handle."""

    @functools.wraps(method)
    def wrapper(self: Wraps[A], /, *args: P.args, **kwargs: P.kwargs) -> Operation[R]:
        return Operation(method(self.async_, *args, **kwargs))

    return wrapper


def starting(
    method: Callable[Concatenate[A, P], Awaitable[AsyncOperation[R]]],
) -> Callable[Concatenate[Wraps[A], P], Operation[R]]:
    """The blocking form of a method that starts something detached."""

    @functools.wraps(method)
    def wrapper(self: Wraps[A], /, *args: P.args, **kwargs: P.kwargs) -> Operation[R]:
        return Operation(run_sync(lambda: method(self.async_, *args, **kwargs)))

    return wrapper


class Files:
    """A session's files. See `AsyncFiles`."""

    def __init__(self, files: AsyncFiles) -> None:
        self.async_ = files

    list = blocking(AsyncFiles.list)
    read = blocking(AsyncFiles.read)
    read_text = blocking(AsyncFiles.read_text)
    chunks = blocking_iterator(AsyncFiles.chunks)
    write = blocking(AsyncFiles.write)
    upload = blocking(AsyncFiles.upload)
    download = blocking(AsyncFiles.download)
    delete = blocking(AsyncFiles.delete)
    mkdir = blocking(AsyncFiles.mkdir)
    move = blocking(AsyncFiles.move)
    archive = blocking(AsyncFiles.archive)
    download_archive = blocking(AsyncFiles.download_archive)
    extract = blocking(AsyncFiles.extract)


class Terminal:
    """An open terminal. See `AsyncTerminal`."""

    def __init__(self, terminal: AsyncTerminal) -> None:
        self.async_ = terminal

    @property
    def exit(self) -> TerminalExit | None:
        return self.async_.exit

    read = blocking(AsyncTerminal.read)
    write = blocking(AsyncTerminal.write)
    resize = blocking(AsyncTerminal.resize)


class Session:
    """One session. As a context manager it is closed at the end. See `AsyncSession`."""

    def __init__(self, session: AsyncSession) -> None:
        self.async_ = session
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

    stream = streaming(AsyncSession.stream)
    start = starting(AsyncSession.start)
    execution = handle(AsyncSession.execution)
    stream_command = streaming(AsyncSession.stream_command)
    start_command = starting(AsyncSession.start_command)
    command_handle = handle(AsyncSession.command_handle)

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


class ExecutorClient:
    """The executor service's API, blocking. Arguments as `AsyncExecutorClient`. Works in notebooks."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        autostart: bool = True,
    ) -> None:
        self.async_ = AsyncExecutorClient(base_url, api_key, retries=retries, autostart=autostart)

    run = blocking(AsyncExecutorClient.run)
    close_session = blocking(AsyncExecutorClient.close_session)
    list_sessions = blocking(AsyncExecutorClient.list_sessions)
    iter_sessions = blocking_iterator(AsyncExecutorClient.iter_sessions)
    languages = blocking(AsyncExecutorClient.languages)
    images = blocking(AsyncExecutorClient.images)
    info = blocking(AsyncExecutorClient.info)
    ready = blocking(AsyncExecutorClient.ready)
    url = blocking(AsyncExecutorClient.url)
    close = blocking(AsyncExecutorClient.close)

    stream_run = streaming(AsyncExecutorClient.stream_run)
    start_run = starting(AsyncExecutorClient.start_run)
    detached_run = handle(AsyncExecutorClient.detached_run)

    def create_session(self, **options: Unpack[SessionOptions]) -> Session:
        """A new session; use it as a context manager to have it closed at the end."""
        return Session(run_sync(lambda: self.async_.create_session(**options)))

    def get_session(self, id: str) -> Session:
        """An existing session."""
        return Session(run_sync(lambda: self.async_.get_session(id)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
