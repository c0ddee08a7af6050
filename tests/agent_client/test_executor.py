"""The remote executor over the fake service: where blocks run, exit codes, files, what the model reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_client.code_blocks import CodeBlock
from agent_client.errors import BackendUnavailable, SandboxFailed
from agent_client.executors import RemoteCodeExecutor
from agent_client.executors.base import ArtifactMade, Note, Output
from tests.agent_client.fake_service import FILE, HANG, KEY, FakeService, b64

Make = Callable[..., RemoteCodeExecutor]


@pytest.fixture
def make(fake: FakeService) -> Make:
    """Makes executors over the fake service."""
    return lambda **options: RemoteCodeExecutor(base_url=fake.url, api_key=KEY, **options)


def py(code: str, **more: Any) -> CodeBlock:
    """A python block."""
    return CodeBlock(code=code, language="python", **more)


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


async def test_a_session_that_ended_is_replaced(make: Make, fake: FakeService) -> None:
    """When the session has expired, a new one is opened and the model is told what is lost."""
    executor = make(keep_session=True)
    await executor.execute_code_blocks([py("a")])
    fake.sessions["s1"]["state"] = "closed"
    result = await executor.execute_code_blocks([py("b")])
    assert result.exit_code == 0
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
    """A cancelled execution leaves the service at once, which stops the code."""
    fake.script = lambda _: [("stdout", {"text": "x"}), (HANG, {})]
    executor = make()
    printed = asyncio.Event()
    listen = lambda progress: printed.set() if isinstance(progress, Output) else None  # noqa: E731
    task = asyncio.create_task(executor.execute_code_blocks([py("a")], listen))
    await asyncio.wait_for(printed.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(fake.left.wait, 20)
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
