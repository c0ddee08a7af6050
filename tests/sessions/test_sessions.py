"""Sessions, on fakes: made, found, listed, renewed, expired, closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from executor_service.errors import (
    BackendUnavailable,
    Capacity,
    CodecellError,
    ImageNotFound,
    InvalidRequest,
    LanguageNotFound,
    LimitTooHigh,
    NetworkNotAllowed,
    SandboxFailed,
    SessionClosed,
    SessionNotFound,
)
from executor_service.images import THREAD_COUNTS
from executor_service.sandboxes.pool import Pool, PoolSettings
from executor_service.sessions.manager import Sessions
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import CommandRequest, ExecutionRequest, SessionRequest
from executor_service.sessions.session import Session
from tests.fakes import Cell, Clock, FakeBackend, FakeGuest, FakeSandbox, catalog, hang, until

MiB = 1 << 20


async def sleep(cell: Cell) -> None:
    """A cell that ends when interrupted."""
    await cell.sleep()


async def test_a_session_and_its_view(sessions: Sessions, clock: Clock) -> None:
    """Every field of docs/api.md."""
    asked = SessionRequest(metadata={"chat": "7"}, ttl=60, limits={"cpus": 0.5})
    session = await sessions.create(asked, "me")
    assert session.id.startswith("ses_")
    assert session.view() == {
        "id": session.id,
        "state": "ready",
        "language": "python",
        "image": "python",
        "backend": "fake",
        "limits": {"cpus": 0.5, "disk_bytes": 256 * MiB, "memory_bytes": 512 * MiB, "processes": 128},
        "network": False,
        "metadata": {"chat": "7"},
        "created_at": "2023-11-14T22:13:20.000Z",
        "expires_at": "2023-11-14T22:14:20.000Z",
        "last_used_at": "2023-11-14T22:13:20.000Z",
    }
    assert sessions.get(session.id, "me") is session


async def test_it_takes_a_sandbox_with_a_kernel(
    sessions: Sessions, backend: FakeBackend, guest: FakeGuest
) -> None:
    """The limits go to the lease and the key, the variables to the kernel."""
    await sessions.create(
        SessionRequest(env={"A": "b"}, limits={"memory_bytes": MiB, "disk_bytes": 2 * MiB}), "me"
    )
    sandbox = backend.created[0]
    assert (sandbox.spec.warm, sandbox.spec.disk_bytes) == ("kernel", 2 * MiB)
    assert sandbox.leases[0].memory_bytes == MiB
    assert guest.kernel_env == [{"A": "b"}]


async def test_its_kernel_has_what_it_was_not_started_with(sessions: Sessions, guest: FakeGuest) -> None:
    """Threads as many as processors; what is as it was costs no execution."""
    await sessions.create(SessionRequest(env={"HOME": "/workspace"}, limits={"cpus": 1.0}), "me")
    await sessions.create(SessionRequest(limits={"cpus": 0.5}), "me")
    await sessions.create(SessionRequest(limits={"cpus": 1.5}, env={"OMP_NUM_THREADS": "3"}), "me")
    two = dict.fromkeys(THREAD_COUNTS, "2")
    assert guest.kernel_env == [{}, {}, {**two, "OMP_NUM_THREADS": "3"}]


REFUSED: list[tuple[dict[str, Any], type[CodecellError]]] = [
    ({"language": "bash"}, LanguageNotFound),
    ({"language": "cobol"}, LanguageNotFound),
    ({"image": "nope"}, ImageNotFound),
    ({"limits": {"wall_time": 1}}, InvalidRequest),
    ({"limits": {"memory_bytes": 1 << 50}}, LimitTooHigh),
    ({"network": {"allow": ("a",)}}, NetworkNotAllowed),
    ({"env": {"\0": ""}}, InvalidRequest),
    ({"metadata": {"a": "\0"}}, InvalidRequest),
    ({"ttl": 0.0}, InvalidRequest),
    ({"ttl": 1e12}, InvalidRequest),
    ({"idle_ttl": -1.0}, InvalidRequest),
]


@pytest.mark.parametrize(("fields", "error"), REFUSED)
async def test_refusals(
    sessions: Sessions, backend: FakeBackend, fields: dict[str, Any], error: type[CodecellError]
) -> None:
    """No sandbox is taken for a request that is refused."""
    with pytest.raises(error):
        await sessions.create(SessionRequest(**fields), "me")
    assert not backend.created


async def test_a_kernel_that_does_not_start_frees_the_sandbox(
    sessions: Sessions, backend: FakeBackend, guest: FakeGuest
) -> None:
    """The request fails as ours, nothing stays."""
    guest.kernel_failures = [SandboxFailed("no")]
    with pytest.raises(SandboxFailed):
        await sessions.create(SessionRequest(), "me")
    await until(lambda: not backend.alive)
    assert len(sessions) == 0


async def test_a_caller_that_gives_up_while_it_starts_leaks_nothing(
    sessions: Sessions, backend: FakeBackend, guest: FakeGuest
) -> None:
    """Cancelled before the kernel answered: the sandbox is freed."""
    guest.may_start_kernel.clear()
    task = asyncio.create_task(sessions.create(SessionRequest(), "me"))
    await until(lambda: backend.created)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not backend.alive)
    assert len(sessions) == 0


async def test_a_caller_that_gives_up_twice_leaks_nothing(
    sessions: Sessions, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled again while what had begun is being closed."""
    starting, closing = asyncio.Event(), asyncio.Event()

    async def start(self: Session) -> None:
        starting.set()
        await asyncio.Event().wait()

    async def close(self: Session, reason: str, *, died: bool = False) -> None:
        closing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Session, "start", start)
    monkeypatch.setattr(Session, "close", close)
    task = asyncio.create_task(sessions.create(SessionRequest(), "me"))
    await asyncio.wait_for(starting.wait(), 10)
    task.cancel()
    await asyncio.wait_for(closing.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not backend.alive)


