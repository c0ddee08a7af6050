"""The kernel from the host's side, against guests that say whatever an attacker would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.errors import SandboxFailed
from executor_service.events import Display, Error, Event, Result, Stderr, Stdout, to_json
from executor_service.guest.kernel_frames import IOPUB, SHELL, STDIN, pack_message
from executor_service.guest.protocol import HEADER, Kind, pack, pack_json
from executor_service.sandboxes import kernel as kernel_module
from executor_service.sandboxes.connection import read_frame, read_json
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sandboxes.kernel_execution import DISPLAY_BYTES, EVENT_COST, Execution
from executor_service.sandboxes.kernel_messages import MAX_ERROR, load_object, parse_message

MIB = 1024 * 1024
DEADLINE = 30.0
Behaviour = Callable[["Peer"], Awaitable[None]]

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def frame(channel: int, kind: Any, content: Any, parent: Any) -> bytes:
    """A KERNEL frame."""
    header = {"msg_id": "theirs", "msg_type": kind}
    parts = [b"", *(json.dumps(part).encode() for part in (header, parent, {}, content))]
    return pack_message(channel, parts)


class Peer:
    """A guest's end of a kernel's connection: reads requests, writes what the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.parent: dict[str, Any] = {}

    async def next_request(self) -> dict[str, Any]:
        """The content of the next request; its header becomes the parent of what is said."""
        _, payload = await read_frame(self._reader)
        message = parse_request(payload)
        self.parent = message["header"]
        content: dict[str, Any] = message["content"]
        return content

    def say(self, kind: Any, content: Any, *, channel: int = IOPUB, parent: Any = None) -> None:
        """Write one message, by default of the request in progress."""
        self.writer.write(frame(channel, kind, content, self.parent if parent is None else parent))

    def finish(self) -> None:
        """End the request as a good kernel does."""
        self.say("execute_reply", {"status": "ok", "execution_count": 1}, channel=SHELL)
        self.say("status", {"execution_state": "idle"})


def parse_request(payload: bytes) -> dict[str, Any]:
    """Header and content of a request."""
    at, parts = 1, []
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 4], "big")
        parts.append(payload[at + 4 : at + 4 + size])
        at += 4 + size
    return {"header": json.loads(parts[1]), "content": json.loads(parts[4])}


class PeerSandbox:
    """A sandbox whose guest is played by the test; it counts the signals it is asked for."""

    id = "test"

    def __init__(self, path: str) -> None:
        self.path = path
        self.signals: list[str] = []
        self.refuses = False

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection."""
        return await asyncio.open_unix_connection(self.path)


@asynccontextmanager
async def played(
    directory: Path, behave: Behaviour, hello: bytes | None = pack_json({"type": "kernel_ready"})
) -> AsyncIterator[PeerSandbox]:
    """A guest that answers a kernel's connection with `hello`, then does as `behave` says."""
    sandbox = PeerSandbox(str(directory / "guest"))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            request = await read_json(reader)
            if sandbox.refuses and request["op"].startswith("kernel_"):
                writer.write(pack_json({"type": "error", "detail": "not now"}))
            elif request["op"] == "kernel_signal":
                sandbox.signals.append(request["signal"])
                writer.write(pack_json({"type": "ok"}))
            elif hello is not None:
                writer.write(hello)
                await behave(Peer(reader, writer))
                await reader.read()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, sandbox.path)
    try:
        yield sandbox
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=DEADLINE)


