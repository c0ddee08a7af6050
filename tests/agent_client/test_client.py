"""The client against a fake service on a real socket: every method once, sync over async."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent_client.client import AsyncExecutorClient, ExecutorClient
from agent_client.errors import InvalidPath
from agent_client.wire.events import Completed, InputRequest, Started, Stdout, UnknownEvent
from tests.agent_client.fake_service import HANG, FakeService, b64


def test_run_gives_a_typed_result(client: ExecutorClient, fake: FakeService) -> None:
    """A run's options reach the service and its answer becomes a typed result."""
    file = {"path": "a.bin", "size": 2, "content": b64(b"\xff\x00"), "encoding": "base64"}
    fake.script = lambda _: [
        ("stdout", {"text": "hi"}),
        (
            "completed",
            {"outcome": "ok", "exit_code": 0, "files": [file], "usage": {"cpu_time": 0.5}, "novel": 1},
        ),
    ]
    result = client.run(
        "print(1)", stdin=b"\x01", files={"d.csv": "a,b"}, collect=["*"], limits={"wall_time": 3}
    )
    assert result.ok
    assert (result.stdout, result.exit_status, result.usage.cpu_time) == ("hi", 0, 0.5)
    assert result.files[0].content == b"\xff\x00"
    (body,) = fake.bodies("/runs")
    assert body["stdin_encoding"] == "base64"
    assert body["files"] == [{"path": "d.csv", "content": "a,b", "encoding": "utf-8"}]


def test_stream_run_yields_events_in_order(client: ExecutorClient, fake: FakeService) -> None:
    """Events come typed and in order, unknown ones too, and fold into the result."""
    fake.script = lambda _: [
        ("stdout", {"text": "a\u2028b"}),
        ("novelty", {"x": 1}),
        ("stdout", {"text": "c"}),
        ("completed", {"outcome": "error", "exit_code": 3}),
    ]
    with client.stream_run("x") as stream:
        kinds = [type(event) for event in stream]
    assert kinds == [Started, Stdout, UnknownEvent, Stdout, Completed]
    assert stream.result.stdout == "a\u2028bc"
    assert stream.result.exit_status == 3


def test_streams_come_as_they_are_printed(client: ExecutorClient, fake: FakeService) -> None:
    """An event arrives while the program still runs, and closing the stream leaves the service."""
    fake.script = lambda _: [("stdout", {"text": "early"}), (HANG, {})]
    stream = client.stream_run("x")
    assert isinstance(next(stream), Started)
    assert next(stream) == Stdout(text="early")
    stream.close()
    assert fake.left.wait(10)


def test_detached_operations(client: ExecutorClient, fake: FakeService) -> None:
    """A detached run can be looked at, followed from anywhere, and stopped."""
    run = client.start_run("hello")
    assert run.get().stdout == "hello"
    assert run.wait().ok
    assert [type(e) for e in client.detached_run(run.id).stream(after=1)] == [Stdout, Completed]
    run.stop()
    assert ("DELETE", f"/v1/runs/{run.id}", b"") in fake.requests


def test_a_detached_stream_resumes(client: ExecutorClient, fake: FakeService) -> None:
    """A broken connection to a detached operation is taken up where it broke, with nothing twice."""
    texts = [("stdout", {"text": str(n)}) for n in range(5)]
    fake.script = lambda _: [*texts, ("completed", {"outcome": "ok"})]
    run = client.start_run("x")
    fake.cut_follow = 2
    assert run.stream().wait().stdout == "01234"


def test_sessions(client: ExecutorClient, fake: FakeService) -> None:
    """A session is created, found, listed page by page, renewed, restarted, interrupted and closed."""
    with client.create_session(metadata={"team": "a"}, ttl=60) as session:
        assert session.info.language == "python"
        assert session.renew(30).id == session.id
        assert session.restart().id == session.id
        session.interrupt()
        assert client.get_session(session.id).id == session.id
        for _ in range(3):
            client.create_session()
        assert len(list(client.iter_sessions())) == 4
        assert [s.id for s in client.iter_sessions(metadata={"team": "a"})] == [session.id]
    assert fake.sessions[session.id]["state"] == "closed"


def test_execute(client: ExecutorClient, fake: FakeService) -> None:
    """An execution's result, displays and error become typed values."""
    fake.script = lambda _: [
        ("display", {"data": {"image/png": b64(b"png")}, "metadata": {}}),
        ("result", {"data": {"text/plain": "2"}, "metadata": {}, "execution_count": 1}),
        ("completed", {"outcome": "ok", "execution_count": 1, "files": [{"path": "a", "size": 1}]}),
    ]
    with client.create_session() as session:
        result = session.execute("1+1", limits={"wall_time": 5})
        assert (result.text, result.execution_count, result.files[0].path) == ("2", 1, "a")
        folded = session.stream("1+1").wait()
        assert folded.result == result.result
        assert folded.displays == result.displays
        assert len(session.executions()) == 2
        started = session.start("1+1")
        assert started.wait().text == "2"


def test_input_is_answered(client: ExecutorClient, fake: FakeService) -> None:
    """`on_input` answers each input request of an execution."""
    fake.script = lambda _: [
        ("input_request", {"prompt": "name? ", "password": False}),
        ("completed", {"outcome": "ok"}),
    ]
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "Ada"

    with client.create_session() as session:
        assert session.execute("input()", on_input=answer).ok
        events = list(session.stream("input()", allow_input=True))
    assert asked == ["name? "]
    assert fake.inputs == [("input", {"text": "Ada"})]
    assert InputRequest(prompt="name? ") in events


