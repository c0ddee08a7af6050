"""Teams: turns, selection, handoffs, bounds, conditions, streams, humans, state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from agent_client import (
    AssistantAgent,
    CancellationToken,
    CodeExecutorAgent,
    Handoff,
    HandoffTermination,
    InputPending,
    LastWordTermination,
    MaxMessageTermination,
    Message,
    ModelResponse,
    ReplayChatCompletionClient,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
    TaskResult,
    TextMentionTermination,
    Usage,
    UsageLimits,
    UserProxyAgent,
)
from agent_client.chat_events import Ended, MessageSent, ModelText, SpeakerSelected
from tests.agent_client.parties import CODE, ScriptedExecutor, answers, bot, calls, done


def speakers(result: TaskResult) -> list[str | None]:
    """Who spoke, in order; the task is nobody's or the user's."""
    return [message.name for message in result.messages]


async def test_round_robin() -> None:
    """Each in turn; `max_turns` counts their messages; the next run goes on behind the last speaker."""
    team = RoundRobinGroupChat([bot("a", "a1", "a2"), bot("b", "b1"), bot("c", "c1")], max_turns=2)
    first = await team.run(task="Task")
    assert speakers(first) == ["user", "a", "b"]
    assert first.stop_reason == "max_turns: 2 messages were said"
    second = await team.run()
    assert speakers(second) == ["c", "a"]
    await team.reset()
    with pytest.raises(ValueError, match="needs a task"):
        await team.run()


def test_blocking_and_a_task_of_several_messages() -> None:
    """`run_sync` blocks; a task may be a message, a dict or a list of these."""
    team = RoundRobinGroupChat([bot("a", "a1")], max_turns=1)
    result = team.run_sync(task=["one", {"content": "two", "name": "boss"}, Message(content="three")])
    assert [m.content for m in result.messages] == ["one", "two", "three", "a1"]
    assert speakers(result) == ["user", "boss", "user", "a"]
    assert result.usage.requests == 1


async def test_conditions_end_it_but_never_the_tasks_own_text() -> None:
    """A condition ends the run with its reason; the word in the task does not."""
    ends = TextMentionTermination("APPROVE") | MaxMessageTermination(9)
    team = RoundRobinGroupChat([bot("a", "draft", "better"), bot("b", "redo it", "APPROVE")], ends)
    result = await team.run(task="Say APPROVE when it is good")
    assert speakers(result) == ["user", "a", "b", "a", "b"]
    assert result.stop_reason.startswith("text_mention")


async def test_agents_see_their_own_side_and_the_names() -> None:
    """A model gets its own words as assistant and the others' as user, with their names."""
    a, b = bot("a", "from a"), bot("b", "from b")
    await RoundRobinGroupChat([a, b], max_turns=2).run(task="Task")
    model = b.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    assert [(m.role, m.name, m.content) for m in model.calls[0][1:]] == [
        ("user", "user", "Task"),
        ("user", "a", "from a"),
    ]


async def test_polite_agents_end() -> None:
    """Two agents that thank each other are stopped, unless that is switched off."""
    thanks = ["Thank you!", "Thanks, have a great day!", "You're welcome!", "Goodbye!"]
    result = await RoundRobinGroupChat([bot("a", *thanks), bot("b", *thanks)]).run(task="Talk")
    assert result.stop_reason.startswith("stalled")
    assert len(result.messages) == 3
    on = RoundRobinGroupChat([bot("a", *thanks), bot("b", *thanks)], max_turns=6, stalled=False)
    assert len((await on.run(task="Talk")).messages) == 7


