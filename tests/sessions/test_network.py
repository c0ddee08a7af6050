"""Runs and sessions with a network: the way out opens before anything runs, and closes before the sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from executor_service.egress.policy import Ceiling, Grant, parse_rule
from executor_service.errors import NetworkNotAllowed, SandboxFailed
from executor_service.sandboxes.pool import Pool
from executor_service.sessions.environment import CA_BUNDLE_ENV, WAY_OUT
from executor_service.sessions.manager import Sessions
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import Network, RunRequest, SessionRequest
from executor_service.sessions.runs import Runs
from tests.fakes import Clock, FakeBackend, FakeGuest, FakeSandbox, catalog, hang, until

RULES: Network = {"allow": ("pypi.org",)}
GRANT = Grant(allow=(parse_rule("pypi.org"),))


class FakeEgress:
    """Remembers which ways out were opened, for what, and which were closed while the sandbox lived."""

    def __init__(self) -> None:
        self.opened: list[tuple[FakeSandbox, Grant, Mapping[str, str]]] = []
        self.closed: list[FakeSandbox] = []
        self.failure: SandboxFailed | None = None

    async def open(self, sandbox: FakeSandbox, grant: Grant, fields: Mapping[str, str]) -> FakeWayOut:
        if self.failure:
            raise self.failure
        self.opened.append((sandbox, grant, fields))
        return FakeWayOut(self, sandbox)


class FakeWayOut:
    """One of them."""

    def __init__(self, egress: FakeEgress, sandbox: FakeSandbox) -> None:
        self.egress, self.sandbox = egress, sandbox

    async def close(self) -> None:
        assert not self.sandbox.died.is_set()
        self.egress.closed.append(self.sandbox)


@pytest.fixture
async def egress() -> FakeEgress:
    """What opens ways out."""
    return FakeEgress()


@pytest.fixture
def policy() -> Policy:
    """A list is offered, and a bundle of certificate authorities is there."""
    return Policy(egress=Ceiling(mode="list", rules=(parse_rule("pypi.org"),)), ca_bundle=True)


@pytest.fixture
async def runs(
    pool: Pool, guest: FakeGuest, clock: Clock, policy: Policy, egress: FakeEgress
) -> AsyncIterator[Runs]:
    """Runs that may have a network."""
    async with Runs(
        pool=pool, catalog=catalog(), policy=policy, guest=guest, clock=clock, egress=egress
    ) as runs:
        yield runs


@pytest.fixture
async def sessions(
    pool: Pool, guest: FakeGuest, clock: Clock, policy: Policy, egress: FakeEgress
) -> AsyncIterator[Sessions]:
    """Sessions that may have one."""
    async with Sessions(
        pool=pool,
        catalog=catalog(),
        backend_name="fake",
        policy=policy,
        guest=guest,
        clock=clock,
        egress=egress,
    ) as sessions:
        yield sessions


async def test_a_run_with_a_network(
    runs: Runs, backend: FakeBackend, guest: FakeGuest, egress: FakeEgress
) -> None:
    """It has a sandbox of that kind, variables that lead to the proxy, and a way out that ends with it."""
    operation = await runs.start(RunRequest(language="python", code="1", network=RULES), "me")
    await operation.wait()
    sandbox = backend.created[0]
    assert sandbox.spec.network
    assert egress.opened == [(sandbox, GRANT, {"run": operation.id, "sandbox": sandbox.id})]
    await until(lambda: not backend.alive)
    assert egress.closed == [sandbox]
    env = guest.programs[0].spec.env
    assert env.items() >= {**WAY_OUT, **CA_BUNDLE_ENV}.items()


async def test_a_run_without_one(
    runs: Runs, backend: FakeBackend, guest: FakeGuest, egress: FakeEgress
) -> None:
    """Nothing of it, although it is offered."""
    await (await runs.start(RunRequest(language="python", code="1"), "me")).wait()
    assert not backend.created[0].spec.network
    assert egress.opened == []
    assert not guest.programs[0].spec.env.keys() & {*WAY_OUT.keys() - {"PIP_RETRIES"}, *CA_BUNDLE_ENV}


async def test_the_callers_variables_win(runs: Runs, guest: FakeGuest) -> None:
    """A caller may point programs elsewhere; that opens nothing."""
    env = {"https_proxy": "http://127.0.0.1:1", "PIP_CERT": "/workspace/my.crt"}
    await (await runs.start(RunRequest(language="python", code="1", network=RULES, env=env), "me")).wait()
    assert guest.programs[0].spec.env.items() >= env.items()


async def test_a_run_that_is_stopped(
    runs: Runs, backend: FakeBackend, guest: FakeGuest, egress: FakeEgress
) -> None:
    """Its way out ends as well."""
    guest.program_script = hang
    operation = await runs.start(RunRequest(language="python", code="1", network=RULES), "me")
    await operation.stop()
    await until(lambda: not backend.alive)
    assert egress.closed == backend.created


@pytest.mark.parametrize("network", [True, {"allow": ("evil.org",)}, {"allow": ()}])
async def test_more_than_is_offered(
    runs: Runs, sessions: Sessions, backend: FakeBackend, network: Network
) -> None:
    """Is refused before a sandbox is taken."""
    with pytest.raises(NetworkNotAllowed):
        await runs.start(RunRequest(language="python", code="1", network=network), "me")
    with pytest.raises(NetworkNotAllowed):
        await sessions.create(SessionRequest(network=network), "me")
    assert not backend.created


async def test_a_way_out_that_does_not_open(
    runs: Runs, sessions: Sessions, backend: FakeBackend, egress: FakeEgress
) -> None:
    """The request fails as ours, and the sandbox is freed: nothing runs with less than was asked."""
    egress.failure = SandboxFailed("no")
    with pytest.raises(SandboxFailed):
        await runs.start(RunRequest(language="python", code="1", network=RULES), "me")
    with pytest.raises(SandboxFailed):
        await sessions.create(SessionRequest(network=RULES), "me")
    await until(lambda: not backend.alive)


async def test_a_session_with_a_network(
    sessions: Sessions, backend: FakeBackend, guest: FakeGuest, egress: FakeEgress
) -> None:
    """It shows what it was asked for, its kernel has the variables, its way out ends when it is closed."""
    session = await sessions.create(SessionRequest(network=RULES), "me")
    sandbox = backend.created[0]
    assert sandbox.spec.network
    assert session.view()["network"] == {"allow": ["pypi.org"]}
    assert egress.opened == [(sandbox, GRANT, {"session": session.id, "sandbox": sandbox.id})]
    assert guest.kernel_env[0].items() >= {**WAY_OUT, **CA_BUNDLE_ENV}.items()
    assert egress.closed == []
    await sessions.close(session.id, "me")
    assert egress.closed == [sandbox]
    await until(lambda: not backend.alive)


async def test_a_kernel_that_does_not_start(
    sessions: Sessions, backend: FakeBackend, guest: FakeGuest, egress: FakeEgress
) -> None:
    """The way out that was open already is closed."""
    guest.kernel_failures = [SandboxFailed("no")]
    with pytest.raises(SandboxFailed):
        await sessions.create(SessionRequest(network=RULES), "me")
    assert egress.closed == backend.created
