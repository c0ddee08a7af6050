"""The work of one execution in a session's kernel: pass on what it shows, keep it in its limits.

Code that must end is interrupted first, so that its session's state is kept; what ignores that for
`Policy.interrupt_grace` seconds loses its kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from executor_service.errors import Internal, NotWaitingForInput, SandboxFailed
from executor_service.events import Error, Event, File, InputRequest, Json
from executor_service.limits import Limits
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.file_call import FileCall
from executor_service.sandboxes.files import Files
from executor_service.sandboxes.kernel import KernelDone
from executor_service.sessions.execution_fields import execution_fields, kernel_died
from executor_service.sessions.kernel_holder import KernelHolder
from executor_service.sessions.operation import Operation
from executor_service.sessions.outcome import Cause, KernelEnd, classify_execution
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import KernelPort
from executor_service.sessions.program_fields import used
from executor_service.sessions.readings import Reading, Start, begin, read_meters
from executor_service.sessions.stopwatch import Stopwatch

log = logging.getLogger(__name__)

CPU_INTERVAL = 0.1
_MUST_END: frozenset[Cause] = frozenset({"wall_time", "cpu_time", "stopped"})
LAST_WORDS = 5.0  # seconds that an execution has to end once its kernel was killed
DEATH_NOTICE = 1.0  # seconds by which the news of a dead sandbox may follow that of its kernel


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is executed, and within what."""

    code: str
    allow_input: bool
    limits: Limits