async def test_bounds() -> None:
    """A team's model calls, tokens and time are bounded and the reason is told; all agents count."""
    used = Usage(requests=1, prompt_tokens=20, completion_tokens=10)
    replies = [ModelResponse(content=f"x{n}", usage=used) for n in range(9)]
    team = RoundRobinGroupChat([bot("a", *replies), bot("b", *replies)], usage_limits=UsageLimits(tokens=80))
    result = await team.run(task="Task")
    assert result.stop_reason.startswith("usage_limit: the limit of 80 tokens")
    assert result.usage.requests == 3

    class Slow:
        async def create(self, messages: Any, *, tools: Any = (), stream: Any = None) -> ModelResponse:
            await asyncio.sleep(60)
            raise AssertionError

    slow = RoundRobinGroupChat([AssistantAgent("a", model_client=Slow())], max_time=0.2)
    assert (await slow.run(task="Task")).stop_reason.startswith("timeout")


async def test_a_stream_of_events_ends_with_the_result() -> None:
    """`run_stream` gives what happens as it happens, then the result."""
    team = RoundRobinGroupChat([bot("a", "two words"), bot("b", "b1"), bot("c")], max_turns=2)
    items = [item async for item in team.run_stream(task="Task")]
    assert isinstance(items[-1], TaskResult)
    kinds = [type(item) for item in items[:-1]]
    assert kinds == [
        *(MessageSent, SpeakerSelected, ModelText, ModelText, MessageSent),
        *(SpeakerSelected, ModelText, MessageSent, Ended),
    ]


async def test_closing_a_stream_cancels_the_run() -> None:
    """Whoever stops reading stops the run."""
    started, stopped = asyncio.Event(), asyncio.Event()

    class Hanging:
        async def create(self, messages: Any, *, tools: Any = (), stream: Any = None) -> ModelResponse:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            raise AssertionError

    stream = RoundRobinGroupChat([AssistantAgent("a", model_client=Hanging())]).run_stream(task="Task")
    async for event in stream:
        if isinstance(event, MessageSent):
            await started.wait()
            break
    await stream.aclose()
    assert stopped.is_set()


async def test_a_cancellation_token() -> None:
    """A token cancels a run at once, also one that begins later."""
    token = CancellationToken()

    class Cancels:
        async def create(self, messages: Any, *, tools: Any = (), stream: Any = None) -> ModelResponse:
            token.cancel()
            await asyncio.sleep(60)
            raise AssertionError

    team = RoundRobinGroupChat([AssistantAgent("a", model_client=Cancels())])
    task = asyncio.create_task(team.run(task="Task", cancellation_token=token))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert token.is_cancelled()
    later = asyncio.create_task(team.run(task="Task", cancellation_token=token))
    with pytest.raises(asyncio.CancelledError):
        await later


async def test_the_selectors_model_chooses() -> None:
    """The model names the next, not the one who spoke; a model that cannot choose is overruled."""
    chooser = ReplayChatCompletionClient(["b", "c", "hm", "hm"])
    team = SelectorGroupChat(
        [bot("a", "a1"), bot("b", "b1"), bot("c", "c1")], chooser, max_turns=3, max_selector_attempts=2
    )
    result = await team.run(task="Task")
    assert speakers(result) == ["user", "b", "c", "a"]
    assert "['a', 'c']" in chooser.calls[1][0].content
    assert "b: b1" in chooser.calls[1][0].content
    assert result.usage.requests == 7


async def test_functions_choose() -> None:
    """`selector_func` names the next or leaves it; `candidate_func` narrows; unknown names are refused."""
    model = ReplayChatCompletionClient([])
    names: list[Any] = ["c", None]
    team = SelectorGroupChat(
        [bot("a", "a1"), bot("b", "b1"), bot("c", "c1")],
        model,
        max_turns=2,
        selector_func=lambda messages: names.pop(0),
        candidate_func=lambda messages: ["b"],
    )
    assert speakers(await team.run(task="Task")) == ["user", "c", "b"]
    bad = SelectorGroupChat([bot("a"), bot("b")], model, selector_func=lambda messages: "stranger")
    with pytest.raises(ValueError, match="stranger"):
        await bad.run(task="Task")