async def test_capacity(sessions: Sessions, backend: FakeBackend, guest: FakeGuest, clock: Clock) -> None:
    """When all sandboxes are taken, the caller hears when to come again."""
    async with (
        FakeBackend() as other,
        Pool(other, PoolSettings(capacity=1, warm=0, acquire_timeout=0.02)) as pool,
    ):
        small = Sessions(pool=pool, catalog=catalog(), backend_name="x", guest=guest, clock=clock)
        async with small:
            await small.create(SessionRequest(), "me")
            with pytest.raises(Capacity) as refusal:
                await small.create(SessionRequest(), "me")
            assert refusal.value.retry_after


async def test_anothers_session_is_as_none(sessions: Sessions) -> None:
    """On every verb, open or closed."""
    session = await sessions.create(SessionRequest(), "me")
    for _ in range(2):
        with pytest.raises(SessionNotFound):
            sessions.get(session.id, "you")
        with pytest.raises(SessionNotFound):
            await sessions.close(session.id, "you")
        await sessions.close(session.id, "me")


async def test_closing(sessions: Sessions, backend: FakeBackend, clock: Clock) -> None:
    """The sandbox goes; for an hour its owner hears why; closing again is nothing."""
    session = await sessions.create(SessionRequest(), "me")
    await sessions.close(session.id, "me")
    await until(lambda: not backend.alive)
    assert session.view()["state"] == "closed"
    with pytest.raises(SessionClosed, match="deleted"):
        sessions.get(session.id, "me")
    await sessions.close(session.id, "me")
    for verb in (
        session.execute(ExecutionRequest(code="x")),
        session.command(CommandRequest(command="x")),
        session.renew(1),
        session.interrupt(),
        session.restart(),
    ):
        with pytest.raises(SessionClosed, match="deleted"):
            await verb
    with pytest.raises(SessionClosed):
        session.executions()
    with pytest.raises(SessionClosed):
        _ = session.files
    clock.now += 3600
    with pytest.raises(SessionNotFound):
        sessions.get(session.id, "me")
    with pytest.raises(SessionNotFound):
        await sessions.close(session.id, "me")


async def test_the_end_of_its_ttl(
    sessions: Sessions, guest: FakeGuest, clock: Clock, backend: FakeBackend
) -> None:
    """Whatever runs; and at the instant itself, before any task has noticed."""
    guest.cells["x"] = sleep
    session = await sessions.create(SessionRequest(ttl=100), "me")
    operation = await session.execute(ExecutionRequest(code="x"))
    clock.now += 99
    assert sessions.get(session.id, "me") is session
    clock.now += 1
    with pytest.raises(SessionClosed, match="ttl"):
        sessions.get(session.id, "me")
    await operation.wait()
    assert operation.fold()["outcome"] == "interrupted"
    await until(lambda: not backend.alive)


async def test_idling(sessions: Sessions, guest: FakeGuest, clock: Clock) -> None:
    """Time without any use ends it; use and running work put that off, looking does not."""
    guest.cells["x"] = sleep
    session = await sessions.create(SessionRequest(idle_ttl=10), "me")
    clock.now += 9
    operation = await session.execute(ExecutionRequest(code="x"))
    clock.now += 50
    await sessions.expire()
    assert sessions.get(session.id, "me") is session
    await operation.stop()
    clock.now += 9
    _ = session.files
    clock.now += 9
    session.view()
    assert sessions.list("me", {}, 10, None)[0] == [session]
    with session.using():
        clock.now += 50
        await sessions.expire()
    assert sessions.get(session.id, "me") is session
    clock.now += 10
    assert sessions.list("me", {}, 10, None)[0] == []
    await sessions.expire()
    with pytest.raises(SessionClosed, match="idle"):
        sessions.get(session.id, "me")


