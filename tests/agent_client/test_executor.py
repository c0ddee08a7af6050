"""The remote executor over the fake service: where blocks run, exit codes, files, what the model reads."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_client.code_blocks import CodeBlock
from agent_client.errors import BackendUnavailable, SandboxFailed, ServiceUnreachable
from agent_client.executors import RemoteCodeExecutor, remote
from agent_client.executors.base import ArtifactMade, BlockStarted, Note, Output
from agent_client.executors.output_log import MAX_KEPT, OutputLog
from tests.agent_client.fake_service import BREAK, FILE, HANG, KEY, FakeService, app, b64, echo, serving

Make = Callable[..., RemoteCodeExecutor]


@pytest.fixture
def make(fake: FakeService) -> Make:
    """Makes executors over the fake service."""
    return lambda **options: RemoteCodeExecutor(base_url=fake.url, api_key=KEY, **options)


def py(code: str, **more: Any) -> CodeBlock:
    """A python block."""
    return CodeBlock(code=code, language="python", **more)


def files_below(directory: Path) -> list[str]:
    """The files below a directory."""
    return [p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()]


def ok(*events: tuple[str, dict[str, Any]], **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    """Events that end well."""
    return [*events, ("completed", {"outcome": "ok", "exit_code": 0} | fields)]


async def test_where_blocks_run(make: Make, fake: FakeService) -> None:
    """Python goes to the kernel, shell to a command in the same session, the rest to a run."""
    executor = make(timeout=7, limits={"memory_bytes": 1 << 28, "output_bytes": 1000}, network=False)
    blocks = [py("a"), CodeBlock(code="b", language="sh"), CodeBlock(code="c", language="javascript")]
    result = await executor.execute_code_blocks(blocks)
    assert (result.exit_code, result.output) == (0, "a\nb\nc\n")
    await executor.close()
    (created,) = fake.bodies("/sessions")
    assert created["limits"] == {"memory_bytes": 1 << 28}
    (execution,), (command,), (run,) = (fake.bodies(e) for e in ("/executions", "/commands", "/runs"))
    assert execution["limits"] == {"wall_time": 7, "output_bytes": 1000} == command["limits"]
    assert run["limits"] == {"wall_time": 7, "memory_bytes": 1 << 28, "output_bytes": 1000}
    assert fake.sessions["s1"]["state"] == "closed"


async def test_it_stops_at_the_first_failure(make: Make, fake: FakeService) -> None:
    """Blocks after a failing one do not run; the output so far and the traceback are told."""
    trace = ["Traceback (most recent call last)", "KeyError: 'Date'"]
    fake.script = lambda _: [
        ("stdout", {"text": "before"}),
        ("error", {"name": "KeyError", "value": "'Date'", "traceback": trace}),
        ("completed", {"outcome": "error"}),
    ]
    executor = make()
    result = await executor.execute_code_blocks([py("a"), py("b")])
    assert result.exit_code == 1
    assert result.output == "before\n" + "\n".join(trace) + "\n"
    assert len(fake.bodies("/executions")) == 1
    await executor.close()


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"outcome": "timeout", "detail": "wall time of 1 s"}, 124, "Timeout: wall time of 1 s"),
        ({"outcome": "out_of_memory", "state_lost": True}, 137, "variables and imports are lost"),
        ({"outcome": "interrupted"}, 130, "Interrupted"),
        ({"outcome": "output_limit"}, 1, "Output limit"),
        ({"outcome": "sandbox_died"}, 1, "Sandbox died"),
    ],
)
async def test_endings(make: Make, fake: FakeService, fields: dict[str, Any], status: int, says: str) -> None:
    """How code ended is in the exit code and, where needed, in words; what was printed is kept."""
    fake.script = lambda _: [("stdout", {"text": "printed\n"}), ("completed", fields)]
    executor = make()
    result = await executor.execute_code_blocks([py("a")])
    assert result.exit_code == status
    assert result.output.startswith("printed\n")
    assert says in result.output
    await executor.close()


async def test_rich_output(make: Make, fake: FakeService) -> None:
    """Plain text of results is told to the model, images become artifacts."""
    png = {"image/png": b64(b"\x89PNG"), "text/plain": "<Figure size 640x480>"}
    fake.script = lambda _: ok(
        ("stdout", {"text": "x"}), ("display", {"data": png}), ("result", {"data": {"text/plain": "42"}})
    )
    executor = make()
    progress: list[Any] = []
    result = await executor.execute_code_blocks([py("a")], progress.append)
    assert result.output == "x\n<Figure size 640x480>\n42\n"
    (image,) = result.artifacts
    assert (image.name, image.mime, image.data) == ("figure-1.png", "image/png", b"\x89PNG")
    assert ArtifactMade(artifact=image) in progress
    await executor.close()


async def test_files_in_and_out(make: Make, fake: FakeService, tmp_path: Path) -> None:
    """The directory's files are uploaded before the first block, and new files come back."""
    (tmp_path / "data.csv").write_text("a,b")
    (tmp_path / ".env").write_text("SECRET")
    fake.script = lambda _: ok(
        (FILE, {"path": "out/plot.png", "content": b"PNG"}),
        (FILE, {"path": "data.csv", "content": b"evil"}),
        (FILE, {"path": "../escape", "content": b"evil"}),
        (FILE, {"path": ".bashrc", "content": b"evil"}),
    )
    executor = make(work_dir=tmp_path)
    progress: list[Any] = []
    result = await executor.execute_code_blocks([py("a")], progress.append)
    assert fake.files["s1"][".bashrc"] == b"evil"
    assert (tmp_path / "out" / "plot.png").read_bytes() == b"PNG"
    assert (tmp_path / "data.csv").read_text() == "a,b"
    assert not (tmp_path.parent / "escape").exists()
    notes = [p.text for p in progress if isinstance(p, Note)]
    assert len(notes) == 1
    paths = {made.name: made.path for made in result.artifacts}
    assert paths["data.csv"] is None
    assert paths["out/plot.png"] == tmp_path / "out" / "plot.png"
    again = await executor.execute_code_blocks([py("a")])
    assert again.artifacts == []
    await executor.close()


