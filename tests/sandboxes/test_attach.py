"""Taking up what a guest keeps, from the host's side: a guest that says whatever an attacker would."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executor_service.errors import SandboxFailed
from executor_service.events import Display, Error, InputRequest, Stdout
from executor_service.guest.kernel_frames import IOPUB, SHELL, STDIN
from executor_service.guest.protocol import Kind, pack, pack_json
from executor_service.sandboxes import stash
from executor_service.sandboxes.guest import NotKept, ProgramSpec, ask, attach, attach_program
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sandboxes.kernel_execution import Execution
from executor_service.sandboxes.kernel_messages import KernelMessage
from tests.sandboxes.test_kernel_hostile import frame, json_values

SPEC = ProgramSpec(argv=(), wall_time=5.0, output_bytes=100, open_files=10)
PARENT = {"msg_id": "exe_1"}


class GuestSandbox:
    """A sandbox whose guest says the same bytes to everybody."""

    id = "test"

    def __init__(self, path: str) -> None:
        self._path = path

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection."""
        return await asyncio.open_unix_connection(self._path)


@asynccontextmanager
async def guest(directory: Path, *said: bytes) -> AsyncIterator[Any]:
    """One that says these frames, then closes."""
    done: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done.append(asyncio.current_task())
        writer.write(b"".join(said))
        writer.write_eof()
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    path = str(directory / "guest")
    async with await asyncio.start_unix_server(serve, path):
        yield GuestSandbox(path)
        await asyncio.wait([each for each in done if each is not None], timeout=5)


def attached(**more: object) -> bytes:
    """The first answer."""
    return pack_json({"type": "attached", "operation": "exe_1", "from": 0, "last": 0, "state": None, **more})


BODY = (
    frame(IOPUB, "stream", {"name": "stdout", "text": "a"}, PARENT),
    frame(SHELL, "execute_reply", {"status": "ok", "execution_count": 1}, PARENT),
    frame(IOPUB, "status", {"execution_state": "idle"}, PARENT),
)


@pytest.mark.parametrize(
    "answer",
    [
        attached(**{"from": -1, "last": -5}),
        attached(**{"from": "x", "last": [], "state": 7}),
        attached(**{"from": 1 << 70, "last": None, "state": {}}),
        attached(state={"events": -3, "left": {"stdout": "x", "no": 1}, "input_header": 4, "status": 9}),
        attached(state={"events": True, "truncated": {"a": 1}, "waited": "x", "asked_at": []}),
        attached(busy="x", more=[[[]]]),
    ],
)
async def test_an_answer_that_makes_no_sense_does_no_harm(answer: bytes, tmp_path: Path) -> None:
    """What is shown is what the frames say."""
    async with (
        guest(tmp_path, answer, *BODY) as sandbox,
        await Kernel.attach(sandbox, "kernel/python", "exe_1", output_bytes=100) as kernel,
    ):
        shown = [each async for each in kernel.resume()]
        assert isinstance(shown[-1], KernelDone)
        assert kernel.skipped >= 0
        await asyncio.wait_for(kernel.caught_up.wait(), 5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (pack_json({"type": "error", "code": "unknown", "detail": "none"}), NotKept),
        (pack_json({"type": "error", "code": "other"}), SandboxFailed),
        (attached(operation="exe_2"), NotKept),
        (attached(operation=None), NotKept),
        (b"", NotKept),
        (pack(Kind.DATA, b"x"), SandboxFailed),
        (b"\xff" * 100, SandboxFailed),
    ],
)
async def test_another_answer_is_a_refusal(answer: bytes, error: type[SandboxFailed], tmp_path: Path) -> None:
    """NotKept where there is nothing to go on with; anything else is the sandbox's failure."""
    async with guest(tmp_path, answer) as sandbox:
        with pytest.raises(error) as caught:
            await Kernel.attach(sandbox, "kernel/python", "exe_1", output_bytes=100)
        assert type(caught.value) is error


async def test_times_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    """An answer before its question counts nothing."""
    notices = [
        pack_json({"type": "at", "what": what, "at": at})
        for what, at in (("answered", 5.0), ("asked", "x"), ("asked", 9.0), ("answered", 2.0), (7, 1.0))
    ]
    async with (
        guest(tmp_path, attached(last=3), *notices, *BODY) as sandbox,
        await Kernel.attach(sandbox, "kernel/python", "exe_1", output_bytes=100) as kernel,
    ):
        shown = [each async for each in kernel.resume()]
        assert shown[0] == Stdout(text="a")
        assert kernel.times.waited == 0.0
        assert kernel.times.asked_at is None


