"""Sessions: makes, finds, expires and closes them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from executor_service.errors import (
    BackendUnavailable,
    SandboxFailed,
    ServiceFault,
    SessionClosed,
    SessionNotFound,
)
from executor_service.limits import resolve
from executor_service.sandboxes.base import Sandbox, SandboxSpec
from executor_service.sandboxes.pool import Pool
from executor_service.sessions import checks
from executor_service.sessions.adoption import GONE, judge, take_up
from executor_service.sessions.catalog import Catalog
from executor_service.sessions.claim import Claim
from executor_service.sessions.keeper import MARGIN, fetch_env
from executor_service.sessions.operation import Operation
from executor_service.sessions.paging import page
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import EgressPort, Guest, GuestPort
from executor_service.sessions.requests import SessionRequest
from executor_service.sessions.run_plan import lease
from executor_service.sessions.session import Session
from executor_service.sessions.store import ClosedRow, OperationRow, SessionRow, Store, Stored
from executor_service.sessions.tombstones import Tombstones
from executor_service.tasks import Tasks

log = logging.getLogger(__name__)

EXPIRY_INTERVAL = 0.25  # seconds
PRUNE_EVERY = 240  # intervals after which what is written down is pruned
ADOPT_AT_ONCE = 16
STOP_TIME = 10.0  # seconds that stopped operations have to end when the service does


class Sessions:
    """All sessions of this service. An async context manager that owns their tasks and their expiry."""

    def __init__(
        self,
        *,
        pool: Pool,
        catalog: Catalog,
        backend_name: str,
        policy: Policy | None = None,
        guest: GuestPort | None = None,
        egress: EgressPort | None = None,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """With a `store` sessions outlive this service: see `adopt`."""
        self._store = store
        self._pool = pool
        self._catalog = catalog
        self._backend_name = backend_name
        self._policy = policy or Policy()
        self._guest = guest or Guest()
        self._egress = egress
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._tombstones = Tombstones(seconds=self._policy.closed_for, count=self._policy.max_tombstones)
        self._tasks = Tasks()
        self._draining = False
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<Sessions open={len(self._open)} running={self.running}>"

    def __len__(self) -> int:
        return len(self._open)

    async def __aenter__(self) -> Self:
        self._tasks.start(self._expire_for_ever(), name="expire sessions")
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
        """How many executions and commands go on."""
        return sum(len(session.running) for session in self._open.values())

    @property
    def operations(self) -> list[Operation]:
        """Those that go on."""
        return [operation for session in self._open.values() for operation in session.running]

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down and takes no more."""
        return self._draining

    async def create(self, request: SessionRequest, owner: str) -> Session:
        """A ready session.

        Raises:
            CallerError: LanguageNotFound (also one that keeps no state), ImageNotFound,
                InvalidRequest, LimitTooHigh, NetworkNotAllowed.
            ServiceFault: Capacity, SandboxFailed, BackendUnavailable.
        """
        claim = self._claim(request, owner)
        self._admit()
        spec = SandboxSpec(
            image=claim.offer.image,
            warm="kernel",
            disk_bytes=claim.limits.disk_bytes,
            network=claim.grant is not None,
        )
        wanted = lease(claim.limits)
        if self._store is not None:
            wanted = replace(wanted, durable=True, expires_in=claim.ttl + MARGIN)
        sandbox = await self._pool.acquire(spec, wanted)
        session: Session | None = None
        try:
            session = self._session(claim, sandbox, number=next(self._numbers))
            await session.start()
            self._admit()
            if self._store is not None:  # from here on it would be found again
                await self._store.add_session(session.row())
        except BaseException:
            try:
                if session is not None:
                    await session.close("it did not start")
                    if self._store is not None:
                        self._tasks.start(self._bury(session.row(), "it did not start"), name="bury")
            finally:
                await self._pool.release(sandbox)
            raise
        self._enter(session)
        return session

    async def adopt(self, stored: Stored, sandboxes: Sequence[Sandbox]) -> None:
        """Take over what a service before us wrote down, with those of its sandboxes that still live.

        They count as leased in the pool. Call it once, before anything is served.
        """
        for stone in stored.closed:
            self._tombstones.add(stone.id, stone.owner, stone.reason, stone.at)
        self._numbers = itertools.count(1 + max((row.number for row in stored.sessions), default=-1))
        there = {sandbox.id: sandbox for sandbox in sandboxes}
        work: dict[str, list[OperationRow]] = {}
        for row in stored.operations:
            work.setdefault(row.session, []).append(row)
        turns = asyncio.Semaphore(ADOPT_AT_ONCE)

        async def adopt(row: SessionRow) -> None:
            async with turns:
                await self._adopt(row, there.get(row.sandbox), work.get(row.id, []))

        await asyncio.gather(*(adopt(row) for row in stored.sessions))
        await self._prune()

    async def _adopt(self, row: SessionRow, sandbox: Sandbox | None, work: Sequence[OperationRow]) -> None:
        now, why = self._clock(), ""
        claim = judge(row, catalog=self._catalog, policy=self._policy, backend=self._backend_name, now=now)
        if isinstance(claim, str) or sandbox is None:
            why = claim if isinstance(claim, str) else GONE
        else:
            session: Session | None = None
            try:
                if row.has_env:
                    claim = replace(claim, env=await fetch_env(sandbox))
                session = self._session(claim, sandbox, number=row.number, row=row)
                await take_up(session, work, self._guest)
                self._enter(session)
                log.info("session %s goes on", session.id)
                return
            except SandboxFailed as error:
                why = f"{GONE}: {error.detail}"
            except Exception:
                log.exception("session %s cannot be taken over", row.id)
                why = "the service could not take it over"
            if session is not None:
                await session.close(why)
        await self._bury(row, why)
        if sandbox is not None:
            await self._pool.release(sandbox)

    def _session(
        self, claim: Claim, sandbox: Sandbox, *, number: int, row: SessionRow | None = None
    ) -> Session:
        return Session(
            claim,
            sandbox,
            number=number,
            guest=self._guest,
            policy=self._policy,
            clock=self._clock,
            on_lost=lambda lost: self._end_soon(lost, "its sandbox failed", died=True),
            egress=self._egress,
            store=self._store,
            row=row,
        )

    def _enter(self, session: Session) -> None:
        self._open[session.id] = session
        self._tasks.start(self._guard(session), name=f"guard {session.id}")

    def get(self, session_id: str, owner: str) -> Session:
        """An open session. Raises SessionNotFound, or SessionClosed with the reason."""
        session = self._open.get(session_id)
        if session is not None and session.claim.owner == owner:
            why = session.expired(self._clock())
            if why is None:
                return session
            self._end_soon(session, why)
            raise _closed(session_id, why)
        reason = self._tombstones.get(session_id, owner, self._clock())
        if reason is None:
            raise SessionNotFound(f"there is no session {session_id[:80]!r}")
        raise _closed(session_id, reason)

    def list(
        self, owner: str, metadata: Mapping[str, str], limit: int, cursor: str | None
    ) -> tuple[list[Session], str | None]:
        """Open sessions of `owner` whose metadata has all of `metadata`, oldest first, and the next cursor.

        Raises:
            InvalidRequest: a cursor that this service did not give.
        """
        now = self._clock()
        found = [
            session
            for session in self._open.values()
            if session.claim.owner == owner
            and session.expired(now) is None
            and all(session.claim.metadata.get(key) == value for key, value in metadata.items())
        ]
        return page(found, limit=limit, cursor=cursor)

    async def close(self, session_id: str, owner: str) -> None:
        """Close it; nothing if it was closed before. Raises SessionNotFound."""
        session = self._open.get(session_id)
        if session is not None and session.claim.owner == owner:
            await asyncio.shield(self._end_soon(session, "it was deleted"))
        elif self._tombstones.get(session_id, owner, self._clock()) is None:
            raise SessionNotFound(f"there is no session {session_id[:80]!r}")

    async def expire(self) -> None:
        """Close every session whose time is over. Called by a task of this object."""
        now = self._clock()
        for session in list(self._open.values()):
            why = session.expired(now)
            if why is not None and not session.left:
                self._end_soon(session, why)

    async def drain(self, grace: float) -> None:
        """Take no more; let what runs finish within `grace` seconds, then interrupt it and close all.

        What outlives this service is left alone: durable sessions, and what goes on in them detached.
        """
        self._draining = True
        running = [
            operation
            for session in self._open.values()
            for operation in session.running
            if operation.seal is None
        ]
        if running:
            waits = [asyncio.create_task(each.journal.ended_event.wait()) for each in running]
            _, late = await asyncio.wait(waits, timeout=grace)
            stops = [asyncio.create_task(each.stop()) for each in running if each.state == "running"]
            if stops:
                await asyncio.wait(stops, timeout=STOP_TIME)
            for task in (*late, *stops):
                task.cancel()
        ends = [
            self._tasks.start(self._leave(session), name=f"leave {session.id}")
            if session.durable
            else self._end_soon(session, "the service stopped")
            for session in list(self._open.values())
            if not session.left
        ]
        if ends:
            await asyncio.wait(ends)

    def _claim(self, request: SessionRequest, owner: str) -> Claim:
        policy = self._policy
        checks.check_env(request.env)
        checks.check_metadata(request.metadata)
        grant = checks.check_network(request.network, policy.egress)
        offer = self._catalog.stateful(request.language, request.image)
        default = offer.defaults(policy.limits, policy.ceiling)
        ttl = policy.ttl if request.ttl is None else request.ttl
        idle_ttl = policy.idle_ttl if request.idle_ttl is None else request.idle_ttl
        return Claim(
            owner=owner,
            offer=offer,
            kernels=self._catalog.kernels(offer),
            backend=self._backend_name,
            limits=resolve(request.limits, scope="session", default=default, ceiling=policy.ceiling),
            env=request.env,
            metadata=request.metadata,
            ttl=checks.check_seconds("ttl", ttl, most=policy.max_ttl),
            idle_ttl=checks.check_seconds("idle_ttl", idle_ttl, most=policy.max_idle_ttl),
            network=request.network,
            grant=grant,
        )

    def _admit(self) -> None:
        if self._draining:
            raise BackendUnavailable("the service is shutting down")

    def _end_soon(self, session: Session, why: str, *, died: bool = False) -> asyncio.Task[None]:
        """Close a session in a task of ours; it is no longer found from now on."""
        if self._open.pop(session.id, None) is not None:
            self._tombstones.add(session.id, session.claim.owner, why, self._clock())
        return self._tasks.start(self._end(session, why, died=died), name=f"close {session.id}")

    async def _leave(self, session: Session) -> None:
        """A durable session: a later service adopts it."""
        await session.leave()
        self._pool.leave(session.sandbox)

    async def _bury(self, row: SessionRow, why: str) -> None:
        """Of a durable session nothing is left but that it was there; also for a later service."""
        now = self._clock()
        if row.id in self._open:
            return
        self._tombstones.add(row.id, row.owner, why, now)
        await self._store_closed(row.id, row.owner, why, now)

    async def _store_closed(self, session_id: str, owner: str, why: str, now: float) -> None:
        if self._store is None:
            return
        try:
            await self._store.close_session(ClosedRow(id=session_id, owner=owner, reason=why, at=now))
        except ServiceFault as error:  # a later service finds its sandbox gone
            log.error("the end of session %s is not written down: %s", session_id, error.detail)

    async def _end(self, session: Session, why: str, *, died: bool) -> None:
        try:
            await self._store_closed(session.id, session.claim.owner, why, self._clock())
            await session.close(why, died=died)
        finally:
            await self._pool.release(session.sandbox)

    async def _guard(self, session: Session) -> None:
        """Until the sandbox is gone; if the session was still open, it is closed by that."""
        await session.sandbox.died.wait()
        if session.id in self._open and not session.left:
            why = session.expired(self._clock()) or "its sandbox died"
            log.warning("session %s: its sandbox died", session.id)
            self._end_soon(session, why, died=True)

    async def _expire_for_ever(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(EXPIRY_INTERVAL)
            await self.expire()
            if turn % PRUNE_EVERY == 0:
                await self._prune()

    async def _prune(self) -> None:
        if self._store is not None:
            now = self._clock()
            with contextlib.suppress(ServiceFault):
                await self._store.prune(
                    ended_before=now - self._policy.keep_for, closed_before=now - self._policy.closed_for
                )


def _closed(session_id: str, why: str) -> SessionClosed:
    return SessionClosed(f"session {session_id} is closed: {why}")
