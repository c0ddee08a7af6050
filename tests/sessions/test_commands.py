"""Commands and terminals, on fakes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from executor_service.errors import (
    CommandNotFound,
    InvalidPath,
    InvalidRequest,
    NotWaitingForInput,
    QuotaExceeded,
    SandboxFailed,
    SessionClosed,
)
from executor_service.sessions.manager import Sessions
from executor_service.sessions.requests import CommandRequest, ExecutionRequest, SessionRequest
from executor_service.sessions.session import Session
from tests.fakes import Cell, FakeBackend, FakeGuest, FakeProgram, FakeSandbox, hang, run_for_ever, until
from tests.sessions.conftest import body_of


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    """An open session."""
    return await sessions.create(SessionRequest(env={"A": "session", "B": "session"}), "me")


async def echo(program: FakeProgram) -> int:
    """Prints what it reads, as it comes, to the end."""
    ended = False
    while not ended:
        ended = program.stdin_closed.is_set()
        program.out(bytes(program.stdin))
        program.stdin.clear()
        await asyncio.sleep(0)
    return 0


async def test_a_command_and_its_body(session: Session, guest: FakeGuest) -> None:
    """As a run, without compile stage and files."""

    async def script(program: FakeProgram) -> int:
        program.out(b"3\n")
        return 0

    guest.script = script
    body = await body_of(await session.command(CommandRequest(command="ls | wc -l")))
    assert body.pop("id").startswith("cmd_")
    assert body == {
        "outcome": "ok",
        "exit_code": 0,
        "signal": None,
        "stdout": "3\n",
        "stderr": "",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "detail": None,
        "duration": 0.5,
        "usage": {"cpu_time": 0.25, "peak_memory_bytes": None},
        "state": "done",
    }


async def test_what_is_run_and_where(session: Session, guest: FakeGuest) -> None:
    """A shell for `command`, the program itself for `argv`; the command's variables win."""
    await body_of(await session.command(CommandRequest(command="ls", limits={"wall_time": 5})))
    await body_of(await session.command(CommandRequest(argv=("ls", "-l"), cwd="sub", env={"B": "mine"})))
    first, second = (program.spec for program in guest.programs)
    assert (first.argv, first.cwd, first.wall_time) == (("bash", "-c", "ls"), "/workspace", 5)
    assert (second.argv, second.cwd) == (("ls", "-l"), "/workspace/sub")
    assert (second.env["A"], second.env["B"]) == ("session", "mine")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, InvalidRequest),
        ({"command": "a", "argv": ("b",)}, InvalidRequest),
        ({"argv": ()}, InvalidRequest),
        ({"argv": ("",)}, InvalidRequest),
        ({"argv": ("a", "\0")}, InvalidRequest),
        ({"command": "\0"}, InvalidRequest),
        ({"command": "a", "cwd": "\0"}, InvalidPath),
        ({"command": "a", "env": {"": ""}}, InvalidRequest),
        ({"command": "a", "limits": {"disk_bytes": 1}}, InvalidRequest),
    ],
)
async def test_refusals(
    session: Session, guest: FakeGuest, fields: dict[str, Any], error: type[Exception]
) -> None:
    """They come before anything starts."""
    with pytest.raises(error):
        await session.command(CommandRequest(**fields))
    assert not guest.programs


async def test_an_attached_command_reads_the_end_of_its_input(session: Session, guest: FakeGuest) -> None:
    """At once, or after what it was given."""
    guest.script = echo
    assert (await body_of(await session.command(CommandRequest(command="cat", stdin=b"abc"))))[
        "stdout"
    ] == "abc"
    guest.script = hang
    operation = await session.command(CommandRequest(command="cat"))
    await until(lambda: len(guest.programs) == 2)
    assert not guest.programs[-1].spec.stdin
    with pytest.raises(NotWaitingForInput):
        await operation.input(b"x")
    await operation.stop()


async def test_a_detached_command_reads_what_it_is_sent(session: Session, guest: FakeGuest) -> None:
    """Text and bytes, until the input is closed."""
    guest.script = echo
    operation = await session.command(CommandRequest(command="cat", detach=True))
    await operation.input("a")
    await operation.input(b"b")
    await operation.input("", close=True)
    with pytest.raises(NotWaitingForInput):
        await operation.input("c")
    assert (await body_of(operation))["stdout"] == "ab"
    with pytest.raises(NotWaitingForInput):
        await operation.input("c")


async def test_signals(session: Session, guest: FakeGuest) -> None:
    """By name; an unknown one is refused; after the end nothing happens."""

    async def script(program: FakeProgram) -> int:
        await program.signalled.wait()
        return 7

    guest.script = script
    operation = await session.command(CommandRequest(command="x", detach=True))
    with pytest.raises(InvalidRequest):
        await operation.signal("SIGNOTHING")
    await operation.signal("SIGTERM")
    assert (await body_of(operation))["exit_code"] == 7
    assert guest.programs[0].signals == ["SIGTERM"]
    await operation.signal("SIGTERM")