async def test_files_without_a_directory(make: Make, fake: FakeService) -> None:
    """Without a directory, small new files are artifacts in memory."""
    fake.script = lambda _: ok((FILE, {"path": "plot.png", "content": b"PNG"}))
    executor = make()
    result = await executor.execute_code_blocks([py("a")])
    assert [(a.name, a.data, a.path) for a in result.artifacts] == [("plot.png", b"PNG", None)]
    await executor.close()


@pytest.mark.parametrize("name", ["../x.py", "/etc/x.py", "a\\b.py", "a/../../x"])
async def test_filenames_outside(make: Make, fake: FakeService, name: str) -> None:
    """A block that names a file outside the workspace is neither saved nor run."""
    executor = make()
    result = await executor.execute_code_blocks([py("a", filename=name)])
    assert result.exit_code == 1
    assert "not saved" in result.output
    assert fake.bodies("/executions") == []
    await executor.close()


async def test_filenames(make: Make, fake: FakeService) -> None:
    """A named block is saved in the workspace and run."""
    executor = make()
    await executor.execute_code_blocks([py("# filename: lib/a.py", filename="lib/a.py")])
    assert fake.files["s1"] == {"lib/a.py": b"# filename: lib/a.py"}
    assert len(fake.bodies("/executions")) == 1
    await executor.close()


async def test_unknown_language(make: Make) -> None:
    """A language that cannot be run is told to the model, not raised."""
    executor = make()
    result = await executor.execute_code_blocks([CodeBlock(code="x", language="cobol")])
    assert result.exit_code == 1
    assert "cobol" in result.output
    await executor.close()


async def test_pip_without_network(make: Make, fake: FakeService) -> None:
    """When pip fails for want of network, the reply names the setting."""
    fake.script = lambda _: [
        ("stderr", {"text": "ERROR: No matching distribution found for x\n"}),
        ("completed", {"outcome": "error", "exit_code": 1}),
    ]
    executor = make()
    result = await executor.execute_code_blocks([CodeBlock(code="pip install x", language="sh")])
    assert "network=True" in result.output
    await executor.close()