class Execution:
    """One execution's work; the operation's `Control`."""

    def __init__(
        self,
        operation: Operation,
        cell: Cell,
        *,
        kernel: KernelPort,
        holder: KernelHolder,
        sandbox: Sandbox,
        files: Files,
        policy: Policy,
        start: Start | None = None,
    ) -> None:
        """With a `start` the guest keeps it, so that it outlives this service."""
        self._operation = operation
        self._start = start
        self._cell = cell
        self._kernel = kernel
        self._holder = holder
        self._sandbox = sandbox
        self._files = files
        self._policy = policy
        self._attention = asyncio.Event()
        self._watch = Stopwatch(time.monotonic)
        self._cause: Cause | None = None
        self._killed = False
        self._error: Error | None = None
        self._done: KernelDone | None = None
        self._ready: asyncio.Task[FileCall | None] | None = None

    # -- steering ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Interrupt it, and kill its kernel if that does not help."""
        self._because("stopped")

    def abort(self) -> None:
        """End it at once: the session is closed."""
        self._cause = "closed"
        self._attention.set()

    async def interrupt(self) -> None:
        """Interrupt it once; it may go on if it likes. Raises SandboxFailed."""
        self._cause = self._cause or "interrupt"
        await self._kernel.interrupt()

    def restarted(self) -> None:
        """Its kernel is being taken away on the caller's behalf."""
        self._cause = "restart"

    async def input(self, data: bytes | str, *, close: bool) -> None:  # noqa: ARG002
        if not self._watch.paused:
            raise NotWaitingForInput("the execution does not wait for input")
        await self._kernel.answer(data if isinstance(data, str) else data.decode("utf-8", "replace"))
        self._watch.resume()
        self._attention.set()

    async def signal(self, name: str) -> None:  # noqa: ARG002
        raise NotWaitingForInput("an execution takes no signals; interrupt its session")

    # -- working ----------------------------------------------------------------------------------

    async def work(self) -> None:
        """All of it, to the operation's end."""
        try:
            start = self._start or await begin(self._sandbox)
            since, before = start.since_ns, start.before
            self._watch = Stopwatch(time.monotonic)
            consumer = asyncio.create_task(self._consume(), name=f"{self._operation.id} events")
            async with self._helper():
                try:
                    if start.again:
                        await self._catch_up(consumer)
                    await self._supervise(consumer, before)
                finally:
                    consumer.cancel()
                    await asyncio.wait([consumer])
                if not consumer.cancelled() and (error := consumer.exception()) is not None:
                    await self._forgive(error)
                await self._conclude(before, since)
        except SandboxFailed as error:
            log.warning("execution %s: %s", self._operation.id, error.detail)
            self._operation.fail(error)
        except Exception:
            log.exception("execution %s failed", self._operation.id)
            self._operation.fail(
                Internal("the execution could not be carried out; the service's log says why")
            )

    @contextlib.asynccontextmanager
    async def _helper(self) -> AsyncIterator[None]:
        """While the cell runs, have the guest make ready what will look for changed files."""
        async with contextlib.AsyncExitStack() as stack:
            ready = stack.enter_async_context(self._files.ready())
            self._ready = asyncio.create_task(ready, name=f"{self._operation.id} helper")
            try:
                yield
            finally:
                self._ready.cancel()
                await asyncio.wait([self._ready])

    async def _forgive(self, error: BaseException) -> None:
        """Raise `error`, unless it is a failure of the sandbox that has a cause: then that is the outcome."""
        ended = self._killed or self._cause not in (None, "interrupt")
        if not isinstance(error, SandboxFailed) or not (
            ended or await self._sandbox_is_gone(KernelDone(status="died"))
        ):
            raise error

    async def forget(self) -> None:
        """The guest need not keep it any more."""
        await self._kernel.forget()

    async def _catch_up(self, consumer: asyncio.Task[None]) -> None:
        """Hear what happened before, and how long the code has run by now."""
        heard = asyncio.create_task(self._kernel.caught_up.wait())
        await asyncio.wait([consumer, heard], return_when=asyncio.FIRST_COMPLETED)
        heard.cancel()
        times = self._kernel.times
        until = times.ended_at or times.asked_at
        ran = (until or time.time()) - self._operation.started_at - times.waited
        self._watch = Stopwatch(time.monotonic, already=max(0.0, ran))
        if until is not None:
            self._watch.pause()

    async def _events(self) -> AsyncGenerator[Event | KernelDone, None]:
        cell = self._cell
        if self._start is not None and self._start.again:
            self._operation.journal.skip(self._kernel.skipped)
            return self._kernel.resume()
        await self._kernel.limit_open_files(cell.limits.open_files)
        return self._kernel.execute(
            cell.code,
            allow_input=cell.allow_input,
            output_bytes=cell.limits.output_bytes,
            keep=None if self._start is None else self._operation.id,
        )

    async def _consume(self) -> None:
        """Pass on what the kernel shows, to the end."""
        events = await self._events()
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, KernelDone):
                    self._done = event
                    return
                if isinstance(event, InputRequest):
                    if self._kernel.waits:
                        self._watch.pause()
                elif isinstance(event, Error):
                    self._error = event
                self._operation.journal.append(event)

    async def _supervise(self, consumer: asyncio.Task[None], before: Reading) -> None:
        """Until it has ended, by itself or by us."""
        limits = self._cell.limits
        waits = [
            asyncio.create_task(self._kernel.over_limit.wait()),
            asyncio.create_task(self._attention.wait()),
        ]
        try:
            while not consumer.done():
                await self._look(consumer, waits)
                if not self._watch.paused and self._watch.seconds >= limits.wall_time:
                    self._because("wall_time")
                elif limits.cpu_time is not None and await self._cpu_used(before) > limits.cpu_time:
                    self._because("cpu_time")
                if consumer.done() or self._closed:
                    return
                if self._cause in _MUST_END or self._kernel.over_limit.is_set():
                    await self._end(consumer)
                    return
                if self._attention.is_set():
                    self._attention.clear()
                    waits[1] = asyncio.create_task(self._attention.wait())
        finally:
            for wait in waits:
                wait.cancel()

    async def _look(self, consumer: asyncio.Task[None], waits: Sequence[asyncio.Task[bool]]) -> None:
        """Wait until there may be something to decide."""
        timeout = None if self._watch.paused else max(0.0, self._cell.limits.wall_time - self._watch.seconds)
        if self._cell.limits.cpu_time is not None:
            timeout = min(CPU_INTERVAL, CPU_INTERVAL if timeout is None else timeout)
        await asyncio.wait([consumer, *waits], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _cpu_used(self, before: Reading) -> float:
        return used(before.usage, (await read_meters(self._sandbox)).usage, None).cpu_time or 0.0

    async def _end(self, consumer: asyncio.Task[None]) -> None:
        """Interrupt; take the kernel away from what ignores that."""
        interrupt = asyncio.create_task(self._interrupt_quietly())
        try:
            await self._wait_end(consumer, self._policy.interrupt_grace)
        finally:
            interrupt.cancel()
        if not (consumer.done() or self._closed):
            self._killed = True
            self._holder.restart()
            await self._wait_end(consumer, LAST_WORDS)

    async def _wait_end(self, consumer: asyncio.Task[None], seconds: float) -> None:
        """Until it has ended or its session is closed."""
        self._attention.clear()
        attention = asyncio.create_task(self._attention.wait())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not (consumer.done() or self._closed) and (left := deadline - loop.time()) > 0:
            await asyncio.wait([consumer, attention], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if attention.done():
                self._attention.clear()
                attention = asyncio.create_task(self._attention.wait())
        attention.cancel()

    async def _interrupt_quietly(self) -> None:
        with contextlib.suppress(SandboxFailed):
            await self._kernel.interrupt()

    @property
    def _closed(self) -> bool:
        return self._cause == "closed"

    def _because(self, cause: Cause) -> None:
        """Note why it must end; the first reason counts, but for a mere interrupt before it."""
        if self._cause in (None, "interrupt"):
            self._cause = cause
        self._attention.set()

    # -- ending -----------------------------------------------------------------------------------

    async def _conclude(self, before: Reading, since: int) -> None:
        done = self._done or KernelDone(status="died")
        seconds = self._watch.seconds
        died = done.status == "died"
        sandbox_died = died and not self._killed and await self._sandbox_is_gone(done)
        after = await read_meters(self._sandbox)
        if died and not sandbox_died and not self._killed and self._cause in (None, "interrupt"):
            self._error = kernel_died(done)
            self._operation.journal.append(self._error)
        end = KernelEnd(
            status=done.status,
            error_name=self._error.name if self._error else None,
            named=self._holder.named,
            cause=self._cause,
            killed=self._killed,
            oom_kills=after.oom_kills - before.oom_kills,
            output_limit=done.output_limit or self._kernel.over_limit.is_set(),
            sandbox_died=sandbox_died,
        )
        gone = sandbox_died or self._closed
        if died and not (gone or self._killed or self._cause == "restart"):
            self._holder.restart()
        changed, truncated = ([], False) if gone else await self._changed(since)
        fields: dict[str, Json] = execution_fields(
            classify_execution(end),
            done,
            self._error,
            files=changed,
            files_truncated=truncated,
            duration=seconds,
            usage=used(before.usage, after.usage, None),
            state_lost=self._holder.take_lost() or died or self._killed,
        )
        await self._operation.finish(fields)

    async def _sandbox_is_gone(self, done: KernelDone) -> bool:
        """Whether the kernel ended because its sandbox did; that news may come a moment later."""
        if done.exit_code is None and done.signal is None and self._cause is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEATH_NOTICE):
                    await self._sandbox.died.wait()
        return self._sandbox.died.is_set()

    async def _changed(self, since: int) -> tuple[Sequence[tuple[str, int]], bool]:
        """Files that were created or changed meanwhile, told as events too."""
        try:
            ready = await self._ready if self._ready is not None else None
            changed, truncated = await self._files.changed(since, self._policy.max_changed, ready=ready)
        except SandboxFailed as error:
            log.warning("execution %s: no list of files: %s", self._operation.id, error.detail)
            return [], False
        for path, size in changed:
            self._operation.journal.append(File(path=path, size=size))
        return changed, truncated
