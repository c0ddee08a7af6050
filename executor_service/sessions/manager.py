"""Sessions: makes, finds, expires and closes them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from executor_service.errors import BackendUnavailable, SessionClosed, SessionNotFound
from executor_service.limits import resolve
from executor_service.sandboxes.base import SandboxSpec
from executor_service.sandboxes.pool import Pool
from executor_service.sessions import checks
from executor_service.sessions.catalog import Catalog
from executor_service.sessions.paging import page
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import Guest, GuestPort
from executor_service.sessions.requests import SessionRequest
from executor_service.sessions.run_plan import lease
from executor_service.sessions.session import Claim, Session
from executor_service.sessions.tombstones import Tombstones
from executor_service.tasks import Tasks

log = logging.getLogger(__name__)

EXPIRY_INTERVAL = 0.25  # seconds
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._catalog = catalog
        self._backend_name = backend_name
        self._policy = policy or Policy()
        self._guest = guest or Guest()
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
        spec = SandboxSpec(image=claim.offer.image, warm="kernel", disk_bytes=claim.limits.disk_bytes)
        sandbox = await self._pool.acquire(spec, lease(claim.limits))
        session: Session | None = None
        try:
            session = Session(
                claim,
                sandbox,
                number=next(self._numbers),
                guest=self._guest,
                policy=self._policy,
                clock=self._clock,
                on_lost=lambda lost: self._end_soon(lost, "its sandbox failed", died=True),
            )
            await session.start()
            self._admit()
        except BaseException:
            try:
                if session is not None:
                    await session.close("it did not start")
            finally:
                await self._pool.release(sandbox)
            raise
        self._open[session.id] = session
        self._tasks.start(self._guard(session), name=f"guard {session.id}")
        return session

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
            if why is not None:
                self._end_soon(session, why)

    async def drain(self, grace: float) -> None:
        """Take no more; let what runs finish within `grace` seconds, then interrupt it and close all."""
        self._draining = True
        running = [operation for session in self._open.values() for operation in session.running]
        if running:
            waits = [asyncio.create_task(each.journal.ended_event.wait()) for each in running]
            _, late = await asyncio.wait(waits, timeout=grace)
            stops = [asyncio.create_task(each.stop()) for each in running if each.state == "running"]
            if stops:
                await asyncio.wait(stops, timeout=STOP_TIME)
            for task in (*late, *stops):
                task.cancel()
        ends = [self._end_soon(session, "the service stopped") for session in list(self._open.values())]
        if ends:
            await asyncio.wait(ends)

    def _claim(self, request: SessionRequest, owner: str) -> Claim:
        policy = self._policy
        checks.check_env(request.env)
        checks.check_metadata(request.metadata)
        checks.check_network(request.network)
        offer = self._catalog.stateful(request.language, request.image)
        default = offer.defaults(policy.limits, policy.ceiling)
        ttl = policy.ttl if request.ttl is None else request.ttl
        idle_ttl = policy.idle_ttl if request.idle_ttl is None else request.idle_ttl
        return Claim(
            owner=owner,
            offer=offer,
            backend=self._backend_name,
            limits=resolve(request.limits, scope="session", default=default, ceiling=policy.ceiling),
            env=request.env,
            metadata=request.metadata,
            ttl=checks.check_seconds("ttl", ttl, most=policy.max_ttl),
            idle_ttl=checks.check_seconds("idle_ttl", idle_ttl, most=policy.max_idle_ttl),
        )

    def _admit(self) -> None:
        if self._draining:
            raise BackendUnavailable("the service is shutting down")

    def _end_soon(self, session: Session, why: str, *, died: bool = False) -> asyncio.Task[None]:
        """Close a session in a task of ours; it is no longer found from now on."""
        if self._open.pop(session.id, None) is not None:
            self._tombstones.add(session.id, session.claim.owner, why, self._clock())
        return self._tasks.start(self._end(session, why, died=died), name=f"close {session.id}")

    async def _end(self, session: Session, why: str, *, died: bool) -> None:
        try:
            await session.close(why, died=died)
        finally:
            await self._pool.release(session.sandbox)

    async def _guard(self, session: Session) -> None:
        """Until the sandbox is gone; if the session was still open, it is closed by that."""
        await session.sandbox.died.wait()
        if session.id in self._open:
            log.warning("session %s: its sandbox died", session.id)
            self._end_soon(session, "its sandbox died", died=True)

    async def _expire_for_ever(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL)
            await self.expire()


def _closed(session_id: str, why: str) -> SessionClosed:
    return SessionClosed(f"session {session_id} is closed: {why}")
