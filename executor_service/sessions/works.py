"""The work of one session: what goes on in it, and for a while what has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from executor_service.sandboxes.base import Sandbox
from executor_service.sessions.command import Command
from executor_service.sessions.execution import Cell, Execution
from executor_service.sessions.keeper import Keeper
from executor_service.sessions.kept import Kept
from executor_service.sessions.kernel_holder import KernelHolder
from executor_service.sessions.operation import Operation
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import GuestPort, KernelPort
from executor_service.sessions.readings import Start
from executor_service.sessions.session_plan import ShellPlan
from executor_service.tasks import Tasks

Work = Execution | Command


class Works:
    """Each operation with the work that it stands for; executions and commands are remembered apart."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        guest: GuestPort,
        policy: Policy,
        clock: Callable[[], float],
        tasks: Tasks,
        keeper: Keeper | None,
        on_lost: Callable[[], object],
        on_end: Callable[[Operation, Work], None],
    ) -> None:
        """`on_end` is called when work is over, however. With a `keeper` what is detached outlives us."""
        count, size = policy.session_keep_count, policy.session_keep_bytes
        self.executions = Kept(seconds=policy.keep_for, count=count, size=size)
        self.commands = Kept(seconds=policy.keep_for, count=count, size=size)
        self._sandbox = sandbox
        self._guest = guest
        self._policy = policy
        self._clock = clock
        self._tasks = tasks
        self._keeper = keeper
        self._on_lost = on_lost
        self._on_end = on_end
        self._works: dict[str, Work] = {}

    @property
    def running(self) -> list[Operation]:
        """Executions and commands that go on."""
        return [*self.executions.running(), *self.commands.running()]

    def of(self, operation: Operation) -> Work:
        """The work of an operation that runs."""
        return self._works[operation.id]

    def process(self, operation: Operation, plan: ShellPlan, start: Start | None) -> Command:
        """The work of a command, or of an execution that is a process."""
        return Command(
            operation,
            plan.spec,
            stdin=plan.stdin,
            keep_stdin=plan.keep_stdin,
            sandbox=self._sandbox,
            guest=self._guest,
            policy=self._policy,
            on_lost=self._on_lost,
            start=start,
        )

    def cell(
        self,
        operation: Operation,
        cell: Cell,
        kernel: KernelPort,
        start: Start | None,
        holder: KernelHolder,
    ) -> Execution:
        """The work of an execution in a kernel."""
        return Execution(
            operation,
            cell,
            kernel=kernel,
            holder=holder,
            sandbox=self._sandbox,
            files=self._guest.files(self._sandbox),
            policy=self._policy,
            start=start,
        )

    def begin(self, operation: Operation, work: Work) -> None:
        """Have `work` done, and remember the operation."""
        self.remember(operation, work.forget)
        operation.control = work
        self._works[operation.id] = work
        self._tasks.start(self._carry(operation, work), name=operation.id)

    async def _carry(self, operation: Operation, work: Work) -> None:
        try:
            await work.work()
        finally:
            del self._works[operation.id]
            self._on_end(operation, work)

    def remember(self, operation: Operation, forget: Callable[[], Awaitable[None]]) -> None:
        """It can be asked for from now on; `forget` has the guest keep it no more, where it did."""
        kept = self.executions if operation.kind == "execution" else self.commands
        kept.trim(self._clock())
        kept.add(operation)
        if self._keeper is not None and operation.detached:
            operation.seal = partial(self._keeper.seal, forget=forget)

    def abort(self) -> None:
        """End all that goes on."""
        for work in list(self._works.values()):
            work.abort()

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing runs, not longer than `seconds`."""
        waits = [asyncio.create_task(each.journal.ended_event.wait()) for each in self.running]
        if waits:
            await asyncio.wait(waits, timeout=seconds)
            for wait in waits:
                wait.cancel()
