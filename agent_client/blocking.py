"""Blocking calls over the async core: one background event loop, usable from scripts and notebooks.

`run_sync` runs a coroutine on a loop of our own in a daemon thread, so it works where a loop is
already running. While it waits, the calling thread does what the coroutine asks of it
(`in_caller`): printing and asking a human belong to the thread that called, where Ctrl-C arrives and
notebooks route output. Ctrl-C cancels the coroutine and waits until it has cleaned up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
import queue
import select
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Job = Callable[[], None]
_INBOX: contextvars.ContextVar[queue.SimpleQueue[_Job | None] | None] = contextvars.ContextVar(
    "codecell_caller", default=None
)
CLEANUP_TIME = 10.0
PATIENCE = 2  # so often Ctrl-C must be pressed again before the cleanup is left


class _Background:
    """The process's loop thread, started at the first blocking call and again after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        if sys.is_finalizing():  # no thread runs or starts any more: waiting for one would never end
            raise RuntimeError("no blocking call can be made while the interpreter ends")
        with self._lock:
            alive = self._thread is not None and self._thread.is_alive() and self._pid == os.getpid()
            if self._loop is None or not alive:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="codecell", daemon=True)
                self._pid = os.getpid()
                self._thread.start()
            if threading.current_thread() is self._thread:
                raise RuntimeError(
                    "a blocking call inside Codecell's own event loop waits for itself: use the async form"
                )
            return self._loop


_BACKGROUND = _Background()


def run_sync(make: Callable[[], Awaitable[T]]) -> T:
    """Run what `make` returns on the background loop and wait for it.

    Raises:
        RuntimeError: called from a coroutine that itself runs on the background loop, or while the
            interpreter ends.
    """
    loop = _BACKGROUND.loop()
    inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
    context = contextvars.copy_context()
    context.run(_INBOX.set, inbox)
    done: Future[T] = Future()
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        try:
            done.set_result(await make())
        except asyncio.CancelledError:
            done.cancel()
            done.set_running_or_notify_cancel()
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread, whatever it is
            done.set_exception(error)

    def start() -> None:
        task = loop.create_task(work(), context=context)
        task.add_done_callback(lambda _: inbox.put(None))  # also of one that is cancelled before it begins
        tasks.append(task)

    def stop() -> None:
        for task in tasks:
            if not task.cancelling():
                task.cancel()
        if not tasks:
            inbox.put(None)

    try:
        loop.call_soon_threadsafe(start)  # a signal's exception may come as early as here
        while (job := inbox.get()) is not None:
            job()
    except BaseException:
        for _ in range(PATIENCE):
            with contextlib.suppress(KeyboardInterrupt):  # `uv run` passes on what the terminal sent already
                loop.call_soon_threadsafe(stop)
                _drain(inbox)
                break
        raise
    try:
        return done.result()
    except CancelledError:
        raise asyncio.CancelledError from None


def blocking_form(method: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """The blocking form of an async method of the same class; an overriding method is heeded."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        bound: Callable[..., Awaitable[T]] = getattr(args[0], method.__name__)
        return run_sync(lambda: bound(*args[1:], **kwargs))

    return wrapper


def _drain(inbox: queue.SimpleQueue[_Job | None]) -> None:
    """Wait for the cancelled work to clean up; what it still wants printed is dropped."""
    try:
        while inbox.get(timeout=CLEANUP_TIME) is not None:
            pass
    except queue.Empty:
        return


def post(function: Callable[[], None]) -> None:
    """Have the blocking caller's thread call `function` (in order); without one, call it here."""
    inbox = _INBOX.get()
    if inbox is None:
        function()
    else:
        inbox.put(function)


async def in_caller(function: Callable[[], T]) -> T:
    """Call `function`, which may block, on the blocking caller's thread, else on a thread of its own."""
    inbox = _INBOX.get()
    if inbox is None:
        return await in_daemon_thread(function)
    answer: Future[T] = Future()

    def job() -> None:
        try:
            answer.set_result(function())
        except Exception as error:  # noqa: BLE001 - handed back to the coroutine
            stopped = isinstance(error, StopIteration)  # which no future can carry
            answer.set_exception(RuntimeError("the function raised StopIteration") if stopped else error)

    inbox.put(job)
    return await asyncio.wrap_future(answer)


_last_question = object()


def typed(prompt: str) -> str:
    """A line from the keyboard. On the main thread that is `input`, with editing and history. Another thread,
    which no Ctrl-C reaches, waits without holding on to a terminal: one that is abandoned neither keeps the
    program from ending nor takes the answer to the next question.

    Raises:
        EOFError: nobody will type, or another question came.
    """
    global _last_question
    _last_question = mine = object()
    if sys.stdin is None:  # it was closed
        raise EOFError
    replaced = not inspect.isbuiltin(input)  # by a notebook, say
    if threading.current_thread() is threading.main_thread() or replaced or not sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - editing and history, where the platform has it
        return input(prompt)
    sys.stdout.write(prompt)
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        if _last_question is not mine:
            raise EOFError
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function, sync or async. A sync one runs on a thread of its own, where it may make
    blocking calls itself, and which keeps nobody from ending if it never returns.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    value = await in_daemon_thread(functools.partial(function, *args))
    return await value if inspect.isawaitable(value) else value


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """Call `function` on a thread of its own, with the caller's context variables. It may never return:
    cancelling abandons the thread, which takes no worker from anyone and does not keep the process alive.
    """
    context = contextvars.copy_context()
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()  # else cancelling takes the future away from under the thread
    values: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(context.run(function))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            errors.append(error)
        done.set_result(None)

    threading.Thread(target=work, name="codecell-call", daemon=True).start()
    await asyncio.wrap_future(done)  # which cannot carry a StopIteration
    if errors:
        raise errors[0]
    return values[0]


def iterate(make: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
    """The items of an async iterator, one blocking step each; closing it closes the source."""
    stream = make()

    async def step() -> tuple[T] | None:
        async for item in stream:
            return (item,)
        return None

    async def close() -> None:
        aclose: Callable[[], Coroutine[Any, Any, None]] | None = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()

    try:
        while (got := run_sync(step)) is not None:
            yield got[0]
    finally:
        if not sys.is_finalizing():  # else the source's connection ends with the process
            run_sync(close)


class PerLoop(Generic[T]):
    """A value that belongs to an event loop (such as a connection pool): one for each loop using it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """The running loop's value. Values of loops that have ended are dropped."""
        loop = asyncio.get_running_loop()
        if loop not in self._values:
            for ended in [known for known in list(self._values) if known.is_closed()]:
                self._values.pop(ended, None)
            self._values[loop] = self._make()
        return self._values[loop]

    def take(self) -> T | None:
        """Hand over the running loop's value to be closed, if there is one."""
        return self._values.pop(asyncio.get_running_loop(), None)
