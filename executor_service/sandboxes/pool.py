"""The pool: sandboxes kept ready, lent once, destroyed after use.

What to do is decided by the pure :func:`executor_service.sandboxes.plan.plan`; this file does it, in
tasks that it owns. A sandbox that was lent is never lent again, one that died is never lent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from executor_service.errors import BackendUnavailable, Capacity, CodecellError, SandboxFailed
from executor_service.sandboxes.base import Backend, Lease, Sandbox, SandboxSpec
from executor_service.sandboxes.plan import Assign, Evict, Make, PoolState, Stock, plan
from executor_service.tasks import Tasks

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 30.0  # seconds that leaving the pool waits for sandboxes to be made and closed
CONFIGURE_TRIES = 3
RETRY_AFTER = 2.0


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """How many and how long. `keep` are the keys of which `warm` stand ready from the start.

    `makers` sandboxes are made at the same time at most, `refills` of them for stock while nobody
    waits. Stock is topped up `settle` seconds after the last lease, and by one for each sandbox
    that comes back.
    """

    capacity: int = 128
    warm: int = 8
    queue: int = 256
    acquire_timeout: float = 10.0
    makers: int = 8
    refills: int = 2
    settle: float = 0.1
    backoff: float = 0.5
    max_backoff: float = 30.0
    keep: tuple[SandboxSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PoolStats:
    """A snapshot for metrics and readiness; the last five count since the start."""

    capacity: int
    warm: int
    ready: Mapping[SandboxSpec, int]
    making: int
    leased: int
    closing: int
    waiting: int
    created: int
    failed: int
    died: int
    from_stock: int
    on_demand: int

    @property
    def alive(self) -> int:
        """How many of `capacity` are taken."""
        return sum(self.ready.values()) + self.making + self.leased + self.closing


@dataclass(kw_only=True, eq=False)
class _Waiter:
    spec: SandboxSpec
    given: asyncio.Future[Sandbox]


@dataclass(kw_only=True)
class _Trouble:
    """How often in a row making a key failed, and until when stock of it is not tried again."""

    failures: int = 0
    until: float = 0.0


@dataclass(kw_only=True)
class _Counts:
    created: int = 0
    failed: int = 0
    died: int = 0
    from_stock: int = 0
    on_demand: int = 0


@dataclass(kw_only=True)
class _Shelf:
    """What there is of one key."""

    ready: deque[Sandbox] = field(default_factory=deque)
    making: int = 0


class Pool:
    """An async context manager; entered, it fills up; left, it closes every sandbox."""

    def __init__(self, backend: Backend, settings: PoolSettings | None = None) -> None:
        self._backend = backend
        self._settings = settings or PoolSettings()
        self._shelves: dict[SandboxSpec, _Shelf] = {}
        self._leased: set[Sandbox] = set()
        self._closing: set[Sandbox] = set()
        self._waiters: deque[_Waiter] = deque()
        self._trouble: dict[SandboxSpec, _Trouble] = {}
        self._counts = _Counts()
        self._refill_credit = 0
        self._settled_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self._watchers = Tasks()
        self._open = False

    def __repr__(self) -> str:
        ready = ", ".join(
            f"{spec.image}/{spec.warm} {len(shelf.ready)}"
            for spec, shelf in self._shelves.items()
            if shelf.ready
        )
        making = sum(shelf.making for shelf in self._shelves.values())
        return (
            f"<Pool ready=[{ready}] making={making} leased={len(self._leased)} "
            f"closing={len(self._closing)} waiting={len(self._waiters)} capacity={self._settings.capacity}>"
        )

    async def __aenter__(self) -> Self:
        self._open = True
        self._replan()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._waiters:
            if not waiter.given.done():
                waiter.given.set_exception(BackendUnavailable("the service is shutting down"))
        self._waiters.clear()
        for sandbox in list(self._leased):
            await self.release(sandbox)
        for shelf in self._shelves.values():
            while shelf.ready:
                self._close(shelf.ready.popleft())
        if not await self._tasks.wait(CLOSE_TIMEOUT):
            log.error("the pool gives up on sandboxes that do not close: %r", self)
        await self._tasks.cancel()
        await self._watchers.cancel()

    @property
    def settings(self) -> PoolSettings:
        return self._settings

    def stats(self) -> PoolStats:
        """What there is at this moment."""
        return PoolStats(
            capacity=self._settings.capacity,
            warm=self._settings.warm,
            ready={spec: len(shelf.ready) for spec, shelf in self._shelves.items()},
            making=sum(shelf.making for shelf in self._shelves.values()),
            leased=len(self._leased),
            closing=len(self._closing),
            waiting=len(self._waiters),
            created=self._counts.created,
            failed=self._counts.failed,
            died=self._counts.died,
            from_stock=self._counts.from_stock,
            on_demand=self._counts.on_demand,
        )

    async def acquire(self, spec: SandboxSpec, lease: Lease, *, timeout: float | None = None) -> Sandbox:  # noqa: ASYNC109
        """A ready sandbox that nobody has used, with `lease` applied. Give it to `release` afterwards.

        `timeout` stands for the settings' `acquire_timeout`.

        Raises:
            Capacity: the queue is full, or nothing became free in time.
            ImageNotFound, SandboxFailed, BackendUnavailable: it could not be made.
        """
        for attempt in range(CONFIGURE_TRIES):
            sandbox = await self._take(spec, self._settings.acquire_timeout if timeout is None else timeout)
            try:
                await sandbox.configure(lease)
            except SandboxFailed:
                await self.release(sandbox)
                if attempt == CONFIGURE_TRIES - 1:
                    raise
            except BaseException:
                await self.release(sandbox)
                raise
            else:
                return sandbox
        raise AssertionError("unreachable")

    async def release(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox that was lent; returns at once. Again, nothing."""
        if sandbox in self._leased:
            self._leased.discard(sandbox)
            self._refill_credit = min(self._refill_credit + 1, self._settings.warm)
            self._close(sandbox)
            self._replan()

    def adopt(self, sandboxes: Iterable[Sandbox]) -> None:
        """Sandboxes that an earlier pool had lent and that are still in use: give them to `release`."""
        self._leased.update(sandboxes)

    def leave(self, sandbox: Sandbox) -> None:
        """A sandbox that was lent is to outlive this pool: nothing is done to it."""
        self._leased.discard(sandbox)

    async def _take(self, spec: SandboxSpec, seconds: float) -> Sandbox:
        if not self._open:
            raise BackendUnavailable("the service is shutting down")
        if len(self._waiters) >= self._settings.queue:
            raise Capacity("too many requests wait for a sandbox", retry_after=RETRY_AFTER)
        given: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(spec=spec, given=given)
        self._waiters.append(waiter)
        self._replan()
        self._count(given)
        try:
            async with asyncio.timeout(seconds):
                return await given
        except TimeoutError:
            self._take_back(waiter)
            raise Capacity("no sandbox became free in time", retry_after=RETRY_AFTER) from None
        except BaseException:
            self._take_back(waiter)
            raise

    def _count(self, given: asyncio.Future[Sandbox]) -> None:
        if given.done():
            self._counts.from_stock += 1
        else:
            self._counts.on_demand += 1

    def _take_back(self, waiter: _Waiter) -> None:
        """The waiter has gone: leave the queue, and put back what it was given and never saw."""
        given = waiter.given
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        if given.done() and not given.cancelled() and given.exception() is None:
            sandbox = given.result()
            if sandbox in self._leased:
                self._leased.discard(sandbox)
                self._stock(sandbox)
        self._replan()

    # -- deciding ---------------------------------------------------------------------------------

    def _state(self, now: float) -> PoolState:
        settings = self._settings
        return PoolState(
            capacity=settings.capacity,
            warm=settings.warm,
            makers=settings.makers,
            refills=settings.refills,
            leased=len(self._leased),
            closing=len(self._closing),
            stock={
                s: Stock(ready=len(shelf.ready), making=shelf.making) for s, shelf in self._shelves.items()
            },
            waiting=[waiter.spec for waiter in self._waiters],
            keep=settings.keep,
            blocked=frozenset(spec for spec, trouble in self._trouble.items() if trouble.until > now),
            refill_credit=None if now >= self._settled_at else self._refill_credit,
        )

    def _replan(self) -> None:
        """Decide, and start what was decided. Never waits."""
        if not self._open:
            return
        self._drop_dead()
        self._drop_gone()
        now = asyncio.get_running_loop().time()
        waiters = list(self._waiters)
        for action in plan(self._state(now)):
            match action:
                case Assign():
                    self._assign(waiters[action.index])
                case Make():
                    if action.refill:
                        self._refill_credit = max(0, self._refill_credit - 1)
                    self._shelf(action.spec).making += 1
                    self._tasks.start(self._make(action.spec), name=f"make {action.spec.image}")
                case Evict():
                    self._close(self._shelf(action.spec).ready.pop())
        self._forget_unused(now)
        self._set_timer(now)

    def _forget_unused(self, now: float) -> None:
        """Callers choose keys (by their disk size), so what is left of a key must not stay for ever."""
        for spec in [s for s, shelf in self._shelves.items() if not shelf.ready and not shelf.making]:
            del self._shelves[spec]
        for spec in [s for s, t in self._trouble.items() if t.until <= now and s not in self._settings.keep]:
            del self._trouble[spec]

    def _set_timer(self, now: float) -> None:
        """Think again when the pool has settled, and when a key that failed may be tried again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [self._settled_at, *(trouble.until for trouble in self._trouble.values())]
        later = [when for when in due if when > now]
        if later:
            self._timer = asyncio.get_running_loop().call_at(min(later), self._replan)

    def _assign(self, waiter: _Waiter) -> None:
        sandbox = self._shelf(waiter.spec).ready.popleft()
        self._waiters.remove(waiter)
        self._leased.add(sandbox)
        self._settled_at = asyncio.get_running_loop().time() + self._settings.settle
        waiter.given.set_result(sandbox)

    # -- doing ------------------------------------------------------------------------------------

    async def _make(self, spec: SandboxSpec) -> None:
        sandbox: Sandbox | None = None
        try:
            sandbox = await self._backend.create(spec)
        except CodecellError as error:
            self._failed(spec, error)
        except Exception as error:
            log.exception("backend %s failed to make a sandbox", self._backend.name)
            self._failed(spec, SandboxFailed(f"the sandbox could not be made: {error!r}"))
        finally:
            self._shelf(spec).making -= 1
        if sandbox is not None:
            self._counts.created += 1
            self._trouble.pop(spec, None)
            if self._open:
                self._stock(sandbox)
            else:
                self._close(sandbox)
        self._replan()

    def _failed(self, spec: SandboxSpec, error: CodecellError) -> None:
        """Tell the first waiter for this key, and wait before stock of it is tried again."""
        self._counts.failed += 1
        trouble = self._trouble.setdefault(spec, _Trouble())
        trouble.failures += 1
        pause = min(self._settings.max_backoff, self._settings.backoff * 2 ** min(trouble.failures - 1, 16))
        trouble.until = asyncio.get_running_loop().time() + pause
        log.warning("a sandbox of image %s could not be made: %s", spec.image, error.detail)
        for waiter in self._waiters:
            if waiter.spec == spec and not waiter.given.done():
                self._waiters.remove(waiter)
                waiter.given.set_exception(error)
                return

    def _stock(self, sandbox: Sandbox) -> None:
        """Put an unused sandbox on its shelf."""
        self._shelf(sandbox.spec).ready.append(sandbox)
        self._watchers.start(self._watch(sandbox), name=f"watch {sandbox.id}")

    async def _watch(self, sandbox: Sandbox) -> None:
        """Until it dies; what dies on the shelf is thrown away and replaced."""
        await sandbox.died.wait()
        self._replan()

    def _drop_dead(self) -> None:
        for shelf in self._shelves.values():
            dead = [sandbox for sandbox in shelf.ready if sandbox.died.is_set()]
            for sandbox in dead:
                log.warning("sandbox %s died while it stood ready", sandbox.id)
                self._counts.died += 1
                shelf.ready.remove(sandbox)
                self._close(sandbox)

    def _drop_gone(self) -> None:
        """A waiter that was cancelled may not have run since."""
        for waiter in [waiter for waiter in self._waiters if waiter.given.done()]:
            self._waiters.remove(waiter)

    def _close(self, sandbox: Sandbox) -> None:
        """Start to close; its place counts as taken until that is done."""
        self._closing.add(sandbox)
        self._tasks.start(self._finish(sandbox), name=f"close {sandbox.id}")

    async def _finish(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.close()
        except Exception:
            log.exception("sandbox %s did not close", sandbox.id)
        finally:
            self._closing.discard(sandbox)
            self._replan()

    def _shelf(self, spec: SandboxSpec) -> _Shelf:
        return self._shelves.setdefault(spec, _Shelf())