async def test_a_session_that_ended_is_replaced(make: Make, fake: FakeService, tmp_path: Path) -> None:
    """When the session has expired, a new one is opened, with the directory's files; the model is told."""
    (tmp_path / "data.csv").write_text("a,b")
    executor = make(keep_session=True, work_dir=tmp_path)
    await executor.execute_code_blocks([py("a")])
    fake.sessions["s1"]["state"] = "closed"
    result = await executor.execute_code_blocks([py("b")])
    assert result.exit_code == 0
    assert fake.files["s2"] == {"data.csv": b"a,b"}
    assert "without its variables" in result.output
    assert executor.session_id == "s2"
    await executor.run_ended()
    assert fake.sessions["s2"]["state"] == "ready"
    await executor.close()
    assert fake.sessions["s2"]["state"] == "closed"


async def test_output_is_clean_and_streamed(make: Make, fake: FakeService) -> None:
    """Output comes piece by piece without control sequences, colours excepted."""
    fake.script = lambda _: ok(
        ("stdout", {"text": "\x1b]0;ti"}),
        ("stdout", {"text": "tle\x07a\x1b[31m"}),
        ("stdout", {"text": "b\x1b[2J"}),
    )
    executor = make()
    progress: list[Any] = []
    result = await executor.execute_code_blocks([py("a")], progress.append)
    assert result.output == "a\x1b[31mb\n"
    assert [p.text for p in progress if isinstance(p, Output)] == ["a\x1b[31m", "b", "\n"]
    await executor.close()


