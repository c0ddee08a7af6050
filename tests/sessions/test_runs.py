"""Runs, on fakes: from the request to the body, and every way to end."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from executor_service.errors import (
    BackendUnavailable,
    CodecellError,
    DiskFull,
    ImageNotFound,
    InvalidPath,
    InvalidRequest,
    LanguageNotFound,
    LimitTooHigh,
    NetworkNotAllowed,
    NotWaitingForInput,
    QuotaExceeded,
    RunNotFound,
    SandboxFailed,
)
from executor_service.events import Completed, File, Started, Stderr, Stdout, to_json
from executor_service.sandboxes.files import now_ns
from executor_service.sandboxes.pool import Pool
from executor_service.sessions.operation import Operation
from executor_service.sessions.requests import FileIn, RunRequest
from executor_service.sessions.runs import Runs
from tests.fakes import Clock, FakeBackend, FakeGuest, FakeProgram, hang, run_for_ever, until
from tests.sessions.conftest import Run, body_of


async def hello(program: FakeProgram) -> int:
    """Says hello on both streams."""
    program.out(b"hel")
    program.out(b"lo\xe2\x82")
    program.out(b"\xac\n")
    program.out(b"oops", "stderr")
    return 3


async def cat(program: FakeProgram) -> int:
    """Prints its input."""
    await program.stdin_closed.wait()
    program.out(bytes(program.stdin))
    return 0


def request(**fields: Any) -> RunRequest:
    """A Python run."""
    return RunRequest(**{"language": "python", "code": "1", **fields})


async def test_a_run_and_its_body(run: Run, guest: FakeGuest) -> None:
    """Every field of docs/api.md, and the sandbox's peak of memory."""
    guest.script = hello
    body = await run()
    assert body.pop("id").startswith("run_")
    assert body == {
        "outcome": "error",
        "exit_code": 3,
        "signal": None,
        "stdout": "hello€\n",
        "stderr": "oops",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "detail": None,
        "duration": 0.5,
        "usage": {"cpu_time": 0.0, "peak_memory_bytes": 4096},
        "compile": None,
        "files": [],
        "files_omitted": [],
        "state": "done",
    }


async def test_its_events(runs: Runs, guest: FakeGuest) -> None:
    """Started, what it said in order, completed with the folded fields but the texts."""
    guest.script = hello
    operation = await runs.start(request(), "me")
    events = [event async for _, event in operation.journal.follow()]
    assert events[0] == Started(id=operation.id)
    assert isinstance(events[-1], Completed)
    assert "".join(event.text for event in events if isinstance(event, Stdout)) == "hello€\n"
    assert Stderr(text="oops") in events
    assert set(to_json(events[-1])) == {
        "id", "outcome", "exit_code", "signal", "stdout_truncated", "stderr_truncated", "detail", "duration",
        "usage", "compile", "files", "files_omitted",
    }  # fmt: skip


async def test_python_is_the_armed_interpreter_other_languages_are_programs(
    run: Run, guest: FakeGuest
) -> None:
    """Which sandbox is asked for, and what it is told to run."""
    await run(code="import numpy", args=("a", "b"))
    await run(language="bash", code="echo", args=("a",))
    python, bash = guest.programs
    assert python.sandbox.spec.warm == "program"
    assert python.spec.armed
    assert python.spec.argv == ("main.py", "a", "b")
    assert python.spec.source == ("main.py", "import numpy")
    assert not python.spec.stdin
    assert bash.sandbox.spec.warm == "none"
    assert not bash.spec.armed
    assert bash.spec.argv == ("bash", "main.sh", "a")
    assert bash.spec.source == ("main.sh", "echo")


async def test_python_without_packages_takes_the_light_interpreter(run: Run, guest: FakeGuest) -> None:
    """It is armed too; an uploaded module that imports a package counts as the program does."""
    await run(code="import json")
    await run(code="import mine", files=(FileIn(path="mine.py", content=b"import pandas"),))
    assert [program.sandbox.spec.warm for program in guest.programs] == ["light", "program"]
    assert all(program.spec.armed for program in guest.programs)


async def test_limits_go_to_the_lease_the_key_and_the_program(run: Run, guest: FakeGuest) -> None:
    """Each limit holds where it belongs; threads follow the processors."""
    asked = {"wall_time": 5, "cpu_time": 2, "output_bytes": 99, "open_files": 77}
    sandbox_limits = {"memory_bytes": 1 << 28, "processes": 9, "cpus": 0.5, "disk_bytes": 1 << 20}
    await run(limits={**asked, **sandbox_limits}, env={"A": "b"})
    program = guest.programs[0]
    spec, lease = program.spec, program.sandbox.leases[0]
    assert (spec.wall_time, spec.cpu_time, spec.output_bytes, spec.open_files) == (5, 2, 99, 77)
    assert (lease.memory_bytes, lease.processes, lease.cpus) == (1 << 28, 9, 0.5)
    assert program.sandbox.spec.disk_bytes == 1 << 20
    assert spec.env["A"] == "b"
    assert spec.env["OMP_NUM_THREADS"] == "1"
    assert spec.env["HOME"] == "/workspace"


