"""Several kernels in one session, over a fake guest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from fakes import FakeBackend, FakeGuest, FakeSandbox, find

from executor_service.errors import LanguageNotFound, SandboxFailed
from executor_service.sandboxes.base import SandboxSpec
from executor_service.sandboxes.kernel_start import WARM
from executor_service.sessions.catalog import Catalog, Offer
from executor_service.sessions.kernels import Kernels, kernel_start
from executor_service.sessions.outcome import KernelEnd, classify_execution
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import ExecutionRequest
from executor_service.sessions.session_plan import CellPlan, ShellPlan, plan_execution
from executor_service.tasks import Tasks

PYTHON, BASH, JAVA = find("python"), find("bash"), find("java")
ENV = {"A": "1"}


@pytest_asyncio.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """Cancelled at the end."""
    made = Tasks()
    yield made
    await made.cancel()


def kernels(guest: FakeGuest, tasks: Tasks, *, main: str = "bash", inherited: bool = False) -> Kernels:
    """Those of a session in `main`."""
    return Kernels(
        FakeSandbox(FakeBackend(), 1, SandboxSpec(image="python", warm="kernel")),
        find(main),
        guest=guest,
        env=ENV,
        memory_bytes=1 << 30,
        tasks=tasks,
        keep=True,
        inherited=inherited,
    )


def test_a_kernel_has_the_languages_variables_and_heap() -> None:
    """The caller's come with the session's; the warm interpreter is given nothing, it is there."""
    start = kernel_start(JAVA, ENV, 1 << 30)
    assert start.name == "java"
    assert start.env["A"] == "1"
    assert "-Xmx614m" in start.argv
    assert start.interrupt == "message"
    assert kernel_start(PYTHON, ENV, 1 << 30).argv == ()


async def test_the_sessions_own_kernel_starts_with_it_and_python_goes(tasks: Tasks) -> None:
    """What is not needed does not stay in memory."""
    guest = FakeGuest()
    await kernels(guest, tasks).start()
    assert [start.name for start in guest.kernel_starts] == ["bash"]
    assert guest.ended_kernels == [WARM]


async def test_a_python_session_keeps_its_warm_interpreter(tasks: Tasks) -> None:
    """It is the kernel."""
    guest = FakeGuest()
    await kernels(guest, tasks, main="python").start()
    assert guest.ended_kernels == []


async def test_other_kernels_start_when_they_are_needed(tasks: Tasks) -> None:
    """Once, and without a word of lost state."""
    guest = FakeGuest()
    made = kernels(guest, tasks)
    await made.start()
    holder = made.of(JAVA)
    assert await holder.ready() is await holder.ready()
    assert made.of(JAVA) is holder
    assert [start.name for start in guest.kernel_starts] == ["bash", "java"]
    assert not holder.take_lost()


async def test_a_restart_replaces_those_that_were_started(tasks: Tasks) -> None:
    """The others still wait to be needed."""
    guest = FakeGuest()
    made = kernels(guest, tasks)
    await made.start()
    made.of(JAVA)
    made.restart()
    await made.main.ready()
    assert [start.name for start in guest.kernel_starts] == ["bash", "bash"]


async def test_lost_state_is_told_of_the_kernel_that_lost_it(tasks: Tasks) -> None:
    """A kernel that died is replaced; the other one has lost nothing."""
    guest = FakeGuest()
    made = kernels(guest, tasks)
    await made.start()
    java = made.of(JAVA)
    (await java.ready()).died.set()
    await java.ready()
    assert java.take_lost()
    assert not made.main.take_lost()


@pytest.mark.parametrize("inherited", [False, True])
async def test_a_kernel_of_an_earlier_service_may_have_ended(tasks: Tasks, inherited: bool) -> None:
    """Then a fresh one takes its place, and its state is lost; one that never was just does not start."""
    guest = FakeGuest()
    made = kernels(guest, tasks, inherited=inherited)
    guest.kernel_failures = [SandboxFailed("the kernel ended while it started")]
    holder = made.of(JAVA)
    if not inherited:
        with pytest.raises(SandboxFailed):
            await holder.ready()
        return
    await holder.ready()
    assert holder.take_lost()


def offer(name: str, *, stateful: bool = True, image: str = "polyglot") -> Offer:
    """One of a catalog."""
    return Offer(language=find(name), image=image, stateful=stateful)


def test_a_session_may_use_the_other_kernels_of_its_image() -> None:
    """Not those of another image, nor languages that keep no state there."""
    mine = offer("bash")
    found = Catalog([mine, offer("python"), offer("r", stateful=False), offer("lua", image="other")])
    assert [each.name for each in found.kernels(mine)] == ["python"]
    assert found.stateful("sh") is mine
    with pytest.raises(LanguageNotFound, match="r keeps no state"):
        found.stateful("r")


@pytest.mark.parametrize(
    ("asked", "there", "planned"),
    [
        (None, (BASH,), "python"),
        ("PY", (BASH,), "python"),
        ("bash", (BASH,), "bash"),
        ("sh", (BASH, JAVA), "bash"),
        ("java", (BASH, JAVA), "java"),
        ("sh", (JAVA,), None),  # no kernel for it: a process of its own
    ],
)
def test_an_execution_goes_to_the_kernel_of_its_language(
    asked: str | None, there: tuple[object, ...], planned: str | None
) -> None:
    """By any name of it."""
    request = ExecutionRequest(code="1", language=asked)
    plan = plan_execution(request, offer("python"), there, Policy(), ENV)  # type: ignore[arg-type]
    if planned is None:
        assert isinstance(plan, ShellPlan)
    else:
        assert isinstance(plan, CellPlan)
        assert plan.language.name == planned


def test_kernels_that_there_are_not_are_named() -> None:
    """With those that there are."""
    with pytest.raises(LanguageNotFound, match="there are python, java, bash"):
        plan_execution(ExecutionRequest(code="1", language="lua"), offer("python"), (JAVA,), Policy(), ENV)


@pytest.mark.parametrize(
    ("named", "status", "error", "outcome"),
    [
        (True, "error", "KeyboardInterrupt", "interrupted"),
        (True, "error", "ValueError", "error"),
        (False, "error", "EvaluationInterruptedException", "interrupted"),
        (False, "error", None, "interrupted"),
        (False, "ok", None, "ok"),
    ],
)
def test_an_interrupt_shows_in_each_kernels_own_way(
    named: bool, status: str, error: str | None, outcome: str
) -> None:
    """Python names it; of the others, whatever fails then was interrupted."""
    end = KernelEnd(status="ok", named=named, error_name=error, cause="interrupt")
    end = replace(end, status=status)  # type: ignore[arg-type]
    assert classify_execution(end).outcome.value == outcome