async def test_cancelling_stops_the_code(make: Make, fake: FakeService) -> None:
    """A cancelled execution leaves the service at once, which stops the code, and no later block runs."""
    fake.script = lambda code: [("stdout", {"text": code}), (HANG, {})] if code == "hang" else echo(code)
    executor = make()
    hangs = asyncio.Event()
    listen = lambda progress: hangs.set() if progress == Output(text="hang") else None  # noqa: E731
    blocks = [py("first"), py("hang"), py("last")]
    task = asyncio.create_task(executor.execute_code_blocks(blocks, listen))
    await asyncio.wait_for(hangs.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(fake.left.wait, 20)
    assert [body["code"] for body in fake.bodies("/executions")] == ["first", "hang"]
    again = await executor.execute_code_blocks([py("again")])
    assert again.output == "again\n"
    await executor.close()


@pytest.mark.parametrize("language", ["python", "sh", "javascript"])
async def test_the_service_breaks_off(make: Make, fake: FakeService, language: str) -> None:
    """A connection that breaks while code runs is a failing reply with what was printed."""
    fake.script = lambda _: [("stdout", {"text": "printed\n"}), (BREAK, {})]
    executor = make()
    blocks = [CodeBlock(code="a", language=language), py("b")]
    result = await executor.execute_code_blocks(blocks)
    assert result.exit_code == 1
    assert result.output.startswith("printed\nThe connection to the service broke.")
    assert "may or may not have finished" in result.output
    assert len(fake.operations) == 1
    fake.script = echo
    if fake.sessions:
        fake.sessions["s1"]["state"] = "closed"
        lost = await executor.execute_code_blocks([py("c")])
        assert (lost.exit_code, "without its variables" in lost.output) == (0, True)
    await executor.close()


async def test_a_service_that_restarts_is_waited_for(fake: FakeService) -> None:
    """While nothing listens, and nothing can have started, it is tried again for some seconds."""
    with serving(app(fake)) as url:
        executor = RemoteCodeExecutor(base_url=url, api_key=KEY)
        await executor.execute_code_blocks([py("a")])
    waiting = asyncio.create_task(executor.execute_code_blocks([py("b")]))
    done, _ = await asyncio.wait([waiting], timeout=1.5)  # longer than a client alone would try
    assert not done
    with serving(app(fake), port=int(url.rsplit(":", 1)[1])):
        assert (await waiting).output == "b\n"
        assert [body["code"] for body in fake.bodies("/executions")] == ["a", "b"]
        await executor.close()


async def test_a_service_that_stays_away(monkeypatch: pytest.MonkeyPatch, fake: FakeService) -> None:
    """In the end the error says that nothing answers; closing then does not wait for long."""
    monkeypatch.setattr(remote, "RETRIES", 2)
    with serving(app(fake)) as url:
        executor = RemoteCodeExecutor(base_url=url, api_key=KEY)
        await executor.execute_code_blocks([py("a")])
    with pytest.raises(ServiceUnreachable, match="No Codecell service answers"):
        await executor.execute_code_blocks([py("b")])
    await asyncio.wait_for(executor.run_ended(), 20)


async def test_state_is_kept(make: Make, fake: FakeService, tmp_path: Path) -> None:
    """Another executor goes on in the saved session, whose files are not new and not uploaded again."""
    png = ("display", {"data": {"image/png": b64(b"\x89PNG")}})
    fake.script = lambda _: ok((FILE, {"path": "old.txt", "content": b"old"}), png)
    first = make(keep_session=True, work_dir=tmp_path)
    assert first.save_state()["session_id"] is None
    await first.execute_code_blocks([py("a")])
    state = json.loads(json.dumps(first.save_state()))
    await first.run_ended()
    (tmp_path / "later.csv").write_text("mine")
    second = make(work_dir=tmp_path)
    second.load_state(state)
    assert second.session_id == state["session_id"] == "s1"
    fake.script = lambda _: ok((FILE, {"path": "new.txt", "content": b"new"}), png)
    result = await second.execute_code_blocks([py("b")])
    assert [made.name for made in result.artifacts] == ["figure-2.png", "new.txt"]
    assert set(fake.files["s1"]) == {"old.txt", "new.txt"}
    assert len(fake.sessions) == 1
    await second.run_ended()
    assert fake.sessions["s1"]["state"] == "closed"
    assert second.save_state()["session_id"] is None


async def test_a_saved_session_that_is_gone(make: Make, fake: FakeService, tmp_path: Path) -> None:
    """Its place is taken by a new one, with the directory's files, and the reply says what is lost."""
    (tmp_path / "data.csv").write_text("a,b")
    executor = make(work_dir=tmp_path)
    executor.load_state({"session_id": "s99"})
    result = await executor.execute_code_blocks([py("b")])
    assert (result.exit_code, executor.session_id) == (0, "s1")
    assert "without its variables" in result.output
    assert fake.files["s1"] == {"data.csv": b"a,b"}
    executor.load_state({})
    assert executor.session_id is None
    await executor.close()


async def test_a_saved_session_can_be_closed_unused(make: Make, fake: FakeService) -> None:
    """`close` closes the session also where no block has used it since it was loaded."""
    first = make(keep_session=True)
    await first.execute_code_blocks([py("a")])
    await first.run_ended()
    second = make(keep_session=True)
    second.load_state(first.save_state())
    await second.close()
    assert fake.sessions["s1"]["state"] == "closed"


async def test_calls_at_the_same_time(make: Make, fake: FakeService) -> None:
    """Calls of two agents at once wait for each other: one session, one execution at a time."""
    running, most = 0, 0

    def count(code: str) -> list[tuple[str, dict[str, Any]]]:
        return [("stdout", {"text": code}), ("stdout", {"text": code}), *ok()]

    fake.script = count
    executor = make()

    def listen(progress: Any) -> None:
        nonlocal running, most
        if isinstance(progress, BlockStarted):
            running += 1
            most = max(most, running)
        elif isinstance(progress, Output) and progress.text == "\n":
            running -= 1

    calls = [executor.execute_code_blocks([py(str(n))], listen) for n in range(5)]
    results = await asyncio.gather(*calls)
    assert [result.output for result in results] == [f"{n}{n}\n" for n in range(5)]
    assert (most, len(fake.sessions)) == (1, 1)
    await executor.close()


def test_calls_on_one_loop_after_another(make: Make, fake: FakeService) -> None:
    """An executor that keeps its session may be used on one event loop after another."""
    executor = make(keep_session=True)

    async def once(text: str) -> str:
        result = await executor.execute_code_blocks([py(text)])
        await executor.run_ended()
        return result.output

    assert [asyncio.run(once(text)) for text in ("a", "b")] == ["a\n", "b\n"]
    assert len(fake.sessions) == 1
    asyncio.run(executor.close())
    assert fake.sessions["s1"]["state"] == "closed"


async def test_a_busy_session_is_waited_for(make: Make, fake: FakeService) -> None:
    """A session that still kills cancelled code is asked again: nothing has started."""
    executor = make()
    await executor.execute_code_blocks([py("a")])
    fake.refuse = [(409, {}, {"code": "session_busy", "detail": "an execution runs"})] * 2
    assert (await executor.execute_code_blocks([py("b")])).output == "b\n"
    await executor.close()


async def test_output_of_megabytes(make: Make, fake: FakeService) -> None:
    """10 MB of output give a bounded reply with its start and its end, soon and in bounded memory."""
    lines = [("stdout", {"text": "x" * 99_999 + "\n"})] * 100
    trace = ("error", {"name": "E", "value": "v", "traceback": ["Traceback", "E: v"]})
    start, completed = ("stdout", {"text": "start\n"}), ("completed", {"outcome": "error"})
    fake.script = lambda _: [start, *lines, trace, completed]
    executor = make()
    begun = time.monotonic()
    result = await executor.execute_code_blocks([py("a")])
    assert time.monotonic() - begun < 30
    assert result.output.startswith("start\nxxx")
    assert "E: v\n" in result.output[-200:]
    assert "left out" in result.output
    assert len(result.output) < 25_000
    log = OutputLog(None)
    for _ in range(100):
        log.line("y" * 100_000)
    assert sum(map(len, log._parts)) <= 2 * MAX_KEPT
    assert len(log.text()) < 25_000
    await executor.close()


@pytest.mark.parametrize("language", ["python", "javascript"])
@pytest.mark.parametrize("directory", [True, False])
async def test_hostile_file_names(
    make: Make, fake: FakeService, tmp_path: Path, language: str, directory: bool
) -> None:
    """Files with names that deceive, leave the workspace or are no text give an ordinary reply."""
    names = [
        "../x",
        "a/../../x",
        "half\udcff",
        "a\tb",
        "\x1b[2Jb",
        "-rf",
        "a\u202eb",
        "x" * 300,
        ".git/hooks/pre-commit",
    ]
    outside = tmp_path / "outside"
    outside.mkdir()
    listed = [{"path": name, "content": "evil", "encoding": "utf-8", "size": 4} for name in names]
    fake.script = lambda _: ok(*((FILE, {"path": n, "content": b"evil"}) for n in names), files=listed)
    executor = make(work_dir=tmp_path / "w" if directory else None)
    notes: list[Any] = []
    result = await executor.execute_code_blocks([CodeBlock(code="a", language=language)], notes.append)
    assert result.exit_code == 0
    for made in result.artifacts:
        assert made.name.encode()
    saved = set(files_below(tmp_path))
    assert saved <= {"w/-rf", "w/.codecell-files.json"}
    assert any("was not" in p.text for p in notes if isinstance(p, Note)) or not directory
    await executor.close()


async def test_what_tools_load_unasked_stays(make: Make, fake: FakeService, tmp_path: Path) -> None:
    """A `conftest.py` that code made is told of and stays in the sandbox; the user's own goes in."""
    (tmp_path / "conftest.py").write_text("mine")
    fake.script = lambda _: ok((FILE, {"path": "tests/conftest.py", "content": b"evil"}))
    executor = make(work_dir=tmp_path)
    notes: list[Any] = []
    result = await executor.execute_code_blocks([py("a")], notes.append)
    assert fake.files["s1"]["conftest.py"] == b"mine"
    assert not (tmp_path / "tests").exists()
    assert [(made.name, made.path) for made in result.artifacts] == [("tests/conftest.py", None)]
    (note,) = [p.text for p in notes if isinstance(p, Note)]
    assert "without being asked" in note
    await executor.close()


async def test_what_cannot_be_uploaded(make: Make, fake: FakeService, tmp_path: Path) -> None:
    """A file that the service refuses is told of; the others go in and the code runs."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    executor = make(work_dir=tmp_path)
    notes: list[Any] = []

    fake.too_large = {"a.txt"}
    result = await executor.execute_code_blocks([py("x")], notes.append)
    assert result.exit_code == 0
    assert [p.text for p in notes if isinstance(p, Note)] == [
        "a.txt was not uploaded: too large [payload_too_large]"
    ]
    assert set(fake.files["s1"]) == {"b.txt"}
    await executor.close()


async def test_faults_are_raised(make: Make) -> None:
    """What the service fails at is an error of its own, never dressed as the program's."""
    executor = make()
    with pytest.raises(SandboxFailed):
        await executor.execute_code_blocks([py("sandbox boom")])
    await executor.close()


async def test_docker_may_be_demanded(make: Make) -> None:
    """Demanding a backend that the service has not is refused; nothing runs anywhere else."""
    executor = make(backend="docker")
    with pytest.raises(BackendUnavailable, match=r"'docker' was demanded.*'local'"):
        await executor.execute_code_blocks([py("a")])
    await executor.close()