async def test_stdin_is_sent_and_closed(run: Run, guest: FakeGuest) -> None:
    """Binary input reaches the program whole, then its end."""
    guest.script = cat
    assert (await run(stdin=b"a" * 100_000))["stdout"] == "a" * 100_000


async def test_files_go_in_and_come_out(run: Run, guest: FakeGuest) -> None:
    """UTF-8 as text, the rest as base64; what we wrote ourselves does not come back."""

    async def script(program: FakeProgram) -> int:
        assert program.sandbox.workspace["data.csv"][0] == b"a,b\n"
        program.sandbox.workspace["plot.png"] = (b"\x89PNG\xff", now_ns())
        return 0

    guest.script = script
    body = await run(files=(FileIn(path="./data.csv", content=b"a,b\n"),), collect=("*",))
    assert body["files"] == [
        {"path": "data.csv", "size": 4, "content": "a,b\n", "encoding": "utf-8"},
        {
            "path": "plot.png",
            "size": 5,
            "content": base64.b64encode(b"\x89PNG\xff").decode(),
            "encoding": "base64",
        },
    ]


async def test_a_program_that_changes_its_own_text_gets_it_back(run: Run, guest: FakeGuest) -> None:
    """The source file is collected when it is not what we wrote."""

    async def script(program: FakeProgram) -> int:
        program.sandbox.workspace["main.py"] = (b"new", now_ns())
        return 0

    guest.script = script
    assert [file["path"] for file in (await run(collect=("*.py",)))["files"]] == ["main.py"]


async def test_collected_files_are_events_and_what_does_not_fit_is_named(
    runs: Runs, guest: FakeGuest
) -> None:
    """At most 100; file events come before completed."""

    async def script(program: FakeProgram) -> int:
        for number in range(101):
            program.sandbox.workspace[f"f{number:03}"] = (b"x", now_ns())
        return 0

    guest.script = script
    operation = await runs.start(request(collect=("f*",)), "me")
    body = await body_of(operation)
    assert len(body["files"]) == 100
    assert body["files_omitted"] == [{"path": "f100", "size": 1, "reason": "too_many"}]
    assert sum(isinstance(event, File) for event in operation.journal.events) == 100


@pytest.mark.parametrize(
    ("fields", "argv", "source"),
    [
        ({"files": ("main.py",)}, ("main_1.py",), ("main_1.py", "1")),
        ({"files": ("main.py", "main_1.py")}, ("main_2.py",), ("main_2.py", "1")),
        ({"files": ("main.py/x",)}, ("main_1.py",), ("main_1.py", "1")),
        ({"files": ("a/go.py",), "code": None, "entrypoint": "a/go.py"}, ("a/go.py",), ("a/go.py", None)),
    ],
)
async def test_where_the_program_lies(
    run: Run, guest: FakeGuest, fields: dict[str, Any], argv: tuple[str, ...], source: tuple[str, str | None]
) -> None:
    """Code takes the first free name; an entrypoint names an uploaded file."""
    fields["files"] = tuple(FileIn(path=path, content=b"") for path in fields["files"])
    await run(**fields)
    assert guest.programs[0].spec.argv == argv
    assert guest.programs[0].spec.source == source


async def test_a_compiled_language_compiles_first(run: Run, guest: FakeGuest) -> None:
    """Two programs in one sandbox; the stage's output is its own."""

    async def script(program: FakeProgram) -> int:
        program.out(b"warning" if program.spec.argv[0] == "gcc" else b"42", "stderr")
        return 0

    guest.script = script
    body = await run(language="c", code="int main;", limits={"compile_time": 7})
    compiler, program = guest.programs
    assert compiler.sandbox is program.sandbox
    assert compiler.spec.wall_time == 7
    assert compiler.spec.source == ("main.c", "int main;")
    assert program.spec.source is None
    assert (body["outcome"], body["stderr"]) == ("ok", "42")
    assert body["compile"] == {
        "outcome": "ok",
        "exit_code": 0,
        "stdout": "",
        "stderr": "warning",
        "duration": 0.5,
    }


