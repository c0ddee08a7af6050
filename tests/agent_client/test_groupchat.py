"""Group chats: who speaks next, transitions, rounds, tool calls, and who sees what."""

from __future__ import annotations

from typing import Any

import pytest

from agent_client import (
    ConversableAgent,
    GroupChat,
    GroupChatManager,
    ReplayChatCompletionClient,
    UserProxyAgent,
    register_function,
)
from agent_client.chat_events import ChatEvent, SpeakerSelected
from agent_client.groupchat.selection import filled, mentioned
from tests.agent_client.parties import CODE, ScriptedExecutor, answers, bot, calls, done


def user(**options: Any) -> UserProxyAgent:
    """A user proxy that never asks and runs no code."""
    options = {"human_input_mode": "NEVER", "code_execution_config": False} | options
    return UserProxyAgent("user", **options)


def speakers(result: Any) -> list[str]:
    """Who spoke, in order."""
    return [message["name"] for message in result.chat_history]


def test_round_robin_and_max_round() -> None:
    """Everyone in turn, and `max_round` counts messages, the first included."""
    me, a, b = user(), bot("a", "a1", "a2"), bot("b", "b1", "b2")
    group = GroupChat([me, a, b], max_round=6, speaker_selection_method="round_robin")
    result = me.initiate_chat(GroupChatManager(group), message="Task", silent=True)
    assert speakers(result) == ["user", "a", "b", "user", "a", "b"]
    assert result.stop_reason == "max_round: 6 messages were said"
    assert group.messages[1] == {"content": "a1", "role": "user", "name": "a"}
    manager = next(iter(a.chat_messages))
    assert [m["role"] for m in a.chat_messages[manager]][:3] == ["user", "assistant", "user"]


def test_code_is_run_by_whom_it_is_for() -> None:
    """An agent of the group that can run code runs what another wrote; the names reach the model."""
    executor = ScriptedExecutor([done("42\n")])
    runner = UserProxyAgent("runner", human_input_mode="NEVER", code_execution_config={"executor": executor})
    coder = bot("coder", CODE, "It is 42. TERMINATE")
    me = user()
    group = GroupChat([me, coder, runner], speaker_selection_method="round_robin")
    manager = GroupChatManager(group)
    result = me.initiate_chat(manager, message="Task", silent=True, max_turns=1)
    assert speakers(result)[:3] == ["user", "coder", "runner"]
    assert result.chat_history[2]["content"] == "exitcode: 0 (execution succeeded)\nCode output: 42\n"
    assert executor.runs_ended == 1


def test_auto_asks_the_model_for_a_name() -> None:
    """The manager's model names the next; twice wrong it is asked again, then the list decides."""
    chooser = ReplayChatCompletionClient(["b", "I think **a** should go.", "nobody", "both a and b", "none"])
    me, a, b = user(), bot("a", "a1", "a2"), bot("b", "b1", "b2")
    events: list[ChatEvent] = []
    group = GroupChat([me, a, b], max_round=4)
    manager = GroupChatManager(group, model_client=chooser)
    result = me.initiate_chat(manager, message="Task", silent=True, on_event=events.append)
    assert speakers(result) == ["user", "b", "a", "b"]
    assert [e.agent for e in events if isinstance(e, SpeakerSelected)] == ["b", "a", "b"]
    assert len(chooser.calls) == 5
    assert "no name of the list" in chooser.calls[3][-1].content
    assert "more than one name" in chooser.calls[4][-1].content
    assert "user" in chooser.calls[0][0].content
    assert result.usage.requests == 8


def test_auto_needs_a_model() -> None:
    """Without a model for the manager, "auto" is refused before anything is said."""
    me, a = user(), bot("a")
    with pytest.raises(ValueError, match="round_robin"):
        me.initiate_chat(GroupChatManager(GroupChat([me, a])), message="Task", silent=True)


def test_transitions() -> None:
    """Only allowed successors speak; a single one is not asked for; without successors the chat ends."""
    me, a, b, c = user(), bot("a", "a1"), bot("b", "b1"), bot("c", "c1")
    group = GroupChat(
        [me, a, b, c],
        allowed_or_disallowed_speaker_transitions={me: [b], b: ["c"], "c": []},
        speaker_transitions_type="allowed",
    )
    manager = GroupChatManager(group, model_client=ReplayChatCompletionClient([]))
    result = me.initiate_chat(manager, message="Task", silent=True)
    assert speakers(result) == ["user", "b", "c"]
    assert result.stop_reason == "no speaker: nobody may follow c"


def test_disallowed_transitions_and_repeats() -> None:
    """Disallowed successors never follow, and `allow_repeat_speaker=False` lets nobody speak twice."""
    me, a, b = user(), bot("a", "a1", "a2"), bot("b", "b1", "b2")
    group = GroupChat(
        [me, a, b],
        max_round=4,
        speaker_selection_method="random",
        allowed_or_disallowed_speaker_transitions={me: [me, b], a: [a, me], b: [b, me]},
        speaker_transitions_type="disallowed",
    )
    result = me.initiate_chat(GroupChatManager(group), message="Task", silent=True)
    assert speakers(result) == ["user", "a", "b", "a"]
    no_repeat = GroupChat([a, b], allow_repeat_speaker=False)
    assert [agent.name for agent in no_repeat.eligible("a")] == ["b"]
    assert [agent.name for agent in no_repeat.eligible("someone else")] == ["a", "b"]


