"""One session: a sandbox with a kernel, claimed by one caller until it is closed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Literal

from executor_service.errors import (
    BackendUnavailable,
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
from executor_service.sessions.checks import check_seconds
from executor_service.sessions.claim import Claim
from executor_service.sessions.environment import environment, way_out
from executor_service.sessions.execution import Cell
from executor_service.sessions.expiry import Lifetime, expired, instant
from executor_service.sessions.keeper import Keeper
from executor_service.sessions.kept import Kept
from executor_service.sessions.kernel_holder import KernelHolder
from executor_service.sessions.kernels import Kernels
from executor_service.sessions.operation import Kind, Operation, Past
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import EgressPort, GuestPort, KernelPort, ProgramPort, WayOut
from executor_service.sessions.readings import Start
from executor_service.sessions.requests import CommandRequest, ExecutionRequest, network_view
from executor_service.sessions.session_plan import (
    ShellPlan,
    limits_of,
    plan_command,
    plan_execution,
    terminal_spec,
)
from executor_service.sessions.store import SessionRow, Stdin, Store
from executor_service.sessions.works import Work, Works
from executor_service.tasks import Tasks

State = Literal["ready", "busy", "closed"]
CLOSE_TIME = 5.0  # seconds that the work of a session has to end when the session does


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
        egress: EgressPort | None = None,
        store: Store | None = None,
        row: SessionRow | None = None,
    ) -> None:
        """With a `store` it outlives this service; a `row` is what an earlier one wrote down of it."""
        self.id = "ses_" + secrets.token_hex(16) if row is None else row.id
        self.number = number
        self.claim = claim
        self.sandbox = sandbox
        self.closed_because: str | None = None
        self._guest = guest
        self._policy = policy
        self._clock = clock
        self._created_at = self._last_used_at = clock()
        self._expires_at = self._created_at + claim.ttl
        if row is not None:
            self._created_at, self._expires_at = row.created_at, row.expires_at
        self.left = False
        self._keeper: Keeper | None = None
        if store is not None:
            self._keeper = Keeper(self.id, sandbox, store=store, policy=policy, clock=clock)
        self._starting = 0
        self._tasks = Tasks()
        self._egress = egress
        self._way_out: WayOut | None = None
        outward = way_out(network=claim.grant is not None, ca_bundle=policy.ca_bundle)
        env = environment(outward, claim.offer.language.env, claim.env, cpus=claim.limits.cpus)
        self._env: Mapping[str, str] = env
        self.kernels = Kernels(
            sandbox,
            claim.offer.language,
            guest=guest,
            env=env,
            memory_bytes=claim.limits.memory_bytes,
            tasks=self._tasks,
            keep=self._keeper is not None,
            inherited=row is not None,
        )
        self.works = Works(
            sandbox,
            guest=guest,
            policy=policy,
            clock=clock,
            tasks=self._tasks,
            keeper=self._keeper,
            on_lost=lambda: on_lost(self),
            on_end=self._ended,
        )
        self._claimed = False
        self._restarting: asyncio.Task[None] | None = None
        self._using = self._terminals = 0
        self._finished = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.state} running={len(self.running)}>"

    async def start(self) -> None:
        """Open the way out, if it has one, and connect to the kernel. Raises SandboxFailed."""
        await self.open_way_out()
        await self.kernels.start()
        if self._keeper is not None and self.claim.env:
            await self._keeper.keep_env(self.claim.env)

    async def open_way_out(self) -> None:
        """Let the sandbox reach what was granted; nothing without a grant. Raises SandboxFailed."""
        if self.claim.grant is not None:
            assert self._egress is not None  # else the policy grants nothing
            fields = {"session": self.id, "sandbox": self.sandbox.id}
            self._way_out = await self._egress.open(self.sandbox, self.claim.grant, fields)

    # -- what it is -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self.closed_because is not None:
            return "closed"
        return "busy" if self._claimed or self._restarting or self.works.executions.running() else "ready"

    @property
    def running(self) -> list[Operation]:
        """Executions and commands that go on."""
        return self.works.running

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
            "network": network_view(claim.network),
            "metadata": dict(claim.metadata),
            "created_at": instant(self._created_at),
            "expires_at": instant(self._expires_at),
            "last_used_at": instant(self._last_used_at),
        }

    @property
    def durable(self) -> bool:
        """Whether it outlives the service."""
        return self._keeper is not None

    def row(self) -> SessionRow:
        """What a later service must know of it."""
        claim = self.claim
        return SessionRow(
            id=self.id,
            number=self.number,
            owner=claim.owner,
            sandbox=self.sandbox.id,
            language=claim.offer.language.name,
            image=claim.offer.image,
            limits=asdict(claim.limits),
            network=network_view(claim.network),
            metadata=claim.metadata,
            has_env=bool(claim.env),
            ttl=claim.ttl,
            idle_ttl=claim.idle_ttl,
            created_at=self._created_at,
            expires_at=self._expires_at,
        )

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
        expires_at = self._clock() + check_seconds("ttl", wanted, most=self._policy.max_ttl)
        if self._keeper is not None:
            await self._keeper.renew(expires_at)
        self._expires_at = expires_at

    async def interrupt(self) -> None:
        """Interrupt the execution that runs; nothing when idle. Does not wait for its end.

        Raises:
            SandboxFailed: the sandbox does not answer.
        """
        self._touch()
        for operation in self.works.executions.running():
            await self.works.of(operation).interrupt()

    async def restart(self) -> None:
        """A fresh kernel: state lost, files kept, what the kernel left running killed.

        Raises:
            SandboxFailed: a fresh kernel does not start.
        """
        self._touch()
        if self._restarting is None:
            self._restarting = self._tasks.start(self._restart(), name=f"restart {self.id}")
        await asyncio.wait([self._restarting])
        await self._ready(self.kernels.main)

    async def close(self, reason: str, *, died: bool = False) -> None:
        """End everything but the sandbox itself, which is the caller's to release. Idempotent."""
        if self.closed_because is not None:
            await self._finished.wait()
            return
        self.closed_because = reason
        if self._keeper is not None:
            self._keeper.over = True
        try:
            if died:  # what runs notices by itself, and says so
                await self.works.quiet(CLOSE_TIME)
            self.works.abort()
            await self.works.quiet(CLOSE_TIME)
            await self.kernels.close()
            await self._tasks.cancel()
            if self._way_out is not None:
                await self._way_out.close()
        finally:
            self._finished.set()

    async def leave(self) -> None:
        """Let go and leave it to a later service: what is detached goes on, what is attached is ended."""
        self.left = True
        for operation in self.running:
            if operation.seal is None:
                self.works.of(operation).abort()
            else:
                operation.fail(BackendUnavailable("the service is stopping; this goes on, ask again later"))
        await self.works.quiet(CLOSE_TIME)
        await self._tasks.cancel()  # before the kernel is let go, whose loss they would notice
        await self.kernels.close()
        if self._way_out is not None:
            await self._way_out.close()

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
        claim = self.claim
        plan = plan_execution(request, claim.offer, claim.kernels, self._policy, self._env)
        if self._restarting is not None:
            await asyncio.wait([self._restarting])
            self._touch()
        if self.state == "busy":
            raise SessionBusy("an execution is running in this session; one at a time")
        self._claimed = True
        try:
            if isinstance(plan, ShellPlan):
                return await self._begin_command("execution", plan, detached=request.detach)
            holder = self.kernels.of(plan.language)
            kernel = await self._ready(holder)
            operation = self.operation("execution", detached=request.detach)
            start = await self._begin_keeping(operation, plan.limits, kernel=holder.name)
            cell = Cell(code=plan.code, allow_input=plan.allow_input, limits=plan.limits)
            self.works.begin(operation, self.works.cell(operation, cell, kernel, start, holder))
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
        self._starting += 1
        try:
            return await self._begin_command("command", plan, detached=request.detach)
        finally:
            self._starting -= 1

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
        return self._remembered(self.works.executions)

    def commands(self) -> list[Operation]:
        """What is remembered, newest first."""
        return self._remembered(self.works.commands)

    def execution(self, execution_id: str) -> Operation:
        """Raises ExecutionNotFound."""
        self._require_open()
        operation = self.works.executions.get(execution_id, self._clock())
        if operation is None:
            raise ExecutionNotFound(f"this session has no execution {execution_id[:80]!r}")
        return operation

    def command_of(self, command_id: str) -> Operation:
        """Raises CommandNotFound. (`command` itself is the verb.)"""
        self._require_open()
        operation = self.works.commands.get(command_id, self._clock())
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
        if self.left:
            raise BackendUnavailable("the service is stopping; the session is kept, ask again later")

    def _touch(self) -> None:
        self._require_open()
        self._last_used_at = self._clock()

    def kernel_named(self, name: str) -> KernelHolder | None:
        """The holder of the kernel of that name, if the image has it."""
        for language in (self.claim.offer.language, *self.claim.kernels):
            if (holder := self.kernels.of(language)).name == name:
                return holder
        return None

    async def _ready(self, holder: KernelHolder) -> KernelPort:
        """A living kernel. Raises SandboxFailed, or SessionClosed if that came meanwhile."""
        try:
            return await holder.ready()
        finally:
            self._touch()

    def _admit_process(self) -> None:
        busy = len(self.works.commands.running()) + self._terminals + self._starting
        if busy >= self._policy.max_commands:
            raise QuotaExceeded(f"{busy} commands and terminals go on in this session, no more are allowed")

    def operation(self, kind: Kind, *, detached: bool, past: Past | None = None) -> Operation:
        """One of this session's, not begun yet."""
        return Operation(
            kind=kind,
            owner=self.claim.owner,
            detached=detached,
            clock=self._clock,
            stable=detached and self._keeper is not None,
            past=past,
        )

    async def _begin_keeping(
        self, operation: Operation, limits: Limits, *, kernel: str | None, stdin: Stdin = "none"
    ) -> Start | None:
        """Write down that it starts, if it is to outlive this service."""
        if self._keeper is None or not operation.detached:
            return None
        start = await self._keeper.begin(operation, kernel=kernel, limits=limits, stdin=stdin)
        self._require_open()
        return start

    async def _begin_command(
        self, kind: Literal["execution", "command"], plan: ShellPlan, *, detached: bool
    ) -> Operation:
        operation = self.operation(kind, detached=detached)
        stdin: Stdin = "open" if plan.keep_stdin else "given" if plan.spec.stdin else "none"
        start = await self._begin_keeping(operation, limits_of(plan.spec), kernel=None, stdin=stdin)
        self.works.begin(operation, self.works.process(operation, plan, start))
        return operation

    def _ended(self, operation: Operation, work: Work) -> None:
        operation.abandon(self.closed_because or "the service stopped")
        if operation.journal.failure is not None and self._keeper is not None and not self.left:
            self._tasks.start(self._keeper.drop(operation, work.forget), name=f"drop {operation.id}")
        self._last_used_at = self._clock()

    async def _restart(self) -> None:
        try:
            running = self.works.executions.running()
            for operation in running:
                self.works.of(operation).restarted()
            self.kernels.restart()
            for operation in running:
                await operation.journal.ended_event.wait()
        finally:
            self._restarting = None