async def test_swarm_hands_over() -> None:
    """The one who speaks goes on until it hands over; the others see the handoff; tools beside it are run."""
    looked: list[str] = []

    def look_up(what: str) -> str:
        """Look something up."""
        looked.append(what)
        return "found"

    a = bot("a", calls(("look_up", {"what": "x"}), ("transfer_to_b", {})), tools=[look_up], handoffs=["b"])
    b = bot(
        "b",
        "b1",
        calls(("ask_user", {})),
        handoffs=[Handoff(target="user", name="ask_user", message="Your turn")],
    )
    team = Swarm([a, b], HandoffTermination("user"))
    result = await team.run(task="Task")
    assert speakers(result) == ["user", "a", "b", "b"]
    assert looked == ["x"]
    assert result.messages[1].kind == "handoff"
    assert "Transferred to b" in result.messages[1].content
    assert (result.messages[-1].content, result.stop_reason) == (
        "Your turn",
        "handoff: b handed over to user",
    )
    model = b.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    assert [m.role for m in model.calls[0]] == ["system", "user", "user"]


async def test_a_handoff_to_nobody_ends_it() -> None:
    """A handoff out of the team ends the run with a reason; a next task goes on with who handed over."""
    a = bot("a", calls(("transfer_to_boss", {})), "thanks for the facts: 42", handoffs=["boss"])
    team = Swarm([a], max_turns=3)
    assert "not in the team" in (await team.run(task="Task")).stop_reason
    team.max_turns = 1
    assert speakers(await team.run(task="Answer")) == ["user", "a"]


async def test_code_in_a_team() -> None:
    """A CodeExecutorAgent runs what others wrote, of its sources alone, or says what is missing."""
    executor = ScriptedExecutor([done("1\n")])
    runner = CodeExecutorAgent("runner", executor)
    team = RoundRobinGroupChat([bot("coder", CODE, "no code here"), runner], max_turns=4)
    result = await team.run(task="Task")
    assert result.messages[2].content == "exitcode: 0 (execution succeeded)\nCode output: 1\n"
    assert result.messages[4].content.startswith("No code blocks found")
    assert executor.runs_ended == 1
    deaf = CodeExecutorAgent("deaf", ScriptedExecutor([]), sources=["somebody"])
    told = await RoundRobinGroupChat([bot("coder", CODE), deaf], max_turns=2).run(task="Task")
    assert told.messages[-1].content.startswith("No code blocks found")


async def test_a_user_proxy_in_a_team_asks_its_human() -> None:
    """It asks; code runs only where it was configured; exit ends; enter at a termination message ends."""
    ask, prompts = answers("do it", "exit")
    user = UserProxyAgent("me", input_func=ask)
    result = await RoundRobinGroupChat([bot("a", CODE, "a2"), user]).run(task="Task")
    assert [m.content for m in result.messages] == ["Task", CODE, "do it", "a2"]
    assert result.stop_reason == "human: exit was typed"
    assert "to a" in prompts[0]
    ask, prompts = answers("")
    executor = ScriptedExecutor([done()])
    user = UserProxyAgent("me", input_func=ask, code_execution_config={"executor": executor})
    result = await RoundRobinGroupChat([bot("a", CODE, "It is 1. TERMINATE"), user]).run(task="Task")
    assert result.messages[2].kind == "code"
    assert result.stop_reason == "termination message: from a"
    assert len(prompts) == 1


async def test_state_goes_on_in_another_team() -> None:
    """What `save_state` gave, as JSON, is taken up by a team made anew: transcript, counters, session."""
    executor = ScriptedExecutor([done()])
    executor.session_id = "s1"
    first = RoundRobinGroupChat([bot("a", CODE), CodeExecutorAgent("runner", executor)], max_turns=2)
    await first.run(task="Task")
    state = json.loads(json.dumps(first.save_state()))
    fresh = ScriptedExecutor([])
    a = bot("a", "It was 1. TERMINATE")
    second = RoundRobinGroupChat([a, CodeExecutorAgent("runner", fresh)], LastWordTermination())
    second.load_state(state)
    result = await second.run(task="And?")
    assert fresh.session_id == "s1"
    assert result.stop_reason.startswith("last_word")
    model = a.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    assert [m.content for m in model.calls[0][1:]][:2] == ["Task", CODE]
    damaged = [
        {**state, "transcript": {}},
        {**state, "transcript": {"messages": [3]}},
        {**state, "parties": 3},
    ]
    others = [{}, {**state, "version": 99}, {**state, "team": "other"}, {**state, "parties": {"x": {}}}]
    for wrong in (*damaged, *others):
        with pytest.raises(ValueError, match=r"state|Message"):
            second.load_state(wrong)