async def execute(
    directory: Path, behave: Behaviour, *, output_bytes: int = MIB
) -> tuple[list[Event], KernelDone]:
    """What one execution at such a guest gives."""
    async with (
        played(directory, behave) as sandbox,
        asyncio.timeout(DEADLINE),
        await Kernel.connect(sandbox) as kernel,  # type: ignore[arg-type]
    ):
        events = [event async for event in kernel.execute("x", output_bytes=output_bytes)]
    done = events.pop()
    assert isinstance(done, KernelDone)
    for event in events:
        json.dumps(to_json(event), allow_nan=False, ensure_ascii=False).encode()  # type: ignore[arg-type]
    return events, done  # type: ignore[return-value]


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"garbage that is no frame",
        pack_json({"type": "kernel_died", "exit_code": 1, "signal": None}),
        pack_json({"type": ["kernel_ready"]}),
        pack(Kind.JSON, b"[" * 100_000),
        pack(Kind.STDOUT, b"x"),
        HEADER.pack(Kind.JSON, 0xFFFFFFFF),
    ],
)
async def test_a_guest_that_does_not_say_ready_is_refused(
    tmp_path: Path, hello: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting fails, as the sandbox's fault."""
    monkeypatch.setattr(kernel_module, "CONNECT_TIME", 0.5)

    async def nothing(peer: Peer) -> None:
        """Say no more."""

    async with played(tmp_path, nothing, hello) as sandbox:
        with pytest.raises(SandboxFailed):
            await Kernel.connect(sandbox)  # type: ignore[arg-type]


async def test_wrong_types_and_foreign_messages_show_nothing(tmp_path: Path) -> None:
    """Every field of every message may have any type; what is well-formed still comes through."""
    kinds = ["stream", "display_data", "update_display_data", "execute_result", "clear_output", "error"]
    kinds += ["execute_input", "status", "comm_open", "kernel_info_reply", "iopub_welcome"]
    wrong: list[Any] = [None, 1, "x", [], [1], {}, {"a": 1}, True, 1e400, "\ud800"]

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        for value in wrong:
            for kind in kinds:
                peer.say(kind, value)
            fields = (
                "name",
                "text",
                "data",
                "metadata",
                "transient",
                "wait",
                "execution_state",
                "execution_count",
            )
            for kind in ("stream", "display_data", "execute_result", "execute_input", "status"):
                peer.say(kind, dict.fromkeys(fields, value))
            peer.say(value, {"name": "stdout", "text": "type"})
            peer.say("stream", {"name": "stdout", "text": "parent"}, parent={"msg_id": value})
            peer.say("stream", {"name": value, "text": "name"})
        peer.say("stream", {"name": "stdout", "text": "foreign"}, parent={"msg_id": "another"})
        peer.say("stream", {"name": "stdout", "text": "channel"}, channel=STDIN)
        peer.say("execute_reply", {"status": "error"}, channel=SHELL, parent={"msg_id": "another"})
        for junk in (
            b"",
            b"\x09",
            b"\x01\xff\xff\xff\xff",
            pack_message(IOPUB, [b"\xff"] * 5)[HEADER.size :],
        ):
            peer.writer.write(pack(Kind.KERNEL, junk))
        peer.writer.write(pack(Kind.STDERR, b"not a kernel's frame"))
        peer.writer.write(pack_json({"type": "oversize", "channel": "1"}) + pack_json({"type": {}}))
        peer.say("stream", {"name": "stdout", "text": "good"})
        peer.finish()

    events, done = await execute(tmp_path, behave)
    assert [event for event in events if isinstance(event, (Stdout, Stderr))] == [Stdout(text="good")]
    assert done.status == "ok"


@pytest.mark.parametrize("said", ["reply", "idle"])
async def test_half_an_end_is_an_end_after_a_while(
    tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply without idle, or idle without reply, does not wait for ever; chatter changes nothing."""
    monkeypatch.setattr(kernel_module, "MISSING_TIME", 0.3)

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        if said == "reply":
            peer.say("execute_reply", {"status": "ok", "execution_count": 5}, channel=SHELL)
        else:
            peer.say("status", {"execution_state": "idle"})
        while not peer.writer.is_closing():
            peer.say("stream", {"name": "stdout", "text": "."})
            await asyncio.sleep(0.01)

    _, done = await execute(tmp_path, behave)
    assert done.status == ("ok" if said == "reply" else "error")


@pytest.mark.parametrize("order", ["reply first", "idle first"])
async def test_reply_and_idle_come_in_either_order(tmp_path: Path, order: str) -> None:
    """An error is told once, whichever channel was faster."""
    failure = {"ename": "E", "evalue": "v", "traceback": ["line"]}

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        if order == "reply first":
            peer.say("execute_reply", {"status": "error", "execution_count": 1, **failure}, channel=SHELL)
        peer.say("error", failure)
        peer.say("status", {"execution_state": "idle"})
        if order == "idle first":
            peer.say("execute_reply", {"status": "error", "execution_count": 1, **failure}, channel=SHELL)

    events, done = await execute(tmp_path, behave)
    assert events == [Error(name="E", value="v", traceback=("line",))]
    assert done == KernelDone(status="error", execution_count=1)


async def test_an_error_that_only_the_reply_tells_is_told(tmp_path: Path) -> None:
    """And an aborted execution is an error too."""

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        peer.say("execute_reply", {"status": "error", "ename": "E", "evalue": "v"}, channel=SHELL)
        peer.say("status", {"execution_state": "idle"})

    async def abort(peer: Peer) -> None:
        await peer.next_request()
        peer.say("status", {"execution_state": "idle"})
        peer.say("execute_reply", {"status": "aborted"}, channel=SHELL)

    assert (await execute(tmp_path, behave))[0] == [Error(name="E", value="v")]
    (tmp_path / "guest").unlink(missing_ok=True)
    [error], done = await execute(tmp_path, abort)
    assert isinstance(error, Error)
    assert (error.name, done.status) == ("Aborted", "error")


@pytest.mark.parametrize(
    "last", [b"", b"\xff\xff", HEADER.pack(Kind.KERNEL, 0xFFFFFFFF), pack(Kind.JSON, b"{")]
)
async def test_a_guest_that_vanishes_ends_the_execution(tmp_path: Path, last: bytes) -> None:
    """What was said comes first, then that the kernel died."""

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        peer.say("stream", {"name": "stdout", "text": "before"})
        peer.writer.write(last)
        peer.writer.close()

    events, done = await execute(tmp_path, behave)
    assert events == [Stdout(text="before")]
    assert done == KernelDone(status="died")


async def test_a_lost_reply_is_an_output_limit(tmp_path: Path) -> None:
    """When the reply was too large to be passed on, the idle status ends the execution at once."""

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        peer.writer.write(pack_json({"type": "oversize", "channel": SHELL, "size": 1 << 40}))
        peer.say("status", {"execution_state": "idle"})

    assert await execute(tmp_path, behave) == ([], KernelDone(status="error", output_limit=True))


async def test_a_flood_is_cut_and_told(tmp_path: Path) -> None:
    """Endless output gives what is allowed, however long it goes on; to interrupt it is the caller's."""

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        peer.say("execute_input", {"execution_count": 1})
        for _ in range(3000):
            peer.say("stream", {"name": "stderr", "text": "é" * 1000})
            await peer.writer.drain()
        peer.finish()

    async with (
        played(tmp_path, behave) as sandbox,
        asyncio.timeout(DEADLINE),
        await Kernel.connect(sandbox) as kernel,  # type: ignore[arg-type]
    ):
        events = [event async for event in kernel.execute("x", output_bytes=5001)]
        assert kernel.over_limit.is_set()
    assert "".join(event.text for event in events if isinstance(event, Stderr)) == "é" * 2500
    assert events[-1] == KernelDone(status="ok", execution_count=1, stderr_truncated=True, output_limit=True)
    assert sandbox.signals == []


async def test_a_guest_that_refuses_an_order(tmp_path: Path) -> None:
    """It is not taken for obedience; a limit that was refused is asked for again."""

    async def behave(peer: Peer) -> None:
        return

    async with (
        played(tmp_path, behave) as sandbox,
        asyncio.timeout(DEADLINE),
        await Kernel.connect(sandbox) as kernel,  # type: ignore[arg-type]
    ):
        sandbox.refuses = True
        with pytest.raises(SandboxFailed, match="not now"):
            await kernel.interrupt()
        for _ in range(2):
            with pytest.raises(SandboxFailed, match="not now"):
                await kernel.limit_open_files(7)


async def test_a_caller_that_leaves_frees_the_kernel(tmp_path: Path) -> None:
    """After an execution was forgotten the next one works, and gets nothing of the first."""

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        first = peer.parent
        for _ in range(1000):
            peer.say("stream", {"name": "stdout", "text": "old"})
        await peer.next_request()
        peer.say("stream", {"name": "stdout", "text": "old"}, parent=first)
        peer.say("stream", {"name": "stdout", "text": "new"})
        peer.finish()

    async with (
        played(tmp_path, behave) as sandbox,
        asyncio.timeout(DEADLINE),
        await Kernel.connect(sandbox) as kernel,  # type: ignore[arg-type]
    ):
        execution = kernel.execute("x", output_bytes=MIB)
        await anext(execution)
        with pytest.raises(RuntimeError):
            await anext(kernel.execute("y", output_bytes=MIB))
        await execution.aclose()
        second = [event async for event in kernel.execute("y", output_bytes=MIB)]
    assert second == [Stdout(text="new"), KernelDone(status="ok", execution_count=1)]


async def test_cancelling_an_execution_frees_the_kernel(tmp_path: Path) -> None:
    """A cancelled caller leaves nothing locked."""

    async def behave(peer: Peer) -> None:
        await peer.next_request()
        await peer.next_request()
        peer.finish()

    async def consume(kernel: Kernel) -> list[Event | KernelDone]:
        return [event async for event in kernel.execute("x", output_bytes=MIB)]

    async with (
        played(tmp_path, behave) as sandbox,
        asyncio.timeout(DEADLINE),
        await Kernel.connect(sandbox) as kernel,  # type: ignore[arg-type]
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(kernel), 0.1)
        assert await consume(kernel) == [KernelDone(status="ok", execution_count=1)]


async def test_closing_ends_an_execution(tmp_path: Path) -> None:
    """Who waits is told that the kernel is gone; closing twice does nothing."""

    async def behave(peer: Peer) -> None:
        await peer.next_request()

    async with played(tmp_path, behave) as sandbox, asyncio.timeout(DEADLINE):
        kernel = await Kernel.connect(sandbox)  # type: ignore[arg-type]
        execution = kernel.execute("x", output_bytes=MIB)
        waiting = asyncio.ensure_future(anext(execution))
        await asyncio.sleep(0.05)
        await kernel.close()
        await kernel.close()
        assert await waiting == KernelDone(status="died")
        assert kernel.died.is_set()


# -- pure ------------------------------------------------------------------------------------------


def fed(execution: Execution, kind: str, content: Any, channel: int = IOPUB) -> Event | None:
    """What `execution` makes of a message."""
    message = parse_message(frame(channel, kind, content, {"msg_id": execution.msg_id})[HEADER.size :])
    assert message is not None
    return execution.feed(message)


@given(
    kind=st.sampled_from(
        ["stream", "display_data", "execute_result", "error", "execute_reply", "input_request"]
    ),
    channel=st.integers(0, 3),
    content=json_values,
)
def test_no_content_breaks_an_execution(kind: str, channel: int, content: Any) -> None:
    """Whatever JSON a message holds, the event is valid JSON or there is none."""
    data = json.dumps(content).encode()
    execution = Execution("id", output_bytes=10)
    parts = [b"", json.dumps({"msg_type": kind}).encode(), b'{"msg_id": "id"}', b"{}", data]
    message = parse_message(pack_message(channel, parts)[HEADER.size :])
    assert message is not None
    event = execution.feed(message)
    if event is not None:
        json.dumps(to_json(event), allow_nan=False, ensure_ascii=False).encode()
    execution.done()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(payload: bytes) -> None:
    """Any payload is a message or none."""
    parse_message(payload)
    load_object(payload)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": NaN, "b": [Infinity, -Infinity, 1e999, 1.5]}', {"a": None, "b": [None, None, None, 1.5]}),
        (rb'{"\ud800": "\udfff\ud83d\ude00"}', {"\ufffd": "\ufffd\U0001f600"}),
        (b'{"a": "\xff"}', {"a": "\ufffd"}),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", {"a": None}),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", None),
        (b"[" * 100_000, None),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_what_comes_out_is_json_again(data: bytes, value: Any) -> None:
    """Numbers that JSON does not have, surrogates, invalid bytes and depth are dealt with."""
    loaded = load_object(data)
    if value is not None and value == {"a": None} and b"[[" in data:
        assert loaded is not None
        json.dumps(loaded)
    else:
        assert loaded == value


@pytest.mark.parametrize("limit", range(8))
def test_a_cut_falls_between_characters(limit: int) -> None:
    """No part of a character is kept, whatever the limit."""
    execution = Execution("id", output_bytes=limit)
    event = fed(execution, "stream", {"name": "stdout", "text": "aé€😀"})
    text = event.text if isinstance(event, Stdout) else ""
    assert "aé€😀".startswith(text)
    assert limit - 3 <= len(text.encode()) <= limit
    assert execution.done().stdout_truncated


def test_streams_are_bounded_apart() -> None:
    """What one stream used the other still has."""
    execution = Execution("id", output_bytes=2)
    assert fed(execution, "stream", {"name": "stdout", "text": "abc"}) == Stdout(text="ab")
    assert fed(execution, "stream", {"name": "stdout", "text": "d"}) is None
    assert fed(execution, "stream", {"name": "stderr", "text": "ok"}) == Stderr(text="ok")
    done = execution.done()
    assert (done.stdout_truncated, done.stderr_truncated, done.output_limit) == (True, False, True)


def test_many_small_events_are_bounded() -> None:
    """Each event costs something, however little it says."""
    execution = Execution("id", output_bytes=MIB)
    count = 0
    while not execution.over_limit:
        count += fed(execution, "display_data", {"data": {}}) is not None
    assert count <= DISPLAY_BYTES // EVENT_COST
    assert fed(execution, "display_data", {"data": {}}) is None
    assert isinstance(fed(execution, "error", {"ename": "KeyboardInterrupt"}), Error)
    for _ in range(10):
        fed(execution, "error", {"ename": "E"})
    assert fed(execution, "error", {"ename": "E"}) is None


def test_a_huge_traceback_is_cut() -> None:
    """Name, text and lines are bounded each."""
    execution = Execution("id", output_bytes=MIB)
    lines = ["x" * MAX_ERROR] * 10
    error = fed(execution, "error", {"ename": "N" * MIB, "evalue": "v" * MIB, "traceback": lines})
    assert isinstance(error, Error)
    assert len(error.name) + len(error.value) + sum(map(len, error.traceback)) <= 2 * MAX_ERROR + 1024


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[0;31mred\x1b[39m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("a\x1b]unended", "aunended"),
        ("\x1b", "\x1b"),
        ("\x1bMup", "up"),
    ],
)
def test_terminal_escapes_are_taken_out(text: str, plain: str) -> None:
    """Colours, titles and links go."""
    execution = Execution("id", output_bytes=MIB)
    error = fed(execution, "error", {"ename": "E", "evalue": text, "traceback": [text]})
    assert error == Error(name="E", value=plain, traceback=(plain,))


def test_a_result_gets_its_count() -> None:
    """A result that names no count takes the execution's."""
    execution = Execution("id", output_bytes=MIB)
    fed(execution, "execute_input", {"execution_count": 7})
    assert fed(execution, "execute_result", {"data": {"text/plain": "1"}, "execution_count": -1}) == Result(
        data={"text/plain": "1"}, execution_count=7
    )


def test_updates_need_an_id() -> None:
    """A display's id is a string of sane length; an update without one updates nothing."""
    execution = Execution("id", output_bytes=MIB)
    for bad in (None, 1, "x" * 5000):
        content = {"data": {}, "transient": {"display_id": bad}}
        assert fed(execution, "display_data", content) == Display(data={})
        assert fed(execution, "update_display_data", content) is None
