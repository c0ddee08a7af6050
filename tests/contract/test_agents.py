"""The two-party loop over the real service, and what agents see when the service dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from agent_client import (
    AssistantAgent,
    ExecutorClient,
    RemoteCodeExecutor,
    ReplayChatCompletionClient,
    UserProxyAgent,
)
from agent_client.autostart import OwnService
from agent_client.code_blocks import CodeBlock
from agent_client.demo import PLOT, run_demo
from agent_client.errors import ServiceUnreachable, StreamBroken
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
        "open('a\\x1b[2Jb', 'w').write('x'); print('\\x1b]0;t\\x07seen')"
    )
    executor = RemoteCodeExecutor(base_url=service[0], api_key=service[1], work_dir=tmp_path / "w", timeout=2)
    result = await executor.execute_code_blocks([CodeBlock(code=code, language="python")])
    assert result.output == "seen\n"
    assert below(tmp_path) == ["w"]
    slow = await executor.execute_code_blocks(
        [CodeBlock(code="print('kept', flush=True)\nwhile True: pass", language="python")]
    )
    assert slow.exit_code == 124
    assert slow.output.startswith("kept\n")
    pip = await executor.execute_code_blocks([CodeBlock(code="pip install nosuchpackage", language="sh")])
    assert pip.exit_code != 0
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