async def test_what_does_not_compile_does_not_run(run: Run, guest: FakeGuest) -> None:
    """The compiler's words are in `compile`, the program never starts."""

    async def script(program: FakeProgram) -> int:
        program.out(b"error: expected ';'", "stderr")
        return 1

    guest.script = script
    body = await run(language="c", code="x")
    assert len(guest.programs) == 1
    assert (body["outcome"], body["exit_code"], body["stdout"]) == ("compile_error", None, "")
    assert body["compile"]["outcome"] == "compile_error"
    assert body["compile"]["stderr"] == "error: expected ';'"


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("wall_time", "timeout"),
        ("cpu_time", "timeout"),
        ("memory", "out_of_memory"),
        ("output_limit", "output_limit"),
    ],
)
async def test_limits_of_the_guest_become_outcomes(
    run: Run, guest: FakeGuest, reason: str, outcome: str
) -> None:
    """With what was printed before."""

    async def script(program: FakeProgram) -> int:
        program.out(b"before")
        program.fail(reason)
        return await hang(program)

    guest.script = script
    body = await run()
    assert (body["outcome"], body["stdout"], body["signal"]) == (outcome, "before", "SIGKILL")
    assert body["detail"]


async def test_the_memory_limit_counts_whatever_the_exit_code(run: Run, guest: FakeGuest) -> None:
    """A child was killed, the program went on and ended well: out of memory all the same."""

    async def script(program: FakeProgram) -> int:
        program.sandbox.kills += 1
        return 0

    guest.script = script
    body = await run()
    assert (body["outcome"], body["exit_code"]) == ("out_of_memory", 0)


async def test_a_sandbox_that_dies_is_an_outcome(run: Run, guest: FakeGuest) -> None:
    """A typed end with the output so far, not an error of the request."""

    async def script(program: FakeProgram) -> int:
        program.out(b"before")
        await until(program._queue.empty)
        program.sandbox.die()
        return await hang(program)

    guest.script = script
    body = await run(collect=("*",))
    assert (body["outcome"], body["stdout"], body["exit_code"]) == ("sandbox_died", "before", None)
    assert body["detail"]


REFUSED: list[tuple[dict[str, Any], type[CodecellError]]] = [
    ({"language": "intercal"}, LanguageNotFound),
    ({"image": "nope"}, ImageNotFound),
    ({"files": (FileIn(path="../x", content=b""),)}, InvalidPath),
    ({"code": None, "entrypoint": "nope.py"}, InvalidPath),
    ({"code": "1", "entrypoint": "a.py"}, InvalidRequest),
    ({"code": None}, InvalidRequest),
    ({"code": "a\0"}, InvalidRequest),
    ({"code": "\ud800"}, InvalidRequest),
    ({"args": ("\0",)}, InvalidRequest),
    ({"env": {"A=": "1"}}, InvalidRequest),
    ({"collect": ("/etc/*",)}, InvalidPath),
    ({"limits": {"wall_time": -1}}, InvalidRequest),
    ({"limits": {"nope": 1}}, InvalidRequest),
    ({"limits": {"wall_time": 1e9}}, LimitTooHigh),
    ({"network": True}, NetworkNotAllowed),
]


@pytest.mark.parametrize(("fields", "error"), REFUSED)
async def test_refusals_come_before_anything_starts(
    runs: Runs, backend: FakeBackend, fields: dict[str, Any], error: type[CodecellError]
) -> None:
    """No sandbox is taken for a request that is refused."""
    with pytest.raises(error):
        await runs.start(request(**fields), "me")
    assert not backend.created


@pytest.mark.parametrize("error", [DiskFull("no room"), SandboxFailed("gone")])
async def test_files_that_cannot_be_put_refuse_the_run_and_free_the_sandbox(
    runs: Runs, backend: FakeBackend, guest: FakeGuest, error: CodecellError
) -> None:
    """A failure before the start is an error of the request."""
    guest.put_error = error
    with pytest.raises(type(error)):
        await runs.start(request(files=(FileIn(path="a", content=b"x"),)), "me")
    await until(lambda: not backend.alive)


async def test_the_sandbox_is_destroyed_afterwards(run: Run, backend: FakeBackend) -> None:
    """Each run has one of its own."""
    await run()
    await run()
    await until(lambda: not backend.alive)
    assert len(backend.created) == 2


async def test_stopping_keeps_what_was_printed(runs: Runs, guest: FakeGuest, backend: FakeBackend) -> None:
    """The client went away: the program is killed and its sandbox freed."""
    guest.script = run_for_ever
    operation = await runs.start(request(), "me")
    await until(lambda: len(operation.journal) == 2)
    await operation.stop()
    body = operation.fold()
    assert (body["outcome"], body["stdout"], body["signal"]) == ("interrupted", "running\n", "SIGKILL")
    await operation.stop()
    await until(lambda: not backend.alive)


async def test_stopped_while_compiling_it_does_not_run(runs: Runs, guest: FakeGuest) -> None:
    """The stage ends as interrupted and so does the run."""
    guest.script = run_for_ever
    operation = await runs.start(request(language="c"), "me")
    await until(lambda: len(operation.journal) == 2)
    await operation.stop()
    body = operation.fold()
    assert body["outcome"] == "interrupted"
    assert body["compile"]["outcome"] == "interrupted"
    assert len(guest.programs) == 1


