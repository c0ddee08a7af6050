"""Runs and sessions over fakes, with a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from executor_service.sandboxes.pool import Pool, PoolSettings
from executor_service.sessions.manager import Sessions
from executor_service.sessions.operation import Operation
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import RunRequest
from executor_service.sessions.runs import Runs
from tests.fakes import Clock, FakeBackend, FakeGuest, catalog

Policies = Callable[..., Policy]
Run = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def backend() -> FakeBackend:
    """Makes fake sandboxes."""
    return FakeBackend()


@pytest.fixture
async def pool(backend: FakeBackend) -> AsyncIterator[Pool]:
    """A pool that keeps nothing; at the end nothing may be alive."""
    async with backend, Pool(backend, PoolSettings(capacity=8, warm=0)) as pool:
        yield pool


@pytest.fixture
async def guest() -> FakeGuest:
    """What runs in the sandboxes."""
    return FakeGuest()


@pytest.fixture
def clock() -> Clock:
    """The wall clock."""
    return Clock()


@pytest.fixture
def policy() -> Policy:
    """Short graces; small numbers, so that bounds are reached."""
    return Policy(interrupt_grace=0.05, keep_count=3, max_detached=2, max_commands=2, session_keep_count=3)


@pytest.fixture
async def runs(pool: Pool, guest: FakeGuest, clock: Clock, policy: Policy) -> AsyncIterator[Runs]:
    """Runs in every language."""
    async with Runs(pool=pool, catalog=catalog(), policy=policy, guest=guest, clock=clock) as runs:
        yield runs


@pytest.fixture
async def sessions(pool: Pool, guest: FakeGuest, clock: Clock, policy: Policy) -> AsyncIterator[Sessions]:
    """Sessions in Python."""
    async with Sessions(
        pool=pool, catalog=catalog(), backend_name="fake", policy=policy, guest=guest, clock=clock
    ) as sessions:
        yield sessions


@pytest.fixture
def run(runs: Runs) -> Run:
    """Start a run, wait for its end, give its body."""

    async def run(**fields: Any) -> dict[str, Any]:
        operation = await runs.start(RunRequest(**{"language": "python", "code": "1", **fields}), "me")
        return await body_of(operation)

    return run


async def body_of(operation: Operation) -> dict[str, Any]:
    """The body once it has ended."""
    await operation.wait()
    return operation.fold()