async def test_stopping_keeps_what_was_printed(session: Session, guest: FakeGuest) -> None:
    """The client went away, or DELETE."""
    guest.script = run_for_ever
    operation = await session.command(CommandRequest(command="x"))
    await until(lambda: len(operation.journal) == 2)
    await operation.stop()
    body = operation.fold()
    assert (body["outcome"], body["stdout"], body["signal"]) == ("interrupted", "running\n", "SIGKILL")


async def test_stopped_before_it_began(session: Session, guest: FakeGuest) -> None:
    """A stop that comes at once is no less a stop."""
    guest.script = hang
    operation = await session.command(CommandRequest(command="x"))
    await operation.stop()
    assert operation.fold()["outcome"] == "interrupted"


async def test_commands_run_beside_an_execution_and_each_other(session: Session, guest: FakeGuest) -> None:
    """They do not make the session busy, and there are only so many."""

    async def sleep(cell: Cell) -> None:
        await cell.sleep()

    guest.cells["x"] = sleep
    guest.script = hang
    execution = await session.execute(ExecutionRequest(code="x"))
    commands = [await session.command(CommandRequest(command="x", detach=True)) for _ in range(2)]
    with pytest.raises(QuotaExceeded):
        await session.command(CommandRequest(command="x"))
    with pytest.raises(QuotaExceeded):
        async with session.terminal(24, 80):
            pass
    for each in (execution, *commands):
        await each.stop()
    assert session.commands() == commands[::-1]
    assert session.command_of(commands[0].id) is commands[0]
    with pytest.raises(CommandNotFound):
        session.command_of(execution.id)


async def test_a_guest_that_cannot_say_how_it_ended_closes_the_session(
    sessions: Sessions, session: Session, guest: FakeGuest, backend: FakeBackend
) -> None:
    """A tree that could not be killed: `sandbox_died`, and nothing stays."""

    async def unkillable(program: FakeProgram) -> int:
        raise SandboxFailed("unkillable")

    guest.script = unkillable
    operation = await session.command(CommandRequest(command="x"))
    assert (await body_of(operation))["outcome"] == "sandbox_died"
    with pytest.raises(SessionClosed, match="sandbox"):
        sessions.get(session.id, "me")
    await until(lambda: not backend.alive)


async def test_closing_the_session_ends_commands(
    sessions: Sessions, session: Session, guest: FakeGuest
) -> None:
    """At once, as interrupted, with the reason."""
    guest.script = run_for_ever
    operation = await session.command(CommandRequest(command="x", detach=True))
    await until(lambda: len(operation.journal) == 2)
    await sessions.close(session.id, "me")
    body = operation.fold()
    assert (body["outcome"], body["detail"]) == ("interrupted", "the session was closed")


async def test_a_memory_kill_is_seen(session: Session, guest: FakeGuest) -> None:
    """Whatever the exit code, and not again for the next command."""

    async def big(program: FakeProgram) -> int:
        program.sandbox.kills += 1
        return 0

    guest.script = big
    assert (await body_of(await session.command(CommandRequest(command="x"))))["outcome"] == "out_of_memory"

    async def small(program: FakeProgram) -> int:
        return 0

    guest.script = small
    assert (await body_of(await session.command(CommandRequest(command="x"))))["outcome"] == "ok"


async def test_a_terminal(session: Session, guest: FakeGuest) -> None:
    """A shell with a size, killed when it is left."""
    guest.script = run_for_ever
    async with session.terminal(30, 100) as program:
        assert isinstance(program, FakeProgram)
        assert program.spec.tty == (30, 100)
        assert program.spec.stdin
        assert program.spec.env["TERM"] == "xterm-256color"
        assert await anext(aiter(program)) == ("stdout", b"running\n")
    assert program.closed


async def test_a_terminal_in_a_sandbox_that_is_gone(session: Session, sessions: Sessions) -> None:
    """Refused, as ours or as closed."""
    assert isinstance(session.sandbox, FakeSandbox)
    session.sandbox.die()
    with pytest.raises((SandboxFailed, SessionClosed)):
        async with session.terminal(24, 80):
            pass


async def test_transfers_are_no_commands(session: Session, guest: FakeGuest) -> None:
    """They keep a session from idling, and take no place of a command or a terminal."""
    guest.script = hang
    with session.using(), session.using(), session.using():
        command = await session.command(CommandRequest(command="x"))
        async with session.terminal(24, 80):
            with pytest.raises(QuotaExceeded):
                await session.command(CommandRequest(command="x"))
        await session.command(CommandRequest(command="x"))
    await command.stop()