def test_commands(client: ExecutorClient, fake: FakeService) -> None:
    """Commands run, stream, detach, take input and signals."""
    with client.create_session() as session:
        assert session.command("ls | wc", cwd="sub").stdout == "ls | wc"
        assert session.command(["ls", "-l"], stdin="x").stdout == "ls -l"
        assert session.stream_command("echo").wait().stdout == "echo"
        server = session.start_command("serve")
        server.input(b"\xff", close=True)
        server.signal("SIGINT")
        assert session.command_handle(server.id).get().stdout == "serve"
        assert len(session.commands()) == 4
    assert fake.inputs == [("input", {"base64": "/w==", "close": True}), ("signal", {"signal": "SIGINT"})]


def test_files(client: ExecutorClient, fake: FakeService, tmp_path: Path) -> None:
    """Files are written, read, listed, moved, deleted, uploaded, downloaded and archived."""
    source = tmp_path / "in.bin"
    source.write_bytes(b"x" * 300_000)
    with client.create_session() as session:
        files = session.files
        files.write("a b/ü.txt", "text")
        files.write("/etc/motd", b"m")
        files.upload(source)
        assert files.read_text("a%20b/%C3%BC.txt".replace("%20", " ").replace("%C3%BC", "ü")) == "text"
        assert files.read("in.bin", max_bytes=10) == b"x" * 10
        assert b"".join(files.chunks("in.bin")) == source.read_bytes()
        assert files.download("in.bin", tmp_path / "out.bin").read_bytes() == source.read_bytes()
        files.move("in.bin", "moved.bin")
        files.mkdir("d")
        archive = files.archive()
        files.download_archive(tmp_path / "all.tar")
        files.delete("moved.bin")
        files.extract(archive)
        assert {entry.path for entry in files.list()} >= {"moved.bin"}
    assert ("PUT", f"/v1/sessions/{session.id}/files/%2Fetc/motd", b"m") in fake.requests
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_terminal(client: ExecutorClient, fake: FakeService) -> None:
    """A terminal carries bytes and window sizes, and tells how the shell ended."""
    with client.create_session() as session, session.terminal(rows=10, cols=20) as terminal:
        terminal.resize(30, 90)
        terminal.write("ls\n")
        assert terminal.read() == b"$ ls\n"
        terminal.write("exit\n")
        assert terminal.read() == b""
        assert terminal.exit is not None
        assert terminal.exit.exit_code == 3
    assert ("terminal", {"type": "resize", "rows": 30, "cols": 90}) in fake.inputs


def test_about(client: ExecutorClient) -> None:
    """Languages, images, info and readiness are typed, and fields of a newer service are dropped."""
    assert client.languages()[0].aliases == ["py"]
    assert client.images()[0].details["default"] is True
    assert client.info().backend == "local"
    assert client.ready()


async def test_the_async_client(async_client: AsyncExecutorClient) -> None:
    """The async client awaits or enters a new session, and streams with `async for`."""
    async with async_client as client:
        session = await client.create_session()
        assert (await session.execute("x")).stdout == "x"
        await session.close()
        async with client.create_session() as session:
            seen = [event async for event in session.stream("y")]
            assert Stdout(text="y") in seen
            results = await asyncio.gather(*(client.run(str(n)) for n in range(20)))
            assert [r.stdout for r in results] == [str(n) for n in range(20)]


async def test_blocking_calls_inside_a_running_loop(client: ExecutorClient) -> None:
    """The blocking client works where a loop is already running, as in a notebook."""
    assert client.run("x").stdout == "x"
    assert [type(e) for e in client.stream_run("x")] == [Started, Stdout, Completed]


def test_blocking_calls_from_many_threads(client: ExecutorClient) -> None:
    """One blocking client may be used by many threads at once."""
    seen: list[str] = []
    threads = [threading.Thread(target=lambda n=n: seen.append(client.run(str(n)).stdout)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == [str(n) for n in range(10)]


def test_one_client_on_two_loops(async_client: AsyncExecutorClient) -> None:
    """The same async client works on one event loop after another."""

    async def once() -> Any:
        async with async_client:
            return await async_client.run("x")

    assert asyncio.run(once()).ok
    assert asyncio.run(once()).ok


def test_a_display_of_megabytes(client: ExecutorClient, fake: FakeService) -> None:
    """A display of many megabytes is decoded in reasonable time."""
    big = "x" * 8_000_000
    fake.script = lambda _: [("display", {"data": {"text/plain": big}}), ("completed", {"outcome": "ok"})]
    begun = time.monotonic()
    with client.create_session() as session:
        assert session.stream("x").wait().displays[0].data["text/plain"] == big
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("path", ["..", "../x", "a/../../b", "", "a\x00b"])
def test_paths_that_would_name_another_resource(client: ExecutorClient, fake: FakeService, path: str) -> None:
    """A file path with `..` is refused here: in a URL it would name another resource."""
    with client.create_session() as session:
        before = len(fake.requests)
        with pytest.raises(InvalidPath, match="not a path"):
            session.files.delete(path)
        assert len(fake.requests) == before
