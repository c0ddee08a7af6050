"""Agents and tools: run in the agent's own turn, or by another agent, errors told to the model."""

from __future__ import annotations

from typing import Any

import pytest

from agent_client import (
    CodeExecutionTool,
    CodeResult,
    ConversableAgent,
    FunctionTool,
    Message,
    ReplayChatCompletionClient,
    UserProxyAgent,
    register_function,
    tool,
)
from agent_client.chat_events import ChatEvent, CodeOutput, ToolCalled, ToolReturned
from agent_client.messages import Artifact
from tests.agent_client.parties import ScriptedExecutor, bot, calls


def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


def user(**options: Any) -> UserProxyAgent:
    """A user proxy that never asks and runs no code."""
    return UserProxyAgent("user", **({"human_input_mode": "NEVER", "code_execution_config": False} | options))


def seen(agent: Any, call: int) -> list[Message]:
    """What an agent's scripted model was given."""
    model = agent.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    return list(model.calls[call])


def test_tools_run_in_the_agents_own_turn() -> None:
    """The model calls, several at a time, and only its last words are said; later turns show it all."""
    a = bot(
        "a",
        calls(("add", {"x": 1, "y": 2}), ("add", {"x": 3, "y": 4})),
        "3 and 7",
        "still 3. TERMINATE",
        tools=[add],
    )
    events: list[ChatEvent] = []
    me = user(default_auto_reply="Sure?")
    result = me.initiate_chat(a, message="Task", silent=True, on_event=events.append)
    assert [m["content"] for m in result.chat_history] == ["Task", "3 and 7", "Sure?", "still 3. TERMINATE"]
    assert [type(e) for e in events if isinstance(e, ToolCalled | ToolReturned)] == [
        *(ToolCalled, ToolCalled, ToolReturned, ToolReturned)
    ]
    assert [m.role for m in seen(a, 2)] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert [r.content for r in seen(a, 2)[3].tool_responses] == ["3", "7"]
    assert result.usage.requests == 3


def test_what_a_model_does_wrong_is_told_to_it() -> None:
    """Malformed arguments, an unknown tool and one that raises are answers, and the conversation goes on."""

    def breaks() -> None:
        """Break."""
        raise RuntimeError("no luck")

    wrong = calls(("add", {"x": "one"}), ("nothing", {}), ("breaks", {}))
    a = bot("a", wrong, "sorry TERMINATE", tools=[add, breaks])
    result = user().initiate_chat(a, message="Task", silent=True)
    assert result.summary == "sorry"
    told = [r.content for r in seen(a, 1)[-1].tool_responses]
    assert "y" in told[0]
    assert "no tool 'nothing'" in told[1]
    assert "no luck" in told[2]
    assert all(r.is_error for r in seen(a, 1)[-1].tool_responses)


def test_an_agent_that_only_calls_tools_is_made_to_answer() -> None:
    """After so many rounds of calls the model is asked without tools, and what it says then counts."""
    again = [calls(("add", {"x": 1, "y": n})) for n in range(3)]
    a = bot("a", *again[:2], "enough TERMINATE", tools=[add], max_tool_iterations=2)
    assert user().initiate_chat(a, message="Task", silent=True).summary == "enough"
    deaf = bot("a", *again, tools=[add], max_tool_iterations=2)
    result = user().initiate_chat(deaf, message="Task", silent=True, max_turns=1)
    assert "without an answer" in result.summary


@pytest.mark.parametrize("decorated", [True, False])
def test_another_agent_runs_what_a_model_calls(decorated: bool) -> None:
    """With `register_function`, or the two decorators, the caller's partner runs it and sends the answer."""
    a, me = bot("a", calls(("add", {"x": 1, "y": 2}), content="Let me see"), "3. TERMINATE"), user()
    if decorated:
        me.register_for_execution()(a.register_for_llm(description="Add two numbers.")(add))
    else:
        register_function(add, caller=a, executor=me, description="Add two numbers.")
    result = me.initiate_chat(a, message="Task", silent=True)
    assert result.chat_history[1]["tool_calls"][0]["function"]["name"] == "add"
    assert result.chat_history[2]["role"] == "tool"
    assert result.chat_history[2]["tool_responses"][0] == {
        "tool_call_id": "c0",
        "role": "tool",
        "content": "3",
    }
    assert [m.role for m in seen(a, 1)] == ["system", "user", "assistant", "tool"]