async def test_a_command_keeps_it_from_idling(sessions: Sessions, guest: FakeGuest, clock: Clock) -> None:
    """A server in a session is a detached command."""
    guest.script = hang
    session = await sessions.create(SessionRequest(idle_ttl=10), "me")
    await session.command(CommandRequest(command="serve", detach=True, limits={"wall_time": 600}))
    clock.now += 100
    await sessions.expire()
    assert sessions.get(session.id, "me") is session


async def test_expiry_runs_by_itself(sessions: Sessions, clock: Clock, backend: FakeBackend) -> None:
    """Nobody has to ask."""
    await sessions.create(SessionRequest(ttl=1), "me")
    clock.now += 1
    await until(lambda: not backend.alive)
    assert len(sessions) == 0


async def test_renewing(sessions: Sessions, clock: Clock) -> None:
    """From now on, longer or shorter, within the bound."""
    session = await sessions.create(SessionRequest(ttl=100), "me")
    clock.now += 50
    await session.renew(200)
    assert session.view()["expires_at"] == "2023-11-14T22:17:30.000Z"
    with pytest.raises(InvalidRequest):
        await session.renew(1e12)
    await session.renew(1)
    clock.now += 1
    with pytest.raises(SessionClosed):
        sessions.get(session.id, "me")


async def test_lists(sessions: Sessions) -> None:
    """The caller's own, by metadata, in pages, oldest first."""
    mine = [
        await sessions.create(SessionRequest(metadata={"n": str(n), "odd": str(n % 2)}), "me")
        for n in range(5)
    ]
    await sessions.create(SessionRequest(metadata={"odd": "1"}), "you")
    assert sessions.list("me", {}, 10, None) == (mine, None)
    assert sessions.list("me", {"odd": "1"}, 10, None) == ([mine[1], mine[3]], None)
    assert sessions.list("me", {"odd": "1", "n": "3"}, 10, None)[0] == [mine[3]]
    assert sessions.list("me", {"nope": "1"}, 10, None)[0] == []
    first, cursor = sessions.list("me", {}, 3, None)
    await sessions.close(mine[2].id, "me")
    assert (first, sessions.list("me", {}, 3, cursor)) == (mine[:3], (mine[3:], None))
    with pytest.raises(InvalidRequest):
        sessions.list("me", {}, 3, "nonsense")


async def test_a_sandbox_that_dies_while_idle_closes_the_session(
    sessions: Sessions, backend: FakeBackend, clock: Clock
) -> None:
    """With that reason."""
    session = await sessions.create(SessionRequest(), "me")
    backend.created[0].die()
    await until(lambda: len(sessions) == 0)
    with pytest.raises(SessionClosed, match="sandbox died"):
        sessions.get(session.id, "me")
    await until(lambda: not backend.alive)


async def test_draining(sessions: Sessions, guest: FakeGuest, backend: FakeBackend) -> None:
    """What ends in time ends well, the rest is interrupted; all closes; nothing new is taken."""
    gate = asyncio.Event()

    async def quick(cell: Cell) -> None:
        await gate.wait()

    guest.cells |= {"quick": quick, "slow": sleep}
    first, second = [await sessions.create(SessionRequest(), "me") for _ in range(2)]
    finishes = await first.execute(ExecutionRequest(code="quick"))
    does_not = await second.execute(ExecutionRequest(code="slow"))
    await sessions.create(SessionRequest(), "me")
    assert not sessions.draining
    draining = asyncio.create_task(sessions.drain(0.1))
    await asyncio.sleep(0)
    assert sessions.draining
    with pytest.raises(BackendUnavailable):
        await sessions.create(SessionRequest(), "me")
    gate.set()
    await draining
    assert finishes.fold()["outcome"] == "ok"
    assert does_not.fold()["outcome"] == "interrupted"
    await until(lambda: not backend.alive)
    assert sessions.running == 0


async def test_closing_does_not_wait_for_ever(
    sessions: Sessions, guest: FakeGuest, backend: FakeBackend
) -> None:
    """An execution that waits for a restart hears that the session is closed."""
    session = await sessions.create(SessionRequest(), "me")
    guest.may_start_kernel.clear()
    restarting = asyncio.create_task(session.restart())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(session.execute(ExecutionRequest(code="x")))
    await asyncio.sleep(0.01)
    await sessions.close(session.id, "me")
    for task in (restarting, waiting):
        with pytest.raises(SessionClosed):
            await task
    assert isinstance(session.sandbox, FakeSandbox)
    await until(lambda: session.sandbox not in backend.alive)


def test_the_policys_defaults() -> None:
    """As docs/api.md promises them."""
    policy = Policy()
    assert (policy.ttl, policy.idle_ttl, policy.closed_for, policy.keep_for) == (3600, 600, 3600, 600)
    assert (policy.collect_files, policy.collect_bytes, policy.max_changed) == (100, 10 * MiB, 1000)
