"""The pool, on a fake backend: what it does with the plan, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from executor_service.errors import BackendUnavailable, Capacity, CodecellError, ImageNotFound, SandboxFailed
from executor_service.sandboxes.base import Sandbox, SandboxSpec
from executor_service.sandboxes.pool import Pool, PoolSettings
from tests.fakes import LEASE, OTHER, SPEC, FakeBackend, FakeSandbox, until


@asynccontextmanager
async def pool_of(backend: FakeBackend, **settings: Any) -> AsyncIterator[Pool]:
    """A pool that keeps nothing unless told; afterwards nothing is left alive."""
    backend.may_create.set()
    async with backend, Pool(backend, PoolSettings(**settings)) as pool:
        yield pool
        backend.may_create.set()
        backend.may_close.set()


@pytest.fixture
async def backend() -> FakeBackend:
    """A backend without sandboxes."""
    return FakeBackend()


def ready(pool: Pool, spec: SandboxSpec = SPEC) -> int:
    """How many stand ready."""
    return pool.stats().ready.get(spec, 0)


async def test_it_fills_up_lends_destroys_and_refills(backend: FakeBackend) -> None:
    """A sandbox goes from stock to a lease to its end, and another takes its place in stock."""
    async with pool_of(backend, warm=2, keep=(SPEC,), settle=60.0) as pool:
        await until(lambda: ready(pool) == 2)
        assert (
            repr(pool) == "<Pool ready=[python/program 2] making=0 leased=0 closing=0 waiting=0 capacity=128>"
        )
        sandbox = await pool.acquire(SPEC, LEASE)
        assert isinstance(sandbox, FakeSandbox)
        assert sandbox.leases == [LEASE]
        assert (
            repr(pool) == "<Pool ready=[python/program 1] making=0 leased=1 closing=0 waiting=0 capacity=128>"
        )
        backend.may_close.clear()
        await pool.release(sandbox)
        assert (
            repr(pool) == "<Pool ready=[python/program 1] making=1 leased=0 closing=1 waiting=0 capacity=128>"
        )
        backend.may_close.set()
        await until(lambda: ready(pool) == 2 and not pool.stats().closing)
        assert sandbox not in backend.alive
        assert pool.stats().from_stock == 1


async def test_a_lease_starts_no_refill_before_the_work_is_done_or_the_pool_settled(
    backend: FakeBackend,
) -> None:
    """While leases follow each other closely, the processor is left to them."""
    async with pool_of(backend, warm=2, keep=(SPEC,), settle=60.0) as pool:
        await until(lambda: ready(pool) == 2)
        await pool.acquire(SPEC, LEASE)
        await asyncio.sleep(0.02)
        assert len(backend.created) == 2
    assert len(backend.created) == 2


async def test_stock_is_topped_up_shortly_after_the_last_lease(backend: FakeBackend) -> None:
    """Sessions hold their sandboxes for long: stock does not wait for them."""
    async with pool_of(backend, warm=2, keep=(SPEC,), settle=0.02) as pool:
        await until(lambda: ready(pool) == 2)
        await pool.acquire(SPEC, LEASE)
        await pool.acquire(SPEC, LEASE)
        await until(lambda: ready(pool) == 2)
        assert pool.stats().leased == 2


async def test_no_sandbox_is_lent_twice_under_concurrency(backend: FakeBackend) -> None:
    """Two hundred tasks each get a sandbox of their own, never more than capacity at a time."""
    seen: list[Sandbox] = []

    async def use(pool: Pool) -> None:
        sandbox = await pool.acquire(SPEC, LEASE)
        seen.append(sandbox)
        await asyncio.sleep(0)
        await pool.release(sandbox)

    async with pool_of(backend, capacity=5, warm=3, keep=(SPEC,)) as pool:
        await asyncio.gather(*(use(pool) for _ in range(200)))
        assert len({sandbox.id for sandbox in seen}) == 200
        assert backend.most_alive <= 5
    assert all(sandbox.closes == 1 for sandbox in backend.created)


async def test_waiters_are_served_in_order(backend: FakeBackend) -> None:
    """Who came first gets the first place that becomes free."""
    served: list[int] = []

    async def use(pool: Pool, number: int) -> None:
        sandbox = await pool.acquire(SPEC, LEASE)
        served.append(number)
        await pool.release(sandbox)

    async with pool_of(backend, capacity=1, warm=0) as pool:
        first = await pool.acquire(SPEC, LEASE)
        tasks = [asyncio.create_task(use(pool, number)) for number in range(5)]
        await until(lambda: pool.stats().waiting == 5)
        await pool.release(first)
        await asyncio.gather(*tasks)
        assert served == [0, 1, 2, 3, 4]


async def test_a_full_queue_and_a_long_wait_are_capacity_errors(backend: FakeBackend) -> None:
    """Both say when to come again, and leave nobody in the queue."""
    async with pool_of(backend, capacity=1, warm=0, queue=1, acquire_timeout=0.05) as pool:
        await pool.acquire(SPEC, LEASE)
        waiting = asyncio.create_task(pool.acquire(SPEC, LEASE))
        await until(lambda: pool.stats().waiting == 1)
        with pytest.raises(Capacity) as full:
            await pool.acquire(SPEC, LEASE)
        with pytest.raises(Capacity) as late:
            await waiting
        assert full.value.retry_after
        assert late.value.retry_after
        assert pool.stats().waiting == 0


async def test_another_key_takes_the_place_of_an_idle_one(backend: FakeBackend) -> None:
    """When the pool is full of what nobody asks for, what is asked for gets in."""
    async with pool_of(backend, capacity=2, warm=2, keep=(SPEC,), settle=60.0) as pool:
        await until(lambda: ready(pool) == 2)
        sandbox = await pool.acquire(OTHER, LEASE)
        assert sandbox.spec == OTHER
        assert backend.most_alive <= 2
        assert ready(pool) == 1


async def test_a_key_that_is_not_kept_leaves_nothing_behind(backend: FakeBackend) -> None:
    """After a lease of an unusual key neither a sandbox of it nor its shelf remains."""
    async with pool_of(backend, warm=1, keep=(OTHER,)) as pool:
        await pool.release(await pool.acquire(SPEC, LEASE))
        await until(lambda: not pool.stats().closing)
        assert SPEC not in pool.stats().ready


async def test_a_dead_one_is_never_lent_and_is_replaced(backend: FakeBackend) -> None:
    """What dies on the shelf is thrown away."""
    async with pool_of(backend, warm=1, keep=(SPEC,)) as pool:
        await until(lambda: ready(pool) == 1)
        backend.created[0].die()
        await until(lambda: len(backend.created) == 2 and ready(pool) == 1)
        assert await pool.acquire(SPEC, LEASE) is backend.created[1]
        assert pool.stats().died == 1
        assert backend.created[0].closes == 1


async def test_one_that_dies_at_the_moment_of_its_lease_is_not_handed_out(backend: FakeBackend) -> None:
    """The lease cannot be applied: the caller gets the next one and never hears of it."""
    async with pool_of(backend, warm=1, keep=(SPEC,), settle=0.0) as pool:
        await until(lambda: ready(pool) == 1)
        backend.refuse_lease.add(backend.created[0])
        assert await pool.acquire(SPEC, LEASE) is backend.created[1]
        await until(lambda: backend.created[0] not in backend.alive)


@pytest.mark.parametrize(
    "error", [ImageNotFound("build it"), SandboxFailed("no"), BackendUnavailable("gone"), SandboxFailed("x")]
)
async def test_a_failure_to_make_reaches_the_waiter(backend: FakeBackend, error: CodecellError) -> None:
    """With its own type, and the next request has its own try."""
    async with pool_of(backend, warm=0) as pool:
        backend.failures = [error]
        with pytest.raises(type(error), match=error.detail):
            await pool.acquire(SPEC, LEASE)
        assert (await pool.acquire(SPEC, LEASE)).spec == SPEC


async def test_an_exception_of_the_backend_is_a_failed_sandbox(backend: FakeBackend) -> None:
    """A bug below does not escape as itself, nor leave a waiter for ever."""
    async with pool_of(backend, warm=0) as pool:
        backend.failures = [ZeroDivisionError("bug")]
        with pytest.raises(SandboxFailed, match="ZeroDivisionError"):
            await pool.acquire(SPEC, LEASE)


async def test_failures_of_stock_back_off(backend: FakeBackend) -> None:
    """A backend that fails is not hammered for stock, and is tried again later."""
    backend.failures = [SandboxFailed("no") for _ in range(3)]
    async with pool_of(backend, warm=2, keep=(SPEC,), backoff=0.02, refills=1) as pool:
        await until(lambda: pool.stats().failed == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert pool.stats().failed == 1
        await until(lambda: ready(pool) == 2)
        assert pool.stats().failed == 3


async def test_a_waiter_that_gives_up_leaks_nothing(backend: FakeBackend) -> None:
    """Cancelled while its sandbox is being made: the sandbox is closed or goes to the next."""
    async with pool_of(backend, capacity=1, warm=0) as pool:
        backend.may_create.clear()
        first = asyncio.create_task(pool.acquire(SPEC, LEASE))
        second = asyncio.create_task(pool.acquire(SPEC, LEASE))
        await until(lambda: backend.making == 1)
        first.cancel()
        backend.may_create.set()
        sandbox = await second
        assert backend.created == [sandbox]
        with pytest.raises(asyncio.CancelledError):
            await first
        await pool.release(sandbox)
        await until(lambda: not backend.alive)


async def test_cancelled_at_the_moment_of_the_gift_it_goes_back_unused(backend: FakeBackend) -> None:
    """A sandbox that was given to a waiter who had just left is still fresh and stays in stock."""
    async with pool_of(backend, warm=1, keep=(SPEC,), settle=60.0) as pool:
        await until(lambda: ready(pool) == 1)
        task = asyncio.create_task(pool.acquire(SPEC, LEASE))
        backend.refuse_lease.clear()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: ready(pool) == 1)
        assert pool.stats().leased == 0
        assert len(backend.created) == 1


async def test_only_so_many_are_made_at_a_time(backend: FakeBackend) -> None:
    """For waiters `makers`, for stock `refills`."""
    async with pool_of(backend, warm=6, keep=(SPEC,), refills=2, makers=3) as pool:
        await until(lambda: ready(pool) == 6)
        assert backend.most_making == 2
        taken = await asyncio.gather(*(pool.acquire(OTHER, LEASE) for _ in range(9)))
        assert len(taken) == 9
        assert backend.most_making == 3


async def test_release_does_not_wait_for_the_close_but_the_place_does(backend: FakeBackend) -> None:
    """Releasing returns at once; capacity counts the sandbox until it is gone."""
    async with pool_of(backend, capacity=1, warm=0) as pool:
        backend.may_close.clear()
        await pool.release(await pool.acquire(SPEC, LEASE))
        waiting = asyncio.create_task(pool.acquire(SPEC, LEASE))
        await until(lambda: pool.stats().waiting == 1)
        assert pool.stats().closing == 1
        assert len(backend.created) == 1
        backend.may_close.set()
        await waiting
        assert len(backend.created) == 2


async def test_released_twice_is_closed_once(backend: FakeBackend) -> None:
    """A second release is nothing."""
    async with pool_of(backend, warm=0) as pool:
        sandbox = await pool.acquire(SPEC, LEASE)
        await pool.release(sandbox)
        await pool.release(sandbox)
    assert backend.created[0].closes == 1


async def test_leaving_closes_all_and_tells_waiters(backend: FakeBackend) -> None:
    """Ready, leased and half-made sandboxes end; who waits gets BackendUnavailable."""
    async with backend, Pool(backend, PoolSettings(capacity=3, warm=1, keep=(SPEC,), settle=60.0)) as pool:
        await until(lambda: ready(pool) == 1)
        await pool.acquire(OTHER, LEASE)
        backend.may_create.clear()
        waiting = asyncio.create_task(pool.acquire(OTHER, LEASE))
        await until(lambda: backend.making == 1)
        asyncio.get_running_loop().call_later(0.01, backend.may_create.set)
    with pytest.raises(BackendUnavailable):
        await waiting
    assert not backend.alive
    with pytest.raises(BackendUnavailable):
        await pool.acquire(SPEC, LEASE)