async def test_an_attached_run_is_found_while_it_runs_and_then_no_more(runs: Runs, guest: FakeGuest) -> None:
    """And only by its owner."""
    guest.script = run_for_ever
    operation = await runs.start(request(), "me")
    assert runs.get(operation.id, "me") is operation
    with pytest.raises(RunNotFound):
        runs.get(operation.id, "you")
    await runs.stop(operation.id, "me")
    await until(lambda: not runs._kept._operations)
    with pytest.raises(RunNotFound):
        runs.get(operation.id, "me")


async def test_a_detached_run_is_kept_for_ten_minutes(runs: Runs, clock: Clock) -> None:
    """After its end; then it is not found."""
    operation = await runs.start(request(detach=True), "me")
    await operation.wait()
    clock.now += 599
    assert runs.get(operation.id, "me").fold()["state"] == "done"
    clock.now += 1
    with pytest.raises(RunNotFound):
        runs.get(operation.id, "me")


async def test_detached_runs_are_bounded(runs: Runs, guest: FakeGuest) -> None:
    """So many that run, and so many that are kept; the oldest goes first."""
    ended = [await runs.start(request(detach=True), "me") for _ in range(2)]
    await asyncio.gather(*(each.wait() for each in ended))
    guest.script = run_for_ever
    running = [await runs.start(request(detach=True), "me") for _ in range(2)]
    with pytest.raises(QuotaExceeded):
        await runs.start(request(detach=True), "me")
    for each in running:
        await each.stop()
    with pytest.raises(RunNotFound):
        runs.get(ended[0].id, "me")
    assert runs.get(running[1].id, "me") is running[1]


async def test_a_detached_run_so_far(runs: Runs, guest: FakeGuest, clock: Clock) -> None:
    """Outcome null until the end; replay from the start or from a number."""
    guest.script = run_for_ever
    operation = await runs.start(request(detach=True), "me")
    await until(lambda: len(operation.journal) == 2)
    clock.now += 5
    body = operation.fold()
    assert (body["state"], body["outcome"], body["stdout"], body["duration"]) == (
        "running",
        None,
        "running\n",
        5.0,
    )
    await runs.stop(operation.id, "me")
    assert [n async for n, _ in operation.journal.follow()] == [1, 2, 3]
    assert [n async for n, _ in operation.journal.follow(2)] == [3]


async def test_a_run_takes_neither_input_nor_signals(runs: Runs, guest: FakeGuest) -> None:
    """Its input came with the request."""
    guest.script = run_for_ever
    operation = await runs.start(request(), "me")
    with pytest.raises(NotWaitingForInput):
        await operation.input("x")
    await operation.stop()
    with pytest.raises(NotWaitingForInput):
        await operation.input("x")


async def test_a_caller_that_gives_up_while_waiting_leaks_nothing(
    runs: Runs, backend: FakeBackend, pool: Pool
) -> None:
    """Cancelled before it started: no run, no sandbox."""
    backend.may_create.clear()
    task = asyncio.create_task(runs.start(request(), "me"))
    await until(lambda: backend.making)
    task.cancel()
    backend.may_create.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not backend.making and not backend.alive)
    assert runs.running == 0


async def test_draining_lets_work_finish_and_then_stops_it(runs: Runs, guest: FakeGuest) -> None:
    """What ends in time ends well, the rest is interrupted; nothing new is taken."""
    gate = asyncio.Event()

    async def by_code(program: FakeProgram) -> int:
        assert program.spec.source is not None
        if program.spec.source[1] == "gate":
            await gate.wait()
            return 0
        return await run_for_ever(program)

    guest.script = by_code
    quick: Operation = await runs.start(request(code="gate"), "me")
    slow = await runs.start(request(code="slow"), "me")
    draining = asyncio.create_task(runs.drain(0.1))
    await asyncio.sleep(0)
    with pytest.raises(BackendUnavailable):
        await runs.start(request(), "me")
    gate.set()
    await draining
    assert quick.fold()["outcome"] == "ok"
    assert slow.fold()["outcome"] == "interrupted"


async def test_a_bug_of_ours_is_an_error_and_not_an_outcome(
    runs: Runs, guest: FakeGuest, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers and waiters get Internal; the sandbox is freed all the same."""

    def broken(*_: object) -> FakeProgram:
        raise ZeroDivisionError

    monkeypatch.setattr(guest, "program", broken)
    operation = await runs.start(request(detach=True), "me")
    with pytest.raises(CodecellError, match="log"):
        await operation.wait()
    with pytest.raises(CodecellError, match="log"):
        operation.fold()
    await until(lambda: not backend.alive)