@pytest.mark.parametrize("state", [None, 7, {}, {"events": "x", "pending": [], "left": {"stdout": {}}}])
async def test_a_program_is_taken_up_whatever_its_state_says(state: object, tmp_path: Path) -> None:
    """Its frames are what counts."""
    said = (attached(state=state), pack(Kind.STDOUT, b"out"), pack_json({"type": "ended", "exit_code": 0}))
    async with guest(tmp_path, *said) as sandbox, attach_program(sandbox, SPEC, "cmd_1") as program:
        assert [each async for each in program] == [("stdout", b"out")]
        assert not program.stdin_open


async def test_what_is_fetched_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In size and kind; names of kept operations are texts."""
    monkeypatch.setattr(stash, "MAX_ITEM", 10)
    fine = pack_json({"type": "ok"})
    for said in ((pack(Kind.DATA, bytes(11)), pack(Kind.DATA, b"")), (pack(Kind.STDOUT, b"x"),), ()):
        async with guest(tmp_path, fine, *said) as sandbox:
            with pytest.raises(SandboxFailed):
                await stash.fetch(sandbox, "env")
        (tmp_path / "guest").unlink(missing_ok=True)
    async with guest(tmp_path, pack_json({"type": "kept", "ids": ["a", 7, None]})) as sandbox:
        assert await stash.kept(sandbox) == ["a"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(st.dictionaries(st.sampled_from([*Execution("x", output_bytes=1).state(), "other"]), json_values))
def test_any_state_is_a_state(state: dict[str, Any]) -> None:
    """An execution goes on with it, within its limits."""
    execution = Execution("exe_1", output_bytes=10)
    execution.restore(state)
    message = KernelMessage(
        channel=IOPUB,
        type="stream",
        parent_id="exe_1",
        header={},
        body=b'{"name": "stdout", "text": "%s"}' % (b"x" * 50),
    )
    shown = execution.feed(message)
    assert shown is None or (isinstance(shown, Stdout) and len(shown.text) <= 50)
    assert isinstance(execution.done(), KernelDone)


def test_a_state_brings_an_execution_where_another_was() -> None:
    """Both show the same from there on."""

    def message(kind: str, body: bytes, channel: int = IOPUB) -> KernelMessage:
        return KernelMessage(channel=channel, type=kind, parent_id="exe_1", header={"msg_id": "7"}, body=body)

    before = (
        message("execute_input", b'{"execution_count": 4}'),
        message("stream", b'{"name": "stdout", "text": "abcdef"}'),
        message("input_request", b'{"prompt": "?"}', STDIN),
        message("error", b'{"ename": "E", "evalue": "v", "traceback": []}'),
    )
    after = (
        message("stream", b'{"name": "stdout", "text": "ghijkl"}'),
        message("display_data", b'{"data": {"a": "b"}}'),
        message("execute_reply", b'{"status": "error", "ename": "E", "evalue": "v"}', SHELL),
    )
    first = Execution("exe_1", output_bytes=9)
    kinds = [type(first.feed(each)) for each in before]
    assert kinds == [type(None), Stdout, InputRequest, Error]
    second = Execution("exe_1", output_bytes=9)
    second.restore(first.state())
    assert second.input_header == {"msg_id": "7"}
    shown = [[execution.feed(each) for each in after] for execution in (first, second)]
    assert shown[0] == shown[1]
    assert shown[0][0] == Stdout(text="ghi")
    assert first.done() == second.done()
    assert first.unsaid_error() == second.unsaid_error()
    assert Display not in map(type, shown[0])  # past the limit


class ClosedWriter(asyncio.StreamWriter):
    """uvloop's, of a connection that the guest closed at once."""

    def write(self, data: object) -> None:
        """Raises what uvloop does."""
        raise RuntimeError("unable to perform operation on <UnixTransport closed=True>")


class ClosedSandbox(GuestSandbox):
    """One whose connections break before the first word."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that is closed."""
        ours, theirs = socket.socketpair()
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.__class__ = ClosedWriter
        return reader, writer


@pytest.mark.parametrize(
    "speak",
    [
        lambda sandbox: ask(sandbox, {"op": "ping"}),
        lambda sandbox: attach(sandbox, "x"),
        lambda sandbox: stash.fetch(sandbox, "x"),
    ],
    ids=["ask", "attach", "fetch"],
)
async def test_a_connection_that_uvloop_has_closed(speak: Callable[[Any], Awaitable[object]]) -> None:
    """Is a guest that does not answer, never an internal error."""
    with pytest.raises(SandboxFailed):
        await speak(ClosedSandbox(""))
