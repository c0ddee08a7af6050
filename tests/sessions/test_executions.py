"""Executions, on fakes: state, limits, input, interrupts, deaths."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from executor_service.errors import (
    ExecutionNotFound,
    InvalidRequest,
    LanguageNotFound,
    LimitTooHigh,
    NotWaitingForInput,
    SandboxFailed,
    SessionBusy,
    SessionClosed,
)
from executor_service.events import Completed, Display, File, InputRequest, Result, Started, Stdout, to_json
from executor_service.sandboxes.files import now_ns
from executor_service.sessions import execution
from executor_service.sessions.manager import Sessions
from executor_service.sessions.operation import Operation
from executor_service.sessions.requests import ExecutionRequest, SessionRequest
from executor_service.sessions.session import Session
from tests.fakes import Cell, Clock, Crash, FakeGuest, FakeProgram, FakeSandbox, hang, until
from tests.sessions.conftest import body_of

Execute = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    """An open session."""
    return await sessions.create(SessionRequest(env={"A": "b"}), "me")


@pytest.fixture
def execute(session: Session, guest: FakeGuest) -> Execute:
    """Execute a script, wait for its end, give its body."""

    async def execute(script: Callable[[Cell], Awaitable[None]], **fields: Any) -> dict[str, Any]:
        guest.cells["x"] = script
        return await body_of(await session.execute(ExecutionRequest(code="x", **fields)))

    return execute


@pytest.fixture
def start(session: Session, guest: FakeGuest) -> Callable[..., Awaitable[Operation]]:
    """Start a script and wait until it runs."""

    async def start(script: Callable[[Cell], Awaitable[None]], **fields: Any) -> Operation:
        running = asyncio.Event()

        async def tell(cell: Cell) -> None:
            running.set()
            await script(cell)

        guest.cells["x"] = tell
        operation = await session.execute(ExecutionRequest(code="x", **fields))
        await asyncio.wait_for(running.wait(), 10)
        return operation

    return start


Start = Callable[..., Awaitable[Operation]]


async def nothing(cell: Cell) -> None:
    """A cell that does nothing."""


async def sleep(cell: Cell) -> None:
    """A cell that ends when interrupted."""
    cell.show(Stdout(text="before"))
    await cell.sleep()


async def stubborn(cell: Cell) -> None:
    """A cell that ignores interrupts."""
    cell.show(Stdout(text="before"))
    await asyncio.Event().wait()


def sandbox_of(session: Session) -> FakeSandbox:
    """Its fake."""
    assert isinstance(session.sandbox, FakeSandbox)
    return session.sandbox


async def test_an_execution_and_its_body(execute: Execute) -> None:
    """Every field of docs/api.md."""

    async def script(cell: Cell) -> None:
        cell.show(Stdout(text="hello\n"))
        cell.show(Display(data={"image/png": "AAAA"}, metadata={"w": 1}))
        cell.show(Result(data={"text/plain": "42"}, execution_count=1))

    body = await execute(script)
    assert body.pop("id").startswith("exe_")
    assert body.pop("duration") >= 0
    assert body == {
        "outcome": "ok",
        "stdout": "hello\n",
        "stderr": "",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "result": {"text/plain": "42"},
        "displays": [{"data": {"image/png": "AAAA"}, "metadata": {"w": 1}}],
        "error": None,
        "files": [],
        "files_truncated": False,
        "execution_count": 1,
        "usage": {"cpu_time": 0.0, "peak_memory_bytes": 4096},
        "detail": None,
        "state_lost": False,
        "state": "done",
    }


async def test_its_events_and_files(session: Session, guest: FakeGuest) -> None:
    """File events come before completed, which carries every folded field but the texts."""

    async def script(cell: Cell) -> None:
        sandbox_of(session).workspace["plot.png"] = (b"123", now_ns())

    sandbox_of(session).workspace["old"] = (b"1", now_ns() - 10**9)
    guest.cells["x"] = script
    operation = await session.execute(ExecutionRequest(code="x"))
    events = [event async for _, event in operation.journal.follow()]
    assert events[:-1] == [Started(id=operation.id), File(path="plot.png", size=3)]
    assert isinstance(events[-1], Completed)
    assert set(to_json(events[-1])) == {
        "id", "outcome", "stdout_truncated", "stderr_truncated", "error", "files", "files_truncated",
        "execution_count", "duration", "usage", "detail", "state_lost",
    }  # fmt: skip
    assert operation.fold()["files"] == [{"path": "plot.png", "size": 3}]


async def test_state_is_kept_between_executions(execute: Execute) -> None:
    """That is what sessions are for."""

    async def put(cell: Cell) -> None:
        cell.state["a"] = 1

    async def get(cell: Cell) -> None:
        cell.show(Stdout(text=str(cell.state.get("a"))))

    await execute(put)
    body = await execute(get)
    assert (body["stdout"], body["execution_count"]) == ("1", 2)


async def test_an_exception_is_an_outcome(execute: Execute) -> None:
    """With its name, value and traceback."""

    async def script(cell: Cell) -> None:
        raise MemoryError("much")

    body = await execute(script)
    assert body["outcome"] == "error"
    assert body["error"] == {"name": "MemoryError", "value": "much", "traceback": []}


async def test_one_at_a_time(session: Session, start: Start) -> None:
    """The second is refused, and works when the first has ended."""
    operation = await start(sleep)
    assert session.view()["state"] == "busy"
    with pytest.raises(SessionBusy):
        await session.execute(ExecutionRequest(code="x"))
    await operation.stop()
    assert session.state == "ready"
    await (await start(nothing)).wait()


async def test_a_timeout_interrupts_and_keeps_state(execute: Execute, guest: FakeGuest) -> None:
    """Outcome timeout, what it printed, the same kernel afterwards."""
    body = await execute(sleep, limits={"wall_time": 0.05})
    assert (body["outcome"], body["stdout"], body["state_lost"]) == ("timeout", "before", False)
    assert "wall time" in body["detail"]
    assert body["error"]["name"] == "KeyboardInterrupt"
    assert (await execute(nothing))["outcome"] == "ok"
    assert len(guest.kernels) == 1


async def test_what_ignores_the_interrupt_loses_its_kernel(execute: Execute, guest: FakeGuest) -> None:
    """State lost, said once; the next execution has a fresh kernel."""
    body = await execute(stubborn, limits={"wall_time": 0.05})
    assert (body["outcome"], body["stdout"], body["state_lost"]) == ("timeout", "before", True)
    assert body["error"] is None
    after = await execute(nothing)
    assert (after["outcome"], after["state_lost"], after["execution_count"]) == ("ok", False, 1)
    assert len(guest.kernels) == 2


async def test_cpu_time_is_sampled(execute: Execute, session: Session) -> None:
    """Past it the execution is interrupted, and the outcome says which time."""

    async def burn(cell: Cell) -> None:
        sandbox_of(session).cpu_time += 5
        await cell.sleep()

    body = await execute(burn, limits={"cpu_time": 2})
    assert (body["outcome"], body["detail"]) == ("timeout", "cpu time exceeded")
    assert body["usage"]["cpu_time"] == 5
    assert not body["state_lost"]


async def test_too_much_output_interrupts_and_keeps_state(execute: Execute, guest: FakeGuest) -> None:
    """The stream that was cut says so."""

    async def flood(cell: Cell) -> None:
        cell.show(Stdout(text="x" * 100))
        await cell.sleep()

    body = await execute(flood, limits={"output_bytes": 10})
    assert (body["outcome"], body["stdout"], body["stdout_truncated"]) == ("output_limit", "x" * 10, True)
    assert not body["state_lost"]
    assert (len(guest.kernels), guest.kernels[0].interrupts) == (1, 1)


async def test_a_flood_that_ignores_the_interrupt_is_killed(execute: Execute) -> None:
    """After the same grace as a timeout."""

    async def flood(cell: Cell) -> None:
        cell.show(Stdout(text="x" * 100))
        await asyncio.Event().wait()

    body = await execute(flood, limits={"output_bytes": 10})
    assert (body["outcome"], body["state_lost"]) == ("output_limit", True)


async def test_a_kernel_that_dies(execute: Execute, guest: FakeGuest) -> None:
    """An error with its own name; the session goes on with a fresh kernel."""

    async def crash(cell: Cell) -> None:
        raise Crash("SIGSEGV")

    body = await execute(crash)
    assert (body["outcome"], body["error"]["name"], body["state_lost"]) == ("error", "KernelDied", True)
    assert "SIGSEGV" in body["error"]["value"]
    after = await execute(nothing)
    assert (after["outcome"], after["state_lost"]) == ("ok", False)
    assert len(guest.kernels) == 2


async def test_a_kernel_killed_for_memory(execute: Execute, session: Session) -> None:
    """Out of memory, not a crash."""

    async def big(cell: Cell) -> None:
        sandbox_of(session).kills += 1
        raise Crash("SIGKILL")

    body = await execute(big)
    assert (body["outcome"], body["state_lost"]) == ("out_of_memory", True)


async def test_a_child_killed_for_memory(execute: Execute, session: Session) -> None:
    """Out of memory whatever the reply, and only for the execution in which it was."""

    async def big(cell: Cell) -> None:
        sandbox_of(session).kills += 1

    body = await execute(big)
    assert (body["outcome"], body["state_lost"]) == ("out_of_memory", False)
    assert (await execute(nothing))["outcome"] == "ok"


async def test_a_kernel_that_dies_between_executions_is_told_to_the_next(
    execute: Execute, guest: FakeGuest
) -> None:
    """Its state was lost, and nobody has said so yet."""
    guest.kernels[0].died.set()
    body = await execute(nothing)
    assert (body["outcome"], body["state_lost"]) == ("ok", True)
    assert not (await execute(nothing))["state_lost"]


async def test_a_kernel_that_does_not_come_back(session: Session, guest: FakeGuest) -> None:
    """The request fails as ours; the next has another try."""
    guest.cells["x"] = nothing
    guest.kernels[0].died.set()
    guest.kernel_failures = [SandboxFailed("no")]
    with pytest.raises(SandboxFailed):
        await session.execute(ExecutionRequest(code="x"))
    assert (await body_of(await session.execute(ExecutionRequest(code="x"))))["outcome"] == "ok"


async def test_an_interrupt_and_its_outcome(session: Session, start: Start) -> None:
    """Interrupted when the code ends by it; nothing when idle."""
    await session.interrupt()
    operation = await start(sleep)
    await session.interrupt()
    body = await body_of(operation)
    assert (body["outcome"], body["state_lost"]) == ("interrupted", False)


async def test_an_interrupt_that_is_caught_is_no_end(session: Session, start: Start) -> None:
    """An interrupt asks; it does not escalate."""

    async def catches(cell: Cell) -> None:
        await cell.interrupted.wait()
        cell.show(Stdout(text="caught"))

    operation = await start(catches)
    await session.interrupt()
    body = await body_of(operation)
    assert (body["outcome"], body["stdout"]) == ("ok", "caught")


async def test_a_client_that_goes_away_frees_the_kernel(start: Start, execute: Execute) -> None:
    """The next execution works, with state kept."""
    operation = await start(sleep)
    await operation.stop()
    assert operation.fold()["outcome"] == "interrupted"
    assert (await execute(nothing))["execution_count"] == 2


async def test_stopping_what_ignores_the_interrupt(start: Start) -> None:
    """Its kernel is killed."""
    operation = await start(stubborn)
    await operation.stop()
    body = operation.fold()
    assert (body["outcome"], body["state_lost"], body["stdout"]) == ("interrupted", True, "before")


async def test_stopped_before_it_began(session: Session, guest: FakeGuest) -> None:
    """A stop that comes at once is no less a stop."""
    guest.cells["x"] = sleep
    operation = await session.execute(ExecutionRequest(code="x"))
    await operation.stop()
    assert operation.fold()["outcome"] == "interrupted"


async def test_input_is_asked_for_and_answered(start: Start) -> None:
    """Only when it was asked for; the time it takes does not count."""

    async def ask(cell: Cell) -> None:
        answer = await cell.ask("name? ")
        await asyncio.sleep(0)
        cell.show(Stdout(text=f"hello {answer}"))

    operation = await start(ask, allow_input=True, limits={"wall_time": 0.2})
    await until(lambda: InputRequest(prompt="name? ") in operation.journal.events)
    await asyncio.sleep(0.4)
    assert operation.state == "running"
    await operation.input("you")
    body = await body_of(operation)
    assert (body["outcome"], body["stdout"]) == ("ok", "hello you")
    assert body["duration"] < 0.3


async def test_after_the_answer_time_counts_again(start: Start) -> None:
    """The limit holds for what the code does."""

    async def ask(cell: Cell) -> None:
        await cell.ask("?")
        await cell.sleep()

    operation = await start(ask, allow_input=True, limits={"wall_time": 0.05})
    await until(lambda: len(operation.journal) == 2)
    await operation.input("x")
    assert (await body_of(operation))["outcome"] == "timeout"


async def test_input_that_nobody_asked_for(start: Start) -> None:
    """A conflict, while it runs and when it has ended."""
    operation = await start(sleep)
    with pytest.raises(NotWaitingForInput):
        await operation.input("x")
    await operation.stop()
    with pytest.raises(NotWaitingForInput):
        await operation.input("x")


async def test_input_when_it_is_not_allowed(execute: Execute) -> None:
    """`input()` fails at once."""

    async def ask(cell: Cell) -> None:
        await cell.ask("?")

    body = await execute(ask)
    assert (body["outcome"], body["error"]["value"]) == ("error", "StdinNotImplementedError")


async def test_a_restart_loses_state_and_keeps_files(
    execute: Execute, session: Session, guest: FakeGuest
) -> None:
    """A fresh kernel in the same sandbox."""

    async def put(cell: Cell) -> None:
        cell.state["a"] = 1
        sandbox_of(session).workspace["f"] = (b"1", now_ns())

    async def get(cell: Cell) -> None:
        cell.show(Stdout(text=str(cell.state.get("a"))))

    await execute(put)
    await session.restart()
    body = await execute(get)
    assert (body["stdout"], body["execution_count"], body["state_lost"]) == ("None", 1, False)
    assert "f" in sandbox_of(session).workspace
    assert guest.kernel_env == [{"A": "b"}, {"A": "b"}]


async def test_a_restart_ends_what_runs(session: Session, start: Start) -> None:
    """As interrupted, with the loss of state told."""
    operation = await start(stubborn)
    await session.restart()
    body = operation.fold()
    assert (body["outcome"], body["state_lost"], body["error"]) == ("interrupted", True, None)
    assert session.state == "ready"


async def test_an_execution_sent_during_a_restart_waits_for_it(session: Session, guest: FakeGuest) -> None:
    """It is not refused; a second one is."""
    guest.cells["x"] = sleep
    guest.may_start_kernel.clear()
    restart = asyncio.create_task(session.restart())
    await asyncio.sleep(0)
    first = asyncio.create_task(session.execute(ExecutionRequest(code="x")))
    second = asyncio.create_task(session.execute(ExecutionRequest(code="x")))
    await asyncio.sleep(0.01)
    assert not first.done()
    guest.may_start_kernel.set()
    await restart
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == ["Operation", "SessionBusy"]


async def test_a_sandbox_that_dies_is_an_outcome_and_closes_the_session(
    sessions: Sessions, session: Session, start: Start
) -> None:
    """A typed end with the output so far; then the session says why it is closed."""
    operation = await start(stubborn)
    await until(lambda: len(operation.journal) == 2)
    sandbox_of(session).die()
    body = await body_of(operation)
    assert (body["outcome"], body["stdout"]) == ("sandbox_died", "before")
    with pytest.raises(SessionClosed, match="sandbox died"):
        sessions.get(session.id, "me")


async def test_a_limit_that_the_guest_does_not_set(
    session: Session, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The execution fails as the sandbox's fault; the next has another try."""

    async def refuse(number: int) -> None:
        raise SandboxFailed("not now")

    guest.cells["x"] = nothing
    with monkeypatch.context() as patch:
        patch.setattr(execution, "DEATH_NOTICE", 0.01)
        patch.setattr(guest.kernels[0], "limit_open_files", refuse)
        operation = await session.execute(ExecutionRequest(code="x"))
        with pytest.raises(SandboxFailed, match="not now"):
            await operation.wait()
    assert (await body_of(await session.execute(ExecutionRequest(code="x"))))["outcome"] == "ok"