async def test_a_question_is_saved_and_answered_elsewhere() -> None:
    """An input function without an answer ends the run; another team goes on with one."""

    def nobody(prompt: str) -> str:
        raise InputPending(prompt)

    first = RoundRobinGroupChat([bot("a", "Shall I?"), UserProxyAgent("me", input_func=nobody)])
    result = await first.run(task="Task")
    assert result.pending is not None
    assert result.pending.agent == "me"
    assert result.stop_reason == "input_required: me waits for an answer"
    second = RoundRobinGroupChat(
        [bot("a", "Done. TERMINATE"), UserProxyAgent("me", input_func=nobody)], LastWordTermination()
    )
    second.load_state(json.loads(json.dumps(first.save_state())))
    done_with = await second.run(answer="yes")
    assert [m.content for m in done_with.messages] == ["Task", "Shall I?", "yes", "Done. TERMINATE"]


@pytest.mark.parametrize(
    ("participants", "options", "said"),
    [
        ([], {}, "needs participants"),
        ([bot("a"), bot("a")], {}, "different names"),
        ([bot("a")], {"max_turns": 0}, "max_turns"),
    ],
)
def test_wrong_teams_are_refused(participants: list[Any], options: dict[str, Any], said: str) -> None:
    """A team that cannot be is a ValueError that says what is right."""
    with pytest.raises(ValueError, match=said):
        RoundRobinGroupChat(participants, **options)


async def test_one_agent_alone_works_on_a_task() -> None:
    """An AssistantAgent can be given a task itself, and remembers it at the next."""
    a = bot("a", "a1", "a2")
    first = await a.run(task="Task")
    assert [m.content for m in first.messages] == ["Task", "a1"]
    assert first.stop_reason == "done: a has answered"
    second = [item async for item in a.run_stream(task="More")]
    assert isinstance(second[-1], TaskResult)
    model = a.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    assert [m.content for m in model.calls[1][1:]] == ["Task", "a1", "More"]
    again = bot("a", "a3")
    again.load_state(json.loads(json.dumps(a.save_state())), [])
    third = await again.run(task="Third")
    assert len(third.messages) == 2
    assert again.transcript is not None
    assert [m.content for m in again.transcript.messages] == ["Task", "a1", "More", "a2", "Third", "a3"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: RoundRobinGroupChat([bot("a")], "TERMINATE"), "termination_condition"),  # type: ignore[arg-type]
        (lambda: AssistantAgent("a", model_client="gpt-4"), "model client"),  # type: ignore[arg-type]
        (lambda: AssistantAgent("a", llm_config="gpt-4"), "config_list"),  # type: ignore[arg-type]
        (lambda: AssistantAgent("a", llm_config={"model": "m", "tools": []}), "register_function"),
        (lambda: bot("a").initiate_chat("b", message="x"), "recipient"),  # type: ignore[arg-type]
        (lambda: bot("a").initiate_chat(bot("b"), message="x", max_turn=1), "max_turn"),
        (lambda: RoundRobinGroupChat([bot("a")]).run_sync(task=""), "empty"),
    ],
)
def test_what_newcomers_type_is_refused_in_words(wrong: Callable[[], Any], said: str) -> None:
    """A wrong argument is told at once, with what is right."""
    with pytest.raises(ValueError, match=said):
        wrong()