def test_the_humans_words_come_before_a_call() -> None:
    """A human who speaks instead leaves the call unanswered, which the model is told in words."""
    lines = ["rather not", "exit"]
    me = user(human_input_mode="ALWAYS", input_func=lambda _: lines.pop(0))
    a = bot("a", calls(("add", {"x": 1, "y": 2})), "fine")
    register_function(add, caller=a, executor=me)
    me.initiate_chat(a, message="Task", silent=True)
    assert seen(a, 1)[2].tool_calls == ()
    assert "add(" in seen(a, 1)[2].content
    assert seen(a, 1)[3].content == "rather not"


def test_one_agent_may_do_both() -> None:
    """Registered for both on the same agent, a function runs in its own turn."""
    a = bot("a", calls(("add", {"x": 1, "y": 2})), "3. TERMINATE")
    register_function(add, caller=a, executor=a)
    assert len(user().initiate_chat(a, message="Task", silent=True).chat_history) == 2


def test_code_as_a_tool() -> None:
    """A model that calls tools runs code in the agent's session; output streams, images are in the reply, and
    the session ends with the run.
    """
    image = Artifact(name="figure-1.png", mime="image/png", data=b"\x89PNG")
    executor = ScriptedExecutor([CodeResult(exit_code=0, output="42\n", artifacts=[image])])
    a = bot(
        "a",
        calls(("execute_code", {"code": "print(42)"})),
        "42 TERMINATE",
        tools=[CodeExecutionTool(executor)],
    )
    events: list[ChatEvent] = []
    result = user().initiate_chat(a, message="Task", silent=True, on_event=events.append)
    assert executor.given[0][0].code == "print(42)"
    assert [e.text for e in events if isinstance(e, CodeOutput)] == ["live\n"]
    assert list(result.artifacts) == [image]
    assert seen(a, 1)[-1].tool_responses[0].content == "exitcode: 0 (execution succeeded)\nCode output: 42\n"
    assert executor.runs_ended == 1


def test_without_reflection_the_answers_are_the_reply() -> None:
    """`reflect_on_tool_use=False` says what the tools gave, without another model call."""
    a = bot("a", calls(("add", {"x": 1, "y": 2})), tools=[add], reflect_on_tool_use=False)
    result = user().initiate_chat(a, message="Task", silent=True, max_turns=1)
    assert (result.summary, result.usage.requests) == ("3", 1)


def test_tools_made_by_hand_and_names_that_clash() -> None:
    """Functions, decorated ones and FunctionTools may be mixed; two of one name are refused."""

    @tool
    def other() -> str:
        """Say x."""
        return "x"

    a = ConversableAgent("a", tools=[add, other, FunctionTool(add, "Add again.", "plus")])
    assert sorted(a.tools) == ["add", "other", "plus"]
    with pytest.raises(ValueError, match="'add'"):
        a.add_tool(add)


def test_answers_come_in_the_order_of_the_calls() -> None:
    """Results come back in the calls' order, whichever ended first."""

    async def slow(n: int) -> int:
        """Give n back."""
        import asyncio

        await asyncio.sleep(0.02 if n == 1 else 0)
        return n

    a = bot("a", calls(("slow", {"n": 1}), ("slow", {"n": 2})), "TERMINATE", tools=[slow])
    user().initiate_chat(a, message="Task", silent=True)
    assert [r.content for r in seen(a, 1)[-1].tool_responses] == ["1", "2"]
