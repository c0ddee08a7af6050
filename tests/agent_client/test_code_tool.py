"""Running code as a tool, through the remote executor and the fake service on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent_client.code_blocks import CodeBlock
from agent_client.executors import CodeResult, RemoteCodeExecutor
from agent_client.executors.base import Output, Progress, ProgressSink
from agent_client.messages import ToolCall
from agent_client.tools import CodeExecutionTool, run_calls, schema_of
from agent_client.tools.code import reply_text
from tests.agent_client.fake_service import FILE, HANG, KEY, FakeService, b64

DEADLINE = 20.0  # seconds
Make = Callable[..., CodeExecutionTool]


@pytest.fixture
def make(fake: FakeService) -> Make:
    """Makes tools over the fake service."""
    return lambda **options: CodeExecutionTool(RemoteCodeExecutor(base_url=fake.url, api_key=KEY, **options))


def call(number: int, **arguments: Any) -> ToolCall:
    """A model's call."""
    return ToolCall(id=str(number), name="execute_code", arguments=json.dumps(arguments))


def test_what_the_model_is_told(make: Make) -> None:
    """The schema names the code, and that the language and a file's name may be left out."""
    function = schema_of(make())["function"]
    assert function["name"] == "execute_code"
    assert function["parameters"]["required"] == ["code"]
    assert list(function["parameters"]["properties"]) == ["code", "language", "filename"]
    assert all(p["description"] for p in function["parameters"]["properties"].values())


async def test_calls_share_a_session(make: Make, fake: FakeService) -> None:
    """Several calls at a time open one session and run in it one after the other, in their order."""
    made = make()
    got = await run_calls([call(n, code=f"print({n})") for n in range(4)], {"execute_code": made})
    assert [r.content for r in got] == [
        f"exitcode: 0 (execution succeeded)\nCode output: print({n})\n" for n in range(4)
    ]
    assert len(fake.sessions) == 1
    assert [body["code"] for body in fake.bodies("/executions")] == [f"print({n})" for n in range(4)]
    await made.close()
    assert fake.sessions["s1"]["state"] == "closed"


@pytest.mark.parametrize(
    ("language", "ends"),
    [("Python3", "/executions"), ("", "/executions"), ("bash", "/commands"), ("js", "/runs")],
)
async def test_languages(make: Make, fake: FakeService, language: str, ends: str) -> None:
    """A language is understood as in code blocks."""
    made = make()
    assert not (await made.run(json.dumps({"code": "x", "language": language}))).is_error
    assert len(fake.bodies(ends)) == 1
    await made.close()


@pytest.mark.parametrize("arguments", [{"filename": "a/b.py"}, {}])
async def test_files(make: Make, fake: FakeService, arguments: dict[str, str]) -> None:
    """Code is saved under the name that is given, or that its first line gives."""
    made, code = make(), "print(1)" if arguments else "# filename: a/b.py\nprint(1)"
    await made.run(json.dumps({"code": code, **arguments}))
    assert fake.files["s1"]["a/b.py"] == code.encode()
    await made.close()


async def test_a_file_name_that_leaves_the_workspace(make: Make, fake: FakeService) -> None:
    """Nothing is saved, nothing runs, and the model is told."""
    made = make()
    got = await made.run(json.dumps({"code": "x", "filename": "../x.py"}))
    assert "exitcode: 1 (execution failed)" in got.content
    assert "leaves the workspace" in got.content
    assert fake.bodies("/executions") == []
    await made.close()


async def test_a_program_that_fails_is_data(make: Make, fake: FakeService) -> None:
    """The exit code and the traceback are the answer; the tool itself did not fail."""
    fake.script = lambda _: [
        ("error", {"name": "KeyError", "value": "1", "traceback": ["KeyError: 1"]}),
        ("completed", {"outcome": "error"}),
    ]
    made = make()
    got = await made.run('{"code": "x"}')
    assert got.content == "exitcode: 1 (execution failed)\nCode output: KeyError: 1\n"
    assert not got.is_error
    await made.close()


async def test_images_and_files_are_returned(make: Make, fake: FakeService, tmp_path: Path) -> None:
    """What code shows and saves are artifacts of the answer; output is passed on as it comes."""
    image = {"data": {"image/png": b64(b"\x89PNG")}, "metadata": {}}
    fake.script = lambda _: [
        ("stdout", {"text": "drawing\n"}),
        ("display", image),
        (FILE, {"path": "t.csv", "content": b"1,2"}),
        ("completed", {"outcome": "ok", "exit_code": 0}),
    ]
    made, seen = make(work_dir=tmp_path), list[Progress]()
    (got,) = await run_calls([call(1, code="x")], {"execute_code": made}, on_progress=seen.append)
    assert sorted((a.name, a.mime) for a in got.artifacts) == [
        ("figure-1.png", "image/png"),
        ("t.csv", "text/csv"),
    ]
    assert [p.text for p in seen if isinstance(p, Output)] == ["drawing\n"]
    await made.close()


async def test_a_service_that_is_not_there() -> None:
    """Not being able to run anything is an error, which the model is told."""
    made = CodeExecutionTool(RemoteCodeExecutor(base_url="http://127.0.0.1:9", api_key=KEY))
    got = await asyncio.wait_for(made.run('{"code": "x"}'), DEADLINE)
    assert got.is_error
    assert got.content.startswith("Error: ServiceUnreachable: ")
    await made.close()


@pytest.mark.parametrize("arguments", ["", "print(1)", '{"code": 1}', '{"code": "x", "timeout": 9}'])
async def test_wrong_arguments(make: Make, fake: FakeService, arguments: str) -> None:
    """They run nothing, and the answer says what was expected."""
    got = await make().run(arguments)
    assert got.is_error
    assert "Expected a JSON object of: code, language (optional), filename (optional)." in got.content
    assert fake.requests == []


async def test_cancelling_stops_the_code(make: Make, fake: FakeService) -> None:
    """A call that is cancelled while its code runs leaves the service, which stops the code."""
    fake.script = lambda _: [("stdout", {"text": "running"}), (HANG, {})]
    made, running = make(), asyncio.Event()

    def watch(progress: Progress) -> None:
        if isinstance(progress, Output):
            running.set()

    calls = run_calls([call(1, code="x")], {"execute_code": made}, on_progress=watch)
    task = asyncio.create_task(calls)
    await asyncio.wait_for(running.wait(), DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(fake.left.wait, DEADLINE)
    await made.close()


async def test_the_executor_is_let_go() -> None:
    """The end of a conversation, and closing, reach the executor."""

    class Executor:
        told: list[str] = []  # noqa: RUF012

        async def execute_code_blocks(
            self, blocks: Sequence[CodeBlock], on_progress: ProgressSink | None = None
        ) -> CodeResult:
            return CodeResult(exit_code=0, output="")

        async def run_ended(self) -> None:
            self.told.append("run ended")

        async def close(self) -> None:
            self.told.append("closed")

    made = CodeExecutionTool(Executor(), name="run", description="Runs.")
    assert (made.name, made.description) == ("run", "Runs.")
    await made.run_ended()
    await made.close()
    assert Executor.told == ["run ended", "closed"]


def test_the_words() -> None:
    """A reply reads as AutoGen's."""
    assert reply_text(CodeResult(exit_code=0, output="1")) == (
        "exitcode: 0 (execution succeeded)\nCode output: 1"
    )
    assert reply_text(CodeResult(exit_code=2, output="")) == "exitcode: 2 (execution failed)\nCode output: "