async def test_a_sandbox_that_dies_before_the_code_begins(
    session: Session, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same outcome as later."""

    async def die(number: int) -> None:
        sandbox_of(session).die()
        raise SandboxFailed("gone")

    monkeypatch.setattr(guest.kernels[0], "limit_open_files", die)
    operation = await session.execute(ExecutionRequest(code="x"))
    assert (await body_of(operation))["outcome"] == "sandbox_died"


async def test_closing_a_session_ends_what_runs(sessions: Sessions, session: Session, start: Start) -> None:
    """At once, as interrupted."""
    operation = await start(stubborn)
    await until(lambda: len(operation.journal) == 2)
    await sessions.close(session.id, "me")
    body = operation.fold()
    assert (body["outcome"], body["detail"], body["stdout"]) == (
        "interrupted",
        "the session was closed",
        "before",
    )


async def test_bash(session: Session, guest: FakeGuest) -> None:
    """A shell beside the kernel, folded as an execution."""

    async def shell(program: FakeProgram) -> int:
        program.out(b"out")
        program.sandbox.workspace["made"] = (b"1", now_ns())
        return 2

    guest.script = shell
    body = await body_of(await session.execute(ExecutionRequest(code="ls", language="bash")))
    assert guest.programs[0].spec.argv == ("bash", "-c", "ls")
    assert guest.programs[0].spec.env["A"] == "b"
    assert (body["outcome"], body["stdout"], body["result"], body["detail"]) == (
        "error",
        "out",
        None,
        "exit code 2",
    )
    assert body["files"] == [{"path": "made", "size": 1}]


async def test_bash_is_interrupted_by_a_signal(session: Session, guest: FakeGuest) -> None:
    """As Ctrl-C would."""

    async def shell(program: FakeProgram) -> int:
        await program.signalled.wait()
        return 130

    guest.script = shell
    operation = await session.execute(ExecutionRequest(code="sleep", language="bash"))
    await session.interrupt()
    await operation.wait()
    assert guest.programs[0].signals == ["SIGINT"]


async def test_bash_ends_with_a_restart(session: Session, guest: FakeGuest) -> None:
    """It does not hold a restart up."""
    guest.script = hang
    operation = await session.execute(ExecutionRequest(code="sleep", language="bash"))
    await session.restart()
    assert operation.fold()["outcome"] == "interrupted"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"language": "r"}, LanguageNotFound),
        ({"language": "javascript"}, LanguageNotFound),
        ({"code": "a\0"}, InvalidRequest),
        ({"limits": {"memory_bytes": 1}}, InvalidRequest),
        ({"limits": {"wall_time": 1e9}}, LimitTooHigh),
    ],
)
async def test_refusals(session: Session, fields: dict[str, Any], error: type[Exception]) -> None:
    """They come before anything starts and do not make the session busy."""
    with pytest.raises(error):
        await session.execute(ExecutionRequest(**{"code": "x", **fields}))
    assert session.state == "ready"


@pytest.mark.parametrize("language", ["python", "py", "Python3", None])
async def test_its_own_language_by_any_name(session: Session, guest: FakeGuest, language: str | None) -> None:
    """Aliases mean the kernel as well."""
    guest.cells["x"] = nothing
    body = await body_of(await session.execute(ExecutionRequest(code="x", language=language)))
    assert body["outcome"] == "ok"


async def test_executions_are_remembered_newest_first_and_not_for_ever(
    session: Session, guest: FakeGuest, clock: Clock
) -> None:
    """So many of them, and ten minutes."""
    guest.cells["x"] = nothing
    done = []
    for _ in range(4):
        clock.now += 1
        done.append(await session.execute(ExecutionRequest(code="x")))
        await done[-1].wait()
    assert session.executions() == done[:0:-1]
    assert session.execution(done[3].id) is done[3]
    with pytest.raises(ExecutionNotFound):
        session.execution(done[0].id)
    clock.now += 600
    assert session.executions() == []
