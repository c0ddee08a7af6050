"""The work of one run, in a sandbox that was taken and filled for it: compile, run, collect, conclude."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass

from executor_service.errors import Internal, NotWaitingForInput, SandboxFailed
from executor_service.events import File, Json, Stage, Stderr, Stdout
from executor_service.result import Outcome, Reading, Usage
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.guest import Ended, ProgramSpec
from executor_service.sessions.operation import Operation
from executor_service.sessions.outcome import Verdict, classify, classify_compile
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import GuestPort, ProgramPort
from executor_service.sessions.program_fields import compile_fields, file_fields, program_fields, used
from executor_service.sessions.pump import feeding, pump
from executor_service.sessions.readings import read_meters
from executor_service.sessions.run_plan import RunPlan

log = logging.getLogger(__name__)

KILL_TIME = 3.0  # seconds that a killed program has to report its end


@dataclass(kw_only=True)
class _SoFar:
    """What is known of a run while it goes on."""

    compile: dict[str, Json] | None = None
    verdict: Verdict | None = None
    ended: Ended | None = None
    after: Reading | None = None
    files: dict[str, Json] | None = None


class Run:
    """One run's work; the operation's `Control`."""

    def __init__(
        self, operation: Operation, plan: RunPlan, *, sandbox: Sandbox, guest: GuestPort, policy: Policy
    ) -> None:
        self._operation = operation
        self._plan = plan
        self._sandbox = sandbox
        self._guest = guest
        self._policy = policy
        self._program: ProgramPort | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._so_far = _SoFar()

    # -- steering ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Kill the program; what it printed and how it ended is still heard, but not for long."""
        self._stopped = True
        if self._program is None:
            self._cancel()
            return
        asyncio.get_running_loop().call_later(KILL_TIME, self._cancel)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_TIME):
                await self._program.kill()

    async def input(self, data: bytes | str, *, close: bool) -> None:  # noqa: ARG002
        raise NotWaitingForInput("a run takes its input with the request")

    async def signal(self, name: str) -> None:  # noqa: ARG002
        raise NotWaitingForInput("a run takes no signals")

    def _cancel(self) -> None:
        if self._task is not None and self._operation.state == "running":
            self._task.cancel()

    # -- working ----------------------------------------------------------------------------------

    async def work(self) -> None:
        """All of it, to the operation's end; never raises but CancelledError when the service ends."""
        self._task, started = asyncio.current_task(), time.monotonic()
        before = Reading()
        try:
            before = await read_meters(self._sandbox)
            if not self._stopped:  # it may have been stopped before it began
                await self._stages()
        except asyncio.CancelledError:
            if not self._stopped or self._task is None:
                raise
            self._task.uncancel()
        except SandboxFailed as error:
            self._so_far.verdict = Verdict(outcome=Outcome.SANDBOX_DIED, detail=error.detail)
        except Exception:
            log.exception("run %s failed", self._operation.id)
            self._operation.fail(Internal("the run could not be carried out; the service's log says why"))
            return
        after = self._so_far.after or await read_meters(self._sandbox)
        usage = used(before.usage, after.usage, self._so_far.ended)
        self._operation.complete(self._fields(time.monotonic() - started, usage))

    async def _stages(self) -> None:
        if self._plan.compile is not None and not await self._compile(self._plan.compile):
            return
        self._so_far.ended = await self._go(self._plan.program, self._plan.stdin)
        self._so_far.after = await read_meters(self._sandbox)
        if self._so_far.ended is not None and self._plan.collect and not self._stopped:
            await self._collect()

    async def _compile(self, spec: ProgramSpec) -> bool:
        """Whether there is something to run now."""
        started = time.monotonic()
        ended = await self._go(spec, b"", compiling=True)
        kills = (await read_meters(self._sandbox)).oom_kills
        verdict = classify_compile(ended, oom_kills=kills, stopped=self._stopped)
        events = [each for each in self._operation.journal.events if isinstance(each, Stdout | Stderr)]
        self._so_far.compile = compile_fields(
            verdict,
            ended,
            stdout="".join(each.text for each in events if isinstance(each, Stdout)),
            stderr="".join(each.text for each in events if isinstance(each, Stderr)),
            duration=time.monotonic() - started,
        )
        if verdict.outcome is Outcome.OK:
            return True
        self._so_far.verdict = verdict
        return False

    async def _go(self, spec: ProgramSpec, stdin: bytes, *, compiling: bool = False) -> Ended | None:
        """Run one program to its end; None if the sandbox could not say how that was."""
        try:
            async with self._guest.program(self._sandbox, spec) as program:
                self._program = program
                stage: Stage | None = "compile" if compiling else None
                async with feeding(program, stdin, close=spec.stdin):
                    return await pump(program, self._operation.journal, limit=spec.output_bytes, stage=stage)
        except SandboxFailed:
            return None
        finally:
            self._program = None

    async def _collect(self) -> None:
        try:
            files, omitted = await self._guest.files(self._sandbox).collect(
                self._plan.collect, self._policy.collect_files, self._policy.collect_bytes
            )
        except SandboxFailed as error:
            self._so_far.verdict = Verdict(outcome=Outcome.SANDBOX_DIED, detail=error.detail)
            return
        files = [each for each in files if each != self._plan.written]
        for path, content in files:
            self._operation.journal.append(File(path=path, size=len(content)))
        self._so_far.files = file_fields(files, omitted)

    def _fields(self, duration: float, usage: Usage) -> dict[str, Json]:
        so_far = self._so_far
        kills = so_far.after.oom_kills if so_far.after else 0
        verdict = so_far.verdict or classify(so_far.ended, oom_kills=kills, stopped=self._stopped)
        fields = program_fields(verdict, so_far.ended, duration=duration, usage=usage)
        return fields | {"compile": so_far.compile} | (so_far.files or file_fields([], []))
