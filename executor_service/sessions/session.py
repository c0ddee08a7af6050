"""One session: a sandbox with a kernel, claimed by one caller until it is closed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal

from executor_service.errors import (
    CommandNotFound,
    ExecutionNotFound,
    QuotaExceeded,
    SessionBusy,
    SessionClosed,
)
from executor_service.events import Json
from executor_service.limits import SANDBOX_FIELDS, Limits
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.files import Files
from executor_service.sessions.catalog import Offer
from executor_service.sessions.checks import check_seconds
from executor_service.sessions.command import Command
from executor_service.sessions.environment import environment, for_kernel
from executor_service.sessions.execution import Cell, Execution
from executor_service.sessions.expiry import Lifetime, expired, instant
from executor_service.sessions.kept import Kept
from executor_service.sessions.kernel_holder import KernelHolder
from executor_service.sessions.operation import Kind, Operation
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import GuestPort, KernelPort, ProgramPort
from executor_service.sessions.requests import CommandRequest, ExecutionRequest
from executor_service.sessions.session_plan import (
    ShellPlan,
    plan_command,
    plan_execution,
    terminal_spec,
)
from executor_service.tasks import Tasks

State = Literal["ready", "busy", "closed"]
Work = Execution | Command
CLOSE_TIME = 5.0  # seconds that the work of a session has to end when the session does


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a session was made from: whose, what, and for how long."""

    owner: str
    offer: Offer
    backend: str
    limits: Limits
    env: Mapping[str, str]
    metadata: Mapping[str, str]
    ttl: float
    idle_ttl: float


