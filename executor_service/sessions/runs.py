"""Runs: one program in a fresh sandbox, then gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from executor_service.errors import BackendUnavailable, QuotaExceeded, RunNotFound
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.pool import Pool
from executor_service.sessions.catalog import Catalog
from executor_service.sessions.kept import Kept
from executor_service.sessions.operation import Operation
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import EgressPort, Guest, GuestPort, WayOut
from executor_service.sessions.requests import RunRequest
from executor_service.sessions.run import Run
from executor_service.sessions.run_plan import RunPlan, plan_run
from executor_service.tasks import Tasks

STOP_TIME = 10.0  # seconds that stopped runs have to end when the service does


class Runs:
    """Starts runs and keeps the detached ones. An async context manager that owns their tasks."""

    def __init__(
        self,
        *,
        pool: Pool,
        catalog: Catalog,
        policy: Policy | None = None,
        guest: GuestPort | None = None,
        egress: EgressPort | None = None,
        clock: Callable[[], float] = time.time,
        acquire_timeout: float | None = None,
    ) -> None:
        """`acquire_timeout` stands for the pool's own."""
        self._pool = pool
        self._catalog = catalog
        self._policy = policy or Policy()
        self._guest = guest or Guest()
        self._egress = egress
        self._clock = clock
        self._acquire_timeout = acquire_timeout
        self._tasks = Tasks()
        self._draining = False
        policy = self._policy
        self._kept = Kept(seconds=policy.keep_for, count=policy.keep_count, size=policy.keep_bytes)

    def __repr__(self) -> str:
        return f"<Runs running={len(self._kept.running())} kept={len(self._kept)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain(0.0)
        await self._tasks.cancel()

    @property
    def running(self) -> int:
        """How many runs go on."""
        return len(self._kept.running())

    async def start(self, request: RunRequest, owner: str) -> Operation:
        """Check, take a sandbox, put the files, and start. What can be refused is refused here.

        Attached: call `operation.stop()` when the client goes away.

        Raises:
            CallerError: LanguageNotFound, ImageNotFound, InvalidPath, InvalidRequest, LimitTooHigh,
                NetworkNotAllowed, QuotaExceeded.
            ServiceFault: Capacity, SandboxFailed, BackendUnavailable, DiskFull.
        """
        plan = plan_run(request, self._catalog, self._policy)
        self._admit(request)
        sandbox = await self._pool.acquire(plan.spec, plan.lease, timeout=self._acquire_timeout)
        try:
            if plan.files:
                await self._guest.files(sandbox).put(plan.files)
            return await self._launch(plan, sandbox, owner, detached=request.detach)
        except BaseException:
            await self._pool.release(sandbox)
            raise

    def get(self, run_id: str, owner: str) -> Operation:
        """A run that goes on, or a detached one that ended a short while ago. Raises RunNotFound."""
        operation = self._kept.get(run_id, self._clock())
        if operation is None or operation.owner != owner:
            raise RunNotFound(f"there is no run {run_id!r}")
        return operation

    async def stop(self, run_id: str, owner: str) -> None:
        """End it if it runs, and wait for its end. Raises RunNotFound."""
        await self.get(run_id, owner).stop()

    async def drain(self, grace: float) -> None:
        """Take no more; let what runs finish within `grace` seconds, then stop it."""
        self._draining = True
        if not await self._tasks.wait(grace):
            stops = [self._tasks.start(each.stop(), name="stop") for each in self._kept.running()]
            if stops:
                await asyncio.wait(stops, timeout=STOP_TIME)

    def _admit(self, request: RunRequest) -> None:
        if self._draining:
            raise BackendUnavailable("the service is shutting down")
        self._kept.trim(self._clock())
        detached = sum(each.detached for each in self._kept.running())
        if request.detach and detached >= self._policy.max_detached:
            raise QuotaExceeded(f"{detached} detached runs go on, no more are allowed", retry_after=5.0)

    async def _launch(self, plan: RunPlan, sandbox: Sandbox, owner: str, *, detached: bool) -> Operation:
        operation = Operation(kind="run", owner=owner, detached=detached, clock=self._clock)
        outward: WayOut | None = None
        if plan.grant is not None:
            assert self._egress is not None  # else the policy grants nothing
            fields = {"run": operation.id, "sandbox": sandbox.id}
            outward = await self._egress.open(sandbox, plan.grant, fields)
        if self._draining:
            await _close(outward)
            raise BackendUnavailable("the service is shutting down")
        run = Run(operation, plan, sandbox=sandbox, guest=self._guest, policy=self._policy)
        operation.control = run
        self._kept.add(operation)
        self._tasks.start(self._carry(operation, run, sandbox, outward), name=operation.id)
        return operation

    async def _carry(self, operation: Operation, run: Run, sandbox: Sandbox, outward: WayOut | None) -> None:
        try:
            await run.work()
        finally:
            operation.abandon("the service stopped")
            if not operation.detached:
                self._kept.drop(operation)
            await _close(outward)
            await self._pool.release(sandbox)


async def _close(outward: WayOut | None) -> None:
    if outward is not None:
        await outward.close()
