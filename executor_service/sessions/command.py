"""The work of one process in a session's sandbox: a command, or an execution in `bash`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from executor_service.errors import Internal, NotWaitingForInput, SandboxFailed
from executor_service.events import File, Json
from executor_service.result import Usage
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.files import now_ns
from executor_service.sandboxes.guest import Ended, NotKept, ProgramSpec
from executor_service.sandboxes.stash import drop
from executor_service.sessions.checks import check_signal
from executor_service.sessions.execution_fields import execution_fields, exit_detail, shell_done
from executor_service.sessions.keeper import lost_fields
from executor_service.sessions.operation import Operation
from executor_service.sessions.outcome import Verdict, classify
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import GuestPort, ProgramPort
from executor_service.sessions.program_fields import program_fields, used
from executor_service.sessions.pump import feed, feeding, pump
from executor_service.sessions.readings import Reading, Start, begin, read_meters

log = logging.getLogger(__name__)

KILL_TIME = 3.0  # seconds that a killed program has to report its end


class Command:
    """One process's work; the operation's `Control`.

    `on_lost` is called when the guest cannot say how the process ended: the session must end then.
    """

    def __init__(
        self,
        operation: Operation,
        spec: ProgramSpec,
        *,
        stdin: bytes,
        keep_stdin: bool,
        sandbox: Sandbox,
        guest: GuestPort,
        policy: Policy,
        on_lost: Callable[[], object],
        start: Start | None = None,
    ) -> None:
        """With a `start` the guest keeps it, so that it outlives this service."""
        self._operation = operation
        self._start = start
        self._spec = spec
        self._stdin = stdin
        self._stdin_open = keep_stdin
        self._sandbox = sandbox
        self._guest = guest
        self._policy = policy
        self._on_lost = on_lost
        self._program: ProgramPort | None = None
        self._entered = asyncio.Event()
        self._feeding: asyncio.Task[None] | None = None
        self._stopped: str | None = None
        self._task: asyncio.Task[None] | None = None

    # -- steering ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Kill it; what it printed and how it ended is still heard, but not for long."""
        self._stopped = self._stopped or ""
        asyncio.get_running_loop().call_later(KILL_TIME, self._cancel)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_TIME):
                await self._entered.wait()
                if self._program is not None:
                    await self._program.kill()

    def abort(self) -> None:
        """End it at once: the session is closed."""
        self._stopped = "the session was closed"
        self._cancel()

    async def interrupt(self) -> None:
        """As Ctrl-C would."""
        await self.signal("SIGINT")

    def restarted(self) -> None:
        """Its session's kernel is being restarted, which kills what a kernel runs; a shell with it."""
        self._stopped = "the kernel was restarted"
        self._cancel()

    async def input(self, data: bytes | str, *, close: bool) -> None:
        if not self._stdin_open:
            raise NotWaitingForInput("the command's input is closed")
        await self._entered.wait()
        if self._feeding is not None:  # what came with the command comes first
            await asyncio.wait([self._feeding])
        if self._program is None:
            raise NotWaitingForInput("the command has ended")
        self._stdin_open = not close
        await feed(self._program, data.encode() if isinstance(data, str) else data, close=close)

    async def signal(self, name: str) -> None:
        check_signal(name)
        await self._entered.wait()
        if self._program is not None:
            await self._program.signal(name)

    def _cancel(self) -> None:
        if self._task is not None and self._operation.state == "running":
            self._task.cancel()

    def _uncancel(self) -> None:
        if self._task is not None:
            self._task.uncancel()

    # -- working ----------------------------------------------------------------------------------

    async def work(self) -> None:
        """All of it, to the operation's end."""
        self._task, started, since = asyncio.current_task(), time.monotonic(), now_ns()
        ended, before = None, Reading(usage=Usage(), oom_kills=0)
        try:
            start = self._start or await begin(self._sandbox)
            since, before = start.since_ns, start.before
            if self._stopped is None:  # it may have been stopped before it began
                ended = await self._go()
            if ended is None and self._stopped is None:
                self._on_lost()
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            self._uncancel()
        except NotKept:  # of an operation that began under another service
            await self._operation.finish(lost_fields(self._operation.kind, self._operation.elapsed))
            return
        except Exception:
            log.exception("command %s failed", self._operation.id)
            self._operation.fail(Internal("the command could not be carried out; the service's log says why"))
            return
        finally:
            self._entered.set()
        await self._conclude(ended, before, since, time.monotonic() - started)

    async def _go(self) -> Ended | None:
        try:
            async with self._made() as program:
                self._program = program
                close = self._spec.stdin and not self._stdin_open
                if self._start is not None and self._start.again:
                    await self._look_at_input(program)
                    close = False
                async with feeding(program, self._stdin, close=close) as self._feeding:
                    self._entered.set()
                    journal, limit = self._operation.journal, self._spec.output_bytes
                    return await pump(program, journal, limit=limit, kept=self._start is not None)
        except NotKept:
            raise
        except SandboxFailed:
            return None
        finally:
            self._program = None

    def _made(self) -> ProgramPort:
        if self._start is None:
            return self._guest.program(self._sandbox, self._spec)
        if self._start.again:
            return self._guest.attach_program(self._sandbox, self._spec, self._operation.id)
        return self._guest.program(self._sandbox, self._spec, keep=self._operation.id)

    async def _look_at_input(self, program: ProgramPort) -> None:
        """A program that began under another service: the input that came with it may have been cut."""
        if program.stdin_open and not self._stdin_open:
            self._stopped = "the service was restarted while it gave the command its input"
            await program.kill()
        self._stdin_open &= program.stdin_open

    async def forget(self) -> None:
        """The guest need not keep it any more."""
        await drop(self._sandbox, self._operation.id)

    async def _conclude(self, ended: Ended | None, before: Reading, since: int, seconds: float) -> None:
        after = await read_meters(self._sandbox)
        stopped = self._stopped is not None
        verdict = classify(ended, oom_kills=after.oom_kills - before.oom_kills, stopped=stopped)
        if self._stopped:
            verdict = replace(verdict, detail=self._stopped)
        usage = used(before.usage, after.usage, ended)
        if ended is not None:  # its own: others run beside it
            usage = replace(usage, cpu_time=ended.cpu_time)
        if self._operation.kind == "command":
            usage = replace(usage, peak_memory_bytes=None)  # the sandbox's says nothing of one command
            fields = program_fields(verdict, ended, duration=seconds, usage=usage)
        else:
            verdict = replace(verdict, detail=verdict.detail or exit_detail(ended))
            fields = await self._as_execution(verdict, ended, usage, since, seconds)
        await self._operation.finish(fields)

    async def _as_execution(
        self, verdict: Verdict, ended: Ended | None, usage: Usage, since: int, seconds: float
    ) -> dict[str, Json]:
        files: list[tuple[str, int]] = []
        truncated = False
        if ended is not None:
            with contextlib.suppress(SandboxFailed):
                found, truncated = await self._guest.files(self._sandbox).changed(
                    since, self._policy.max_changed
                )
                files = list(found)
        for path, size in files:
            self._operation.journal.append(File(path=path, size=size))
        return execution_fields(
            verdict,
            shell_done(ended),
            None,
            files=files,
            files_truncated=truncated,
            duration=ended.duration if ended else seconds,
            usage=usage,
            state_lost=False,
        )