def test_a_function_chooses() -> None:
    """A callable gives an agent, a method's name, or None to end it; it may be async."""
    me, a, b = user(), bot("a", "a1"), bot("b", "b1")
    given: list[Any] = [b, "round_robin", None]

    async def choose(last: Any, group: GroupChat) -> Any:
        assert last in group.agents
        return given.pop(0)

    group = GroupChat([me, a, b], speaker_selection_method=choose)
    result = me.initiate_chat(GroupChatManager(group), message="Task", silent=True)
    assert speakers(result) == ["user", "b", "user"]
    assert result.stop_reason.startswith("no speaker")
    bad = GroupChat([me, a, b], speaker_selection_method=lambda last, group: "poem")
    with pytest.raises(ValueError, match="poem"):
        me.initiate_chat(GroupChatManager(bad), message="Task", silent=True)


def test_a_human_chooses() -> None:
    """With "manual" it asks for a number or a name; enter takes the next, exit ends it."""
    ask, prompts = answers("3", "a", "", "exit")
    me, a, b = user(), bot("a", "a1", "a2"), bot("b", "b1", "b2")
    group = GroupChat([me, a, b], speaker_selection_method="manual")
    result = me.initiate_chat(GroupChatManager(group, input_func=ask), message="Task", silent=True)
    assert speakers(result) == ["user", "b", "a", "b"]
    assert result.stop_reason == "human: exit was typed"
    assert "1: user\n2: a\n3: b" in prompts[0]


def test_a_tool_call_goes_to_who_can_run_it() -> None:
    """Whoever's turn it would be, a call goes to an agent that has the tool; the caller gets the answer."""

    def add(x: int, y: int) -> int:
        """Add."""
        return x + y

    caller = bot("caller", calls(("add", {"x": 1, "y": 2})), "It is 3. TERMINATE")
    other, runner = bot("other", "never"), ConversableAgent("runner", human_input_mode="NEVER")
    register_function(add, caller=caller, executor=runner, description="Add.")
    me = user()
    group = GroupChat(
        [me, caller, other, runner],
        speaker_selection_method=lambda last, group: caller,
    )
    result = me.initiate_chat(GroupChatManager(group), message="Task", silent=True)
    assert speakers(result) == ["user", "caller", "runner", "caller"]
    assert result.chat_history[2]["tool_responses"][0]["content"] == "3"
    model = caller.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    assert [m.role for m in model.calls[1]] == ["system", "user", "assistant", "tool"]


def test_a_termination_message_ends_it_and_a_second_chat_starts_anew() -> None:
    """The last word TERMINATE of anyone ends it; the next chat begins without the old messages."""
    me, a = user(), bot("a", "done TERMINATE", "again TERMINATE", "third")
    group = GroupChat(
        [me, a], messages=[{"content": "before", "name": "a"}], speaker_selection_method="round_robin"
    )
    manager = GroupChatManager(group)
    first = me.initiate_chat(manager, message="Task TERMINATE", silent=True)
    assert [m["content"] for m in first.chat_history] == ["before", "Task TERMINATE", "done TERMINATE"]
    assert first.stop_reason == "termination message: from a"
    second = me.initiate_chat(manager, message="More", silent=True)
    assert [m["content"] for m in second.chat_history] == ["More", "again TERMINATE"]
    group.max_round = 2
    kept = me.initiate_chat(manager, message="And", silent=True, clear_history=False)
    assert [m["content"] for m in kept.chat_history][:3] == ["More", "again TERMINATE", "And"]


def test_introductions() -> None:
    """With `send_introductions` the agents know each other from the start."""
    me, a = user(), bot("a", "x TERMINATE", description="Knows maps.")
    group = GroupChat([me, a], speaker_selection_method="round_robin", send_introductions=True)
    result = me.initiate_chat(GroupChatManager(group), message="Task", silent=True)
    assert "a: Knows maps." in result.chat_history[0]["content"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"agents": []}, "needs agents"),
        ({"agents": [bot("a"), bot("a")]}, "different names"),
        ({"max_round": 0}, "max_round"),
        ({"speaker_selection_method": "poem"}, "speaker_selection_method"),
        ({"allowed_or_disallowed_speaker_transitions": {}}, "speaker_transitions_type"),
        (
            {
                "allowed_or_disallowed_speaker_transitions": {"a": ["stranger"]},
                "speaker_transitions_type": "allowed",
            },
            "stranger",
        ),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], said: str) -> None:
    """A group that cannot be is a ValueError that says what is right."""
    with pytest.raises(ValueError, match=said):
        GroupChat(**({"agents": [bot("a"), bot("b")]} | options))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("coder", ["coder"]),
        ("**coder**", ["coder"]),
        ("The next speaker is coder.", ["coder"]),
        ("coder or critic", ["coder", "critic"]),
        ("code_reviewer", ["code_reviewer"]),
        ("code reviewer please", ["code_reviewer"]),
        (r"code\_reviewer!", ["code_reviewer"]),
        ("encoder", []),
        ("coder-2", []),
        ("", []),
    ],
)
def test_names_in_a_models_answer(text: str, found: list[str]) -> None:
    """Names are found as words, however they are decorated; parts of other words are none."""
    assert mentioned(text, ["coder", "critic", "code_reviewer"]) == found


def test_templates_keep_other_braces() -> None:
    """Only the known fields are filled in, and braces in what is filled in stay."""
    assert (
        filled("{roles} {x} {agentlist}", {"roles": "{agentlist}", "agentlist": "b"}) == "{agentlist} {x} b"
    )