class Session:
    """Made by `Sessions.create`. Once closed, every verb raises SessionClosed with the reason."""

    def __init__(
        self,
        claim: Claim,
        sandbox: Sandbox,
        *,
        number: int,
        guest: GuestPort,
        policy: Policy,
        clock: Callable[[], float],
        on_lost: Callable[[Session], object],
    ) -> None:
        self.id = "ses_" + secrets.token_hex(16)
        self.number = number
        self.claim = claim
        self.sandbox = sandbox
        self.closed_because: str | None = None
        self._guest = guest
        self._policy = policy
        self._clock = clock
        self._on_lost = on_lost
        self._created_at = self._last_used_at = clock()
        self._expires_at = self._created_at + claim.ttl
        self._tasks = Tasks()
        env = environment(claim.offer.language.env, claim.env, cpus=claim.limits.cpus)
        self._env: Mapping[str, str] = env
        self._holder = KernelHolder(sandbox, guest=guest, env=for_kernel(env), tasks=self._tasks)
        bounds = {"seconds": policy.keep_for}
        self._executions = Kept(**bounds, count=policy.session_keep_count, size=policy.session_keep_bytes)
        self._commands = Kept(**bounds, count=policy.session_keep_count, size=policy.session_keep_bytes)
        self._works: dict[str, Work] = {}
        self._claimed = False
        self._restarting: asyncio.Task[None] | None = None
        self._using = self._terminals = 0
        self._finished = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.state} running={len(self._works)}>"

    async def start(self) -> None:
        """Connect to the kernel. Raises SandboxFailed."""
        await self._holder.start()

    # -- what it is -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self.closed_because is not None:
            return "closed"
        return "busy" if self._claimed or self._restarting or self._executions.running() else "ready"

    @property
    def running(self) -> list[Operation]:
        """Executions and commands that go on."""
        return [*self._executions.running(), *self._commands.running()]

    def view(self) -> dict[str, Json]:
        """The JSON body of docs/api.md."""
        claim = self.claim
        return {
            "id": self.id,
            "state": self.state,
            "language": claim.offer.language.name,
            "image": claim.offer.image,
            "backend": claim.backend,
            "limits": {name: getattr(claim.limits, name) for name in sorted(SANDBOX_FIELDS)},
            "network": False,
            "metadata": dict(claim.metadata),
            "created_at": instant(self._created_at),
            "expires_at": instant(self._expires_at),
            "last_used_at": instant(self._last_used_at),
        }

    def expired(self, now: float) -> str | None:
        """Why its time is over, if it is."""
        active = bool(self._using or self._claimed or self._restarting or self.running)
        life = Lifetime(
            expires_at=self._expires_at,
            last_used_at=self._last_used_at,
            idle_ttl=self.claim.idle_ttl,
            active=active,
        )
        return expired(life, now)

    # -- its life ---------------------------------------------------------------------------------

    async def renew(self, ttl: float | None = None) -> None:
        """It now lives `ttl` seconds from this instant (None: the default). Raises InvalidRequest."""
        self._touch()
        wanted = self._policy.ttl if ttl is None else ttl
        self._expires_at = self._clock() + check_seconds("ttl", wanted, most=self._policy.max_ttl)

    async def interrupt(self) -> None:
        """Interrupt the execution that runs; nothing when idle. Does not wait for its end.

        Raises:
            SandboxFailed: the sandbox does not answer.
        """
        self._touch()
        for operation in self._executions.running():
            await self._works[operation.id].interrupt()

    async def restart(self) -> None:
        """A fresh kernel: state lost, files kept, what the kernel left running killed.

        Raises:
            SandboxFailed: a fresh kernel does not start.
        """
        self._touch()
        if self._restarting is None:
            self._restarting = self._tasks.start(self._restart(), name=f"restart {self.id}")
        await asyncio.wait([self._restarting])
        await self._kernel()

    async def close(self, reason: str, *, died: bool = False) -> None:
        """End everything but the sandbox itself, which is the caller's to release. Idempotent."""
        if self.closed_because is not None:
            await self._finished.wait()
            return
        self.closed_because = reason
        try:
            if died:  # what runs notices by itself, and says so
                await self._quiet(CLOSE_TIME)
            for work in list(self._works.values()):
                work.abort()
            await self._quiet(CLOSE_TIME)
            await self._holder.close()
            await self._tasks.cancel()
        finally:
            self._finished.set()

    @contextmanager
    def using(self) -> Iterator[None]:
        """Counts as use for as long as it lasts: a transfer, a terminal."""
        self._touch()
        self._using += 1
        try:
            yield
        finally:
            self._using -= 1
            self._last_used_at = self._clock()

    # -- what it does -----------------------------------------------------------------------------

    async def execute(self, request: ExecutionRequest) -> Operation:
        """Start an execution; one sent during a restart waits for it.

        Raises:
            CallerError: SessionBusy, LanguageNotFound, InvalidRequest, LimitTooHigh.
            ServiceFault: SandboxFailed.
        """
        self._touch()
        plan = plan_execution(request, self.claim.offer, self._policy, self._env)
        if self._restarting is not None:
            await asyncio.wait([self._restarting])
            self._touch()
        if self.state == "busy":
            raise SessionBusy("an execution is running in this session; one at a time")
        self._claimed = True
        try:
            if isinstance(plan, ShellPlan):
                return self._begin_command("execution", plan, detached=request.detach)
            kernel = await self._kernel()
            operation = self._operation("execution", request.detach)
            work = Execution(
                operation,
                Cell(code=plan.code, allow_input=plan.allow_input, limits=plan.limits),
                kernel=kernel,
                holder=self._holder,
                sandbox=self.sandbox,
                files=self._guest.files(self.sandbox),
                policy=self._policy,
            )
            self._begin(operation, work)
            return operation
        finally:
            self._claimed = False

    async def command(self, request: CommandRequest) -> Operation:
        """Start a command.

        Raises:
            CallerError: QuotaExceeded, InvalidRequest, InvalidPath, LimitTooHigh.
        """
        self._touch()
        plan = plan_command(request, self.claim.offer, self._policy, self._env)
        self._admit_process()
        return self._begin_command("command", plan, detached=request.detach)

    @asynccontextmanager
    async def terminal(self, rows: int, cols: int) -> AsyncIterator[ProgramPort]:
        """A shell on a pseudo-terminal; leaving it kills it.

        Raises:
            QuotaExceeded: too many commands and terminals already.
            SandboxFailed: the sandbox does not answer.
        """
        self._touch()
        self._admit_process()
        spec = terminal_spec(rows, cols, self._policy, self._env)
        self._terminals += 1
        try:
            with self.using():
                async with self._guest.program(self.sandbox, spec) as program:
                    yield program
        finally:
            self._terminals -= 1

    @property
    def files(self) -> Files:
        """The workspace. Asking for it counts as use; see `using` for what takes long."""
        self._touch()
        return self._guest.files(self.sandbox)

    # -- what it remembers ------------------------------------------------------------------------

    def executions(self) -> list[Operation]:
        """What is remembered, newest first."""
        return self._remembered(self._executions)

    def commands(self) -> list[Operation]:
        """What is remembered, newest first."""
        return self._remembered(self._commands)

    def execution(self, execution_id: str) -> Operation:
        """Raises ExecutionNotFound."""
        self._require_open()
        operation = self._executions.get(execution_id, self._clock())
        if operation is None:
            raise ExecutionNotFound(f"this session has no execution {execution_id[:80]!r}")
        return operation

    def command_of(self, command_id: str) -> Operation:
        """Raises CommandNotFound. (`command` itself is the verb.)"""
        self._require_open()
        operation = self._commands.get(command_id, self._clock())
        if operation is None:
            raise CommandNotFound(f"this session has no command {command_id[:80]!r}")
        return operation

    def _remembered(self, kept: Kept) -> list[Operation]:
        self._require_open()
        kept.trim(self._clock())
        return list(kept)[::-1]

    # -- inside -----------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self.closed_because is not None:
            raise SessionClosed(f"session {self.id} is closed: {self.closed_because}")

    def _touch(self) -> None:
        self._require_open()
        self._last_used_at = self._clock()

    async def _kernel(self) -> KernelPort:
        """A living kernel. Raises SandboxFailed, or SessionClosed if that came meanwhile."""
        try:
            return await self._holder.ready()
        finally:
            self._touch()

    def _admit_process(self) -> None:
        busy = len(self._commands.running()) + self._terminals
        if busy >= self._policy.max_commands:
            raise QuotaExceeded(f"{busy} commands and terminals go on in this session, no more are allowed")

    def _operation(self, kind: Kind, detached: bool) -> Operation:
        return Operation(kind=kind, owner=self.claim.owner, detached=detached, clock=self._clock)

    def _begin_command(
        self, kind: Literal["execution", "command"], plan: ShellPlan, *, detached: bool
    ) -> Operation:
        operation = self._operation(kind, detached)
        work = Command(
            operation,
            plan.spec,
            stdin=plan.stdin,
            keep_stdin=plan.keep_stdin,
            sandbox=self.sandbox,
            guest=self._guest,
            policy=self._policy,
            on_lost=lambda: self._on_lost(self),
        )
        self._begin(operation, work)
        return operation

    def _begin(self, operation: Operation, work: Work) -> None:
        kept = self._executions if operation.kind == "execution" else self._commands
        kept.trim(self._clock())
        kept.add(operation)
        operation.control = work
        self._works[operation.id] = work
        self._tasks.start(self._carry(operation, work), name=operation.id)

    async def _carry(self, operation: Operation, work: Work) -> None:
        try:
            await work.work()
        finally:
            operation.abandon(self.closed_because or "the service stopped")
            del self._works[operation.id]
            self._last_used_at = self._clock()

    async def _restart(self) -> None:
        try:
            running = self._executions.running()
            for operation in running:
                self._works[operation.id].restarted()
            self._holder.restart()
            for operation in running:
                await operation.journal.ended_event.wait()
        finally:
            self._restarting = None

    async def _quiet(self, seconds: float) -> None:
        """Wait until nothing runs, not longer than `seconds`."""
        waits = [asyncio.create_task(each.journal.ended_event.wait()) for each in self.running]
        if waits:
            await asyncio.wait(waits, timeout=seconds)
            for wait in waits:
                wait.cancel()
