"""AutoGen 0.4 and later."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from pathlib import Path

import harness
from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken, FunctionCall
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult
from autogen_core.models import CreateResult, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient
from autogen_ext.tools.code_execution import PythonCodeExecutionTool

from agent_client.integrations.autogen import CodecellCodeExecutor

warnings.filterwarnings("ignore", "No approval function set")


async def run(executor: CodecellCodeExecutor, code: str, language: str = "python") -> CodeResult:
    """One block."""
    return await executor.execute_code_blocks([CodeBlock(code, language)], CancellationToken())


def case_a_team_of_a_coder_and_an_executor(here: Path) -> None:
    """A failure goes back to the coder, state stays, the file comes out."""
    replies = [
        "```python\nx = 41\nprint(undefined)\n```",
        "```python\nopen('out.txt', 'w').write(str(x + 1))\nprint(x + 1)\n```\n```sh\ncat out.txt\n```",
        "TERMINATE",
    ]

    async def go() -> None:
        async with CodecellCodeExecutor(work_dir=here / "work") as executor:
            coder = AssistantAgent("coder", ReplayChatCompletionClient(replies))
            runner = CodeExecutorAgent("runner", code_executor=executor)
            ends = TextMentionTermination("TERMINATE", sources=["coder"]) | MaxMessageTermination(10)
            team = RoundRobinGroupChat([coder, runner], termination_condition=ends)
            result = await team.run(task="Task")
            said = [(m.source, m.to_text()) for m in result.messages]
            assert "exited with an error" in said[2][1], said
            assert "NameError" in said[2][1], said
            assert said[4] == ("runner", "42\n42\n"), said
            assert said[5] == ("coder", "TERMINATE"), said
            assert [a.name for a in executor.artifacts] == ["out.txt"]

    asyncio.run(go())
    assert (here / "work" / "out.txt").read_text() == "42"


def case_a_tool_of_autogen_runs_code_by_it(here: Path) -> None:
    """PythonCodeExecutionTool takes any executor."""
    call = FunctionCall(id="1", name="CodeExecutor", arguments=json.dumps({"code": "print(6 * 7)"}))
    wants = CreateResult(
        finish_reason="function_calls",
        content=[call],
        usage=RequestUsage(prompt_tokens=1, completion_tokens=1),
        cached=False,
    )

    async def go() -> None:
        async with CodecellCodeExecutor() as executor:
            info = {"function_calling": True, "vision": False, "json_output": False}
            info |= {"family": "unknown", "structured_output": False}
            model = ReplayChatCompletionClient([wants], model_info=info)
            agent = AssistantAgent("agent", model, tools=[PythonCodeExecutionTool(executor)])
            result = await agent.run(task="Task")
            assert result.messages[-1].to_text() == "42\n", result

    asyncio.run(go())


def case_declared_in_json(here: Path) -> None:
    """It goes into JSON and back, alone and inside an agent, and no key goes with it."""
    options = {"work_dir": here / "work", "limits": {"memory_bytes": 1 << 29}, "timeout": 7, "network": False}
    executor = CodecellCodeExecutor(api_key="a-secret", base_url=os.environ["CODECELL_URL"], **options)
    agent = CodeExecutorAgent("runner", code_executor=executor)
    text = agent.dump_component().model_dump_json()
    assert "a-secret" not in text
    loaded = CodeExecutorAgent.load_component(json.loads(text))
    assert loaded.dump_component().model_dump_json() == text
    again = CodeExecutor.load_component(json.loads(json.dumps(executor.dump_component().model_dump())))
    assert isinstance(again, CodecellCodeExecutor)

    async def go() -> None:
        async with again:
            assert (await run(again, "print('loaded')")).output == "loaded\n"

    asyncio.run(go())
    with_key = {**executor.dump_component().model_dump(), "config": {"api_key": "k"}}
    assert "api_key" in harness.error_of(ValueError, lambda: CodeExecutor.load_component(with_key))


def case_the_token_stops_the_code_at_once(here: Path) -> None:
    """The call raises, the code is dead, and its session works on with its state."""

    async def go() -> None:
        async with CodecellCodeExecutor(timeout=300) as executor:
            token = CancellationToken()
            block = [CodeBlock(harness.FOREVER, "python")]
            task = asyncio.ensure_future(executor.execute_code_blocks(block, token))
            await asyncio.to_thread(harness.wait_until_begun)
            token.cancel()
            try:
                await task
                raise AssertionError("the code ended by itself")
            except asyncio.CancelledError:
                pass
            assert (await run(executor, "print(x + 1)")).output == "42\n"
            used = CancellationToken()
            used.cancel()
            try:
                await executor.execute_code_blocks(block, used)
                raise AssertionError("code ran for a token that was used already")
            except asyncio.CancelledError:
                pass

    with harness.at_once():
        asyncio.run(go())


def case_cancelling_a_team_stops_its_code(here: Path) -> None:
    """The token given to the team reaches the sandbox."""

    async def go() -> None:
        async with CodecellCodeExecutor(timeout=300) as executor:
            coder = AssistantAgent(
                "coder", ReplayChatCompletionClient([f"```python\n{harness.FOREVER}\n```"])
            )
            team = RoundRobinGroupChat([coder, CodeExecutorAgent("runner", code_executor=executor)])
            token = CancellationToken()
            task = asyncio.ensure_future(team.run(task="Task", cancellation_token=token))
            await asyncio.to_thread(harness.wait_until_begun)
            token.cancel()
            try:
                await task
                raise AssertionError("the team ended by itself")
            except (asyncio.CancelledError, RuntimeError):
                pass
            assert (await run(executor, "print(x + 1)")).output == "42\n"

    with harness.at_once():
        asyncio.run(go())


def case_what_cannot_be_run_is_a_reply(here: Path) -> None:
    """Unknown languages, failing code, a timeout and too much output are results."""

    async def go() -> None:
        async with CodecellCodeExecutor(timeout=1) as executor:
            unknown = await run(executor, "x", "klingon")
            assert unknown.exit_code == 1
            assert "cannot be run here" in unknown.output
            failed = await run(executor, "1/0")
            assert failed.exit_code == 1
            assert "ZeroDivisionError" in failed.output
            late = await run(executor, "print('before', flush=True)\nwhile True: pass")
            assert late.exit_code == 124
            assert late.output.startswith("before\n"), late
            much = await run(executor, harness.NOISE)
            assert len(much.output) < 25_000

    asyncio.run(go())


def case_restart_starts_over_and_calls_wait_for_each_other(here: Path) -> None:
    """No state is left after it; blocks given at the same time share one session, in turn."""

    async def go() -> None:
        async with CodecellCodeExecutor() as executor:
            await asyncio.gather(*(run(executor, f"x{i} = {i}") for i in range(4)))
            assert len(await asyncio.to_thread(harness.sessions)) == 1
            assert (await run(executor, "print(x0 + x1 + x2 + x3)")).output == "6\n"
            await executor.restart()
            assert "NameError" in (await run(executor, "print(x0)")).output

    asyncio.run(go())


def case_the_guide(here: Path) -> None:
    """What the page shows works as it is written."""
    model = ReplayChatCompletionClient([f"```python\n{harness.MADE}\n```", "It is 42. TERMINATE"])
    for text in harness.snippets("AutoGen 0.4 and later", "json"):
        assert isinstance(CodeExecutor.load_component(json.loads(text)), CodecellCodeExecutor)
    assert "It is 42. TERMINATE" in harness.guide("AutoGen 0.4 and later", model=model)
    assert (here / "coding" / "out.txt").read_text() == "made"


if __name__ == "__main__":
    harness.main(dict(globals()))
