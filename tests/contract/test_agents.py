"""The two-party loop over the real service, and what agents see when the service dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from agent_client import (
    AssistantAgent,
    AsyncExecutorClient,
    ExecutorClient,
    RemoteCodeExecutor,
    ReplayChatCompletionClient,
    UserProxyAgent,
)
from agent_client.autostart import OwnService
from agent_client.code_blocks import CodeBlock
from agent_client.demo import PLOT, run_demo
from agent_client.errors import ServiceUnreachable, StreamBroken
from agent_client.executors.base import Output
from agent_client.wire.events import Stdout

Service = tuple[str, str | None]


def below(directory: Path) -> list[str]:
    """Everything below a directory."""
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*"))


def test_the_loop(service: Service, tmp_path: Path) -> None:
    """An assistant's code fails, is mended with the state kept, and its file comes out."""
    replies = [
        "```python\nx = 41\nprint(undefined)\n```",
        "```python\nopen('out.txt', 'w').write(str(x + 1))\nprint(x + 1)\n```",
        "```sh\ncat out.txt\n```",
        "Done. TERMINATE",
    ]
    executor = RemoteCodeExecutor(base_url=service[0], api_key=service[1], work_dir=tmp_path)
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config={"executor": executor})
    bot = AssistantAgent("bot", ReplayChatCompletionClient(replies))
    result = user.initiate_chat(bot, message="Task", silent=True)
    texts = [m["content"] for m in result.chat_history]
    assert texts[2].startswith("exitcode: 1 (execution failed)\nCode output: ")
    assert "NameError" in texts[2]
    assert texts[4] == "exitcode: 0 (execution succeeded)\nCode output: 42\n"
    assert texts[6] == "exitcode: 0 (execution succeeded)\nCode output: 42\n"
    assert (tmp_path / "out.txt").read_text() == "42"
    with ExecutorClient(*service) as client:
        assert [s for s in client.iter_sessions() if s.metadata.get("made_by") == "RemoteCodeExecutor"] == []


async def test_blocks(service: Service, tmp_path: Path) -> None:
    """A hostile program cannot write outside the directory, nor put control sequences in the output."""
    (tmp_path / "w").mkdir()
    code = (
        "import os; os.symlink('/etc/passwd', 'link'); open('.hidden', 'w').write('x');"
        "open('a\\x1b[2Jb', 'w').write('x'); open('a\\nb', 'w').write('x');"
        "open('conftest.py', 'w').write('x'); print('\\x1b]0;t\\x07seen')"
    )
    executor = RemoteCodeExecutor(base_url=service[0], api_key=service[1], work_dir=tmp_path / "w", timeout=2)
    result = await executor.execute_code_blocks([CodeBlock(code=code, language="python")])
    assert result.output == "seen\n"
    assert below(tmp_path) == ["w"]
    assert {(a.name, a.path) for a in result.artifacts} == {
        (n, None) for n in ("a\x1b[2Jb", "a\nb", "conftest.py")
    }
    slow = await executor.execute_code_blocks(
        [CodeBlock(code="print('kept', flush=True)\nwhile True: pass", language="python")]
    )
    assert slow.exit_code == 124
    assert slow.output.startswith("kept\n")
    pip = await executor.execute_code_blocks([CodeBlock(code="pip install nosuchpackage", language="sh")])
    assert pip.exit_code != 0
    await executor.close()


async def test_state_goes_on(service: Service) -> None:
    """A second executor goes on in the first one's session, and says so when that has ended meanwhile."""
    first = RemoteCodeExecutor(base_url=service[0], api_key=service[1], keep_session=True)
    await first.execute_code_blocks(
        [CodeBlock(code="x = 41; open('a\\nb', 'w').write('x')", language="python")]
    )
    await first.run_ended()
    second = RemoteCodeExecutor(base_url=service[0], api_key=service[1])
    second.load_state(first.save_state())
    result = await second.execute_code_blocks([CodeBlock(code="print(x + 1)", language="python")])
    assert (result.output, result.artifacts) == ("42\n", [])
    await second.close()
    third = RemoteCodeExecutor(base_url=service[0], api_key=service[1])
    third.load_state(first.save_state())
    again = await third.execute_code_blocks([CodeBlock(code="print(x + 1)", language="python")])
    assert again.exit_code == 1
    assert "without its variables" in again.output
    await third.close()


async def test_agents_at_the_same_time(service: Service) -> None:
    """Blocks of two agents at once, and one after a cancelled one, all run: the session is never busy."""
    executor = RemoteCodeExecutor(base_url=service[0], api_key=service[1])
    begun = asyncio.Event()
    listen = lambda progress: begun.set() if isinstance(progress, Output) else None  # noqa: E731
    code = "import time; print('on', flush=True); time.sleep(300)"
    endless = asyncio.create_task(
        executor.execute_code_blocks([CodeBlock(code=code, language="python")], listen)
    )
    await asyncio.wait_for(begun.wait(), 60)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    blocks = [CodeBlock(code=f"print({n})", language="python") for n in range(3)]
    results = await asyncio.gather(*(executor.execute_code_blocks([block]) for block in blocks))
    assert [result.output for result in results] == ["0\n", "1\n", "2\n"]
    await executor.close()


async def test_the_service_dies_under_an_executor() -> None:
    """A service that is killed while code runs is a failing reply with what was printed; the next call says
    that none answers.
    """
    own = OwnService()
    with own as found:
        executor = RemoteCodeExecutor(client=AsyncExecutorClient(found.url, found.api_key))
        pid = own.pid
        assert pid is not None
        kill = lambda progress: os.kill(pid, signal.SIGKILL) if isinstance(progress, Output) else None  # noqa: E731
        code = "import time; print('on', flush=True); time.sleep(300)"
        result = await executor.execute_code_blocks([CodeBlock(code=code, language="python")], kill)
        assert result.exit_code == 1
        assert result.output.startswith("on\nThe connection to the service broke.")
        for _ in range(100):  # while it is being torn down, a connection may still be taken, and then break
            try:
                broken = await executor.execute_code_blocks([CodeBlock(code="1", language="python")])
            except ServiceUnreachable:
                break
            assert "connection to the service broke" in broken.output
        else:
            pytest.fail("something still takes connections")
        await executor.close()


def test_the_service_dies_mid_stream(tmp_path: Path) -> None:
    """Killed while it streams, the service gives `StreamBroken`; then it is `ServiceUnreachable`."""
    own = OwnService()
    with own as found, ExecutorClient(found.url, found.api_key) as client:
        stream = client.stream_run("import time; print('on', flush=True); time.sleep(300)")
        assert own.pid is not None
        assert any(isinstance(event, Stdout) for event in stream)
        os.kill(own.pid, signal.SIGKILL)
        with pytest.raises(StreamBroken):
            stream.wait()
        deadline = time.monotonic() + 30
        while True:  # while the process is being torn down, a connection may still be taken, and then break
            with pytest.raises((ServiceUnreachable, StreamBroken)) as caught:
                client.run("1")
            if isinstance(caught.value, ServiceUnreachable):
                break
            assert time.monotonic() < deadline
    assert "codecell-executor serve" in str(caught.value)


def test_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo shows a real error, mends it, and ends with a saved PNG and its path."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert run_demo(tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "replayed" in out
    assert "exitcode: 1 (execution failed)" in out
    assert "exitcode: 0 (execution succeeded)" in out
    assert "MSFT: +60.1 %" in out
    assert (tmp_path / "out" / PLOT).read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "out" / PLOT) in out
