"""What conversations must stand, over the real service: restarts, expiry, floods, planted files, politeness.

Elsewhere: endpoints that misbehave (tests/agent_client/test_model_faults.py), tools (test_tools.py,
test_agent_tools.py), Ctrl-C in each phase (test_cli_chat.py), terminal and HTML (test_console.py,
test_transcript_browser.py), the mirror's rules one by one (test_mirror.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_client import (
    AssistantAgent,
    AsyncExecutorClient,
    CodeBlock,
    GroupChat,
    GroupChatManager,
    RemoteCodeExecutor,
    ReplayChatCompletionClient,
    RoundRobinGroupChat,
    UserProxyAgent,
)
from tests.agent_client.model_endpoint import model_endpoint
from tests.conftest import RealService

Service = tuple[str, str | None]
THANKS = ["Thank you!", "You're welcome! Have a great day!", "Thanks, you too!", "Goodbye!"] * 60


def runner(executor: RemoteCodeExecutor) -> UserProxyAgent:
    """A user proxy that runs code."""
    return UserProxyAgent("user", human_input_mode="NEVER", code_execution_config={"executor": executor})


def python(code: str) -> str:
    """A block of code as a model writes it."""
    return f"```python\n{code}\n```"


async def test_a_service_that_is_killed_and_starts_again(tmp_path: Path, python_image: object) -> None:
    """Killed while code runs and started again on its port: the replies say so, then it goes on."""
    first = RealService(tmp_path / "a", "--warm", "1")
    port = first.url.rpartition(":")[2].rstrip("/")
    executor = RemoteCodeExecutor(base_url=first.url)
    started: list[RealService] = []

    def restart() -> None:
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        started.append(RealService(tmp_path / "b", "--warm", "1", "--port", port))

    replies = [
        python("x = 1; print('kept')"),
        python("print('running', flush=True)\nimport time; time.sleep(300)"),
        python("print(x)"),
        python("print(42)"),
        "Done. TERMINATE",
    ]
    restarting: list[asyncio.Future[None]] = []

    def listen(event: Any) -> None:
        if "running" in getattr(event, "text", "") and not restarting:
            restarting.append(asyncio.get_running_loop().run_in_executor(None, restart))

    class Patient(ReplayChatCompletionClient):
        async def create(self, *args: Any, **options: Any) -> Any:
            for restarted in restarting:  # else what comes next may meet the old service's last breath
                await asyncio.shield(restarted)
            return await super().create(*args, **options)

    bot = AssistantAgent("coder", Patient(replies))
    try:
        result = await runner(executor).a_initiate_chat(
            bot, message="Task", silent=True, on_event=listen, stalled=False
        )
    finally:
        for service in started:
            await asyncio.to_thread(service.stop)
        first.process.stdout.close()  # type: ignore[union-attr]
        first.log.close()
    texts = [m["content"] for m in result.chat_history]
    assert "kept" in texts[2]
    assert texts[4].startswith("exitcode: 1 (execution failed)")
    assert "connection to the service broke" in texts[4]
    assert "The session had ended" in texts[6]
    assert "NameError" in texts[6]
    assert texts[8] == "exitcode: 0 (execution succeeded)\nCode output: 42\n"
    assert result.stop_reason == "termination message: from coder"


async def test_a_session_that_expires_between_turns(service: Service) -> None:
    """A session that is gone at the next turn is replaced, and the reply says that its state was lost."""
    executor = RemoteCodeExecutor(base_url=service[0], api_key=service[1])

    class Slow(ReplayChatCompletionClient):
        async def create(self, *args: Any, **options: Any) -> Any:
            if executor.session_id is not None and len(self.calls) == 1:
                async with AsyncExecutorClient(*service) as client:
                    await client.close_session(executor.session_id)
            return await super().create(*args, **options)

    bot = AssistantAgent("coder", Slow([python("x = 1"), python("print('x' in globals())"), "TERMINATE"]))
    result = await runner(executor).a_initiate_chat(bot, message="Task", silent=True)
    text = result.chat_history[4]["content"]
    assert "The session had ended" in text
    assert text.rstrip().endswith("False")


async def test_ten_megabytes_of_output(service: Service) -> None:
    """The model is told the start and the end, and how it ended; nothing is held up."""
    executor = RemoteCodeExecutor(base_url=service[0], api_key=service[1])
    code = "print('first')\nfor _ in range(10): print('y' * 1_000_000)\nprint('last')"
    result = await executor.execute_code_blocks([CodeBlock(code=code, language="python")])
    assert result.output.startswith("first\n")
    assert len(result.output) < 25_000
    assert "left out" in result.output
    assert result.exit_code != 0  # past the limit of output
    after = await executor.execute_code_blocks([CodeBlock(code="print('on')", language="python")])
    assert after.output == "on\n"
    await executor.close()


async def test_planted_files(service: Service, tmp_path: Path) -> None:
    """Of what a sandbox plants among its files only a plain one comes out, and nothing else is touched."""
    home = tmp_path / "project"
    (home / ".git" / "hooks").mkdir(parents=True)
    (home / "mine.txt").write_text("mine")
    code = (
        "import os, pathlib\n"
        "os.makedirs('.git/hooks', exist_ok=True)\n"
        "for name in ('.git/hooks/pre-commit', '.env', 'conftest.py', 'sub/conftest.py', 'x.pth',\n"
        "             'sitecustomize.py', 'mine.txt', 'a\\u202eb.txt', 'new\\nline', 'good.txt'):\n"
        "    path = pathlib.Path(name); path.parent.mkdir(exist_ok=True)\n"
        "    path.write_text('planted')\n"
        "os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'dir'); os.mkfifo('pipe')\n"
        "os.makedirs('flood')\n"
        "for n in range(2000): open(f'flood/{n}', 'w').close()\n"
        "print('done')"
    )
    executor = RemoteCodeExecutor(base_url=service[0], api_key=service[1], work_dir=home)
    result = await executor.execute_code_blocks([CodeBlock(code=code, language="python")])
    await executor.close()
    assert result.output.startswith("done")
    assert (home / "mine.txt").read_text() == "mine"
    assert list((home / ".git" / "hooks").iterdir()) == []
    out = {
        path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() or path.is_symlink()
    }
    plain = {name for name in out if not name.startswith("flood/")}
    assert plain <= {"mine.txt", "good.txt", ".codecell-files.json"}
    assert len(out) < 250


@pytest.mark.parametrize("kind", ["two", "group", "team"])
async def test_agents_that_thank_each_other_end(kind: str) -> None:
    """Two agents that only thank each other are stopped within a few turns, wherever they talk."""
    a = AssistantAgent("a", ReplayChatCompletionClient(THANKS))
    b = AssistantAgent("b", ReplayChatCompletionClient(THANKS[1:]))
    if kind == "team":
        reason, said = await _team([a, b])
    else:
        group = GroupChat([a, b], max_round=100, speaker_selection_method="round_robin")
        other = GroupChatManager(group) if kind == "group" else b
        result = await a.a_initiate_chat(other, message="Please thank each other.", silent=True)
        reason, said = result.stop_reason, len(result.chat_history)
    assert reason.startswith("stalled")
    assert said <= 5


async def _team(agents: list[AssistantAgent]) -> tuple[str, int]:
    result = await RoundRobinGroupChat(agents).run(task="Please thank each other.")
    return result.stop_reason, len(result.messages)


@pytest.mark.parametrize("kind", ["two", "team"])
async def test_a_model_that_never_ends_is_bounded(kind: str) -> None:
    """A model that always has something new to say, and never TERMINATE, is stopped by the default bounds."""
    words = [f"And point {number} matters too: {number * 7}." for number in range(500)]
    talker = AssistantAgent("talker", ReplayChatCompletionClient(words))
    if kind == "team":
        reason, said = await _team([talker])
        assert said == 201
    else:
        user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
        result = await user.a_initiate_chat(talker, message="Talk", silent=True)
        reason = result.stop_reason
        assert result.usage.requests <= 200
    assert reason.startswith(("max_turns", "max_consecutive_auto_reply", "usage_limit"))


SLEEPER = """
import sys, time
from agent_client import AssistantAgent, OpenAIChatCompletionClient, UserProxyAgent

def wait_for_ever() -> str:
    "Wait."
    print("waiting", flush=True)
    time.sleep(600)
    return "never"

bot = AssistantAgent("bot", OpenAIChatCompletionClient("m"), tools=[wait_for_ever])
user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
try:
    user.initiate_chat(bot, message="Wait", silent=True)
except KeyboardInterrupt:
    print("stopped with", len(user.chat_messages[bot]), "messages", flush=True)
"""


def test_ctrl_c_while_a_tool_never_returns(tmp_path: Path) -> None:
    """A tool that never returns keeps nobody from stopping, nor the process from ending."""
    from tests.agent_client.model_endpoint import Says

    with model_endpoint(Says(calls=[("wait_for_ever", "{}")])) as endpoint:
        root = str(Path(__file__).parents[2])
        env = {**os.environ, "OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": "k", "PYTHONPATH": root}
        process = subprocess.Popen(
            [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("stopped with 1 messages\n", 0)
