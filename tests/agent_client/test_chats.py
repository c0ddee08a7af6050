"""Several chats: sequences, graphs, nested ones, hooks, messages by hand, summaries, saved and resumed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agent_client import (
    ConversableAgent,
    GroupChat,
    GroupChatManager,
    InputPending,
    ReplayChatCompletionClient,
    UsageLimits,
    UserProxyAgent,
    a_initiate_chats,
    initiate_chats,
)
from agent_client.errors import ModelError
from tests.agent_client.parties import CODE, ScriptedExecutor, bot, done, pair


def user(name: str = "user", **options: Any) -> UserProxyAgent:
    """A user proxy that never asks and runs no code."""
    return UserProxyAgent(name, **({"human_input_mode": "NEVER", "code_execution_config": False} | options))


def asked(agent: Any, call: int) -> list[str]:
    """The contents that an agent's scripted model was given, without the system message."""
    model = agent.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    return [message.content for message in model.calls[call][1:]]


def test_chats_in_sequence_carry_over() -> None:
    """Each later chat is given the earlier ones' summaries below its message, those excluded left out."""
    me, a, b, c = user(), bot("a", "from a TERMINATE"), bot("b", "from b TERMINATE"), bot("c", "ok TERMINATE")
    common = {"silent": True, "max_turns": 1}
    excluded = "finished_chat_indexes_to_exclude_from_carryover"
    results = me.initiate_chats(
        [
            {"recipient": a, "message": "one", **common},
            {"recipient": b, "message": "two", "carryover": "given", **common},
            {
                "recipient": c,
                "message": "three",
                excluded: [0],
                **common,
            },
        ]
    )
    assert [r.summary for r in results] == ["from a", "from b", "ok"]
    assert asked(a, 0) == ["one"]
    assert asked(b, 0) == ["two\nContext: \ngiven\nfrom a"]
    assert asked(c, 0) == ["three\nContext: \nfrom b"]
    assert len(initiate_chats([{"sender": me, "recipient": bot("d", "x"), "message": "m", **common}])) == 1


async def test_chats_as_a_graph() -> None:
    """A chat begins when its prerequisites have ended; those that wait for nothing run at the same time."""
    both = asyncio.Barrier(2)

    common = {"silent": True, "max_turns": 1}
    ends = [bot(name, f"from {name}") for name in ("a", "b", "c")]
    for agent in ends[:2]:
        agent.register_reply(UserProxyAgent, _waits(both, f"from {agent.name}"))
    results = await a_initiate_chats(
        [
            {"chat_id": 1, "sender": user("u1"), "recipient": ends[0], "message": "one", **common},
            {"chat_id": 2, "sender": user("u2"), "recipient": ends[1], "message": "two", **common},
            {
                "chat_id": 3,
                "sender": user("u3"),
                "recipient": ends[2],
                "message": "three",
                "prerequisites": [1, 2],
                **common,
            },
        ]
    )
    assert sorted(results) == [1, 2, 3]
    assert asked(ends[2], 0) == ["three\nContext: \nfrom a\nfrom b"]


def _waits(barrier: asyncio.Barrier, text: str) -> Any:
    async def reply(recipient: Any, messages: Any, sender: Any, config: Any) -> tuple[bool, str]:
        await barrier.wait()
        return True, text

    return reply


async def test_wrong_graphs_are_refused_before_anything_runs() -> None:
    """A cycle, an unknown prerequisite, a chat without a recipient: one clear error, no chat begun."""
    a = bot("a")
    chat = {"sender": user(), "recipient": a, "message": "m"}
    for queue, said in (
        ([{**chat, "chat_id": 1, "prerequisites": [1]}], "cycle"),
        ([{**chat, "chat_id": 1, "prerequisites": [7]}], "unknown"),
        ([{**chat, "chat_id": 1, "prerequisites": [1]}, {**chat, "chat_id": 1}], "same chat_id"),
        ([{"sender": user(), "message": "m"}], "recipient"),
    ):
        with pytest.raises(ValueError, match=said):
            await a_initiate_chats(queue)
    assert asked_nothing(a)


def asked_nothing(agent: Any) -> bool:
    """Whether an agent's scripted model was never asked."""
    model = agent.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    return not model.calls


async def test_a_failure_in_a_graph_cancels_the_others() -> None:
    """The first failure is raised as it is."""
    hangs = bot("hangs")
    hangs.register_reply(UserProxyAgent, _waits(asyncio.Barrier(2), "never"))
    chat = {"sender": user(), "message": "m", "silent": True}
    with pytest.raises(ModelError, match="0 replies"):
        await a_initiate_chats(
            [
                {**chat, "recipient": hangs, "sender": user("u1"), "chat_id": 1},
                {**chat, "recipient": bot("fails"), "sender": user("u2"), "chat_id": 2},
                {**chat, "recipient": bot("waits"), "sender": user("u3"), "chat_id": 3, "prerequisites": [1]},
            ]
        )


def test_nested_chats() -> None:
    """A triggered agent holds chats of its own and replies with the last one's summary; they are metered."""
    me, writer = user(), bot("writer")
    critic, editor = bot("critic", "Too long."), bot("editor", "Short text. TERMINATE")
    writer.register_nested_chats(
        [
            {"recipient": critic, "max_turns": 1, "silent": True},
            {
                "recipient": editor,
                "message": lambda recipient, messages, sender, config: f"Mend: {messages[-1]['content']}",
                "max_turns": 1,
                "silent": True,
            },
        ],
        trigger=me,
    )
    result = me.initiate_chat(writer, message="A text", silent=True, max_turns=1)
    assert result.chat_history[1]["content"] == "Short text."
    assert asked(critic, 0) == ["A text"]
    assert asked(editor, 0) == ["Mend: A text\nContext: \nToo long."]
    assert result.usage.requests == 2


def test_a_budget_covers_nested_chats() -> None:
    """The outer run's limit ends it, though a nested chat made the calls."""
    me, writer = user(default_auto_reply="go on"), bot("writer")
    inner = bot("inner", *(f"reply {n}" for n in range(20)))
    writer.register_nested_chats([{"recipient": inner, "max_turns": 1, "silent": True}], trigger=me)
    result = me.initiate_chat(
        writer, message="Task", silent=True, usage_limits=UsageLimits(requests=3), stalled=False
    )
    assert result.stop_reason == "usage_limit: the limit of 3 model calls was reached"
    assert result.usage.requests == 3


def test_nested_sessions_end_with_the_outer_run() -> None:
    """An executor used in a nested chat is let go of once, when the outermost run ends."""
    me, outer = user(), bot("outer")
    inner, coder, executor = pair([CODE, "done TERMINATE"], [done()])
    outer.register_nested_chats(
        [{"sender": inner, "recipient": coder, "message": "code", "silent": True}], trigger=me
    )
    result = me.initiate_chat(outer, message="Task", silent=True, max_turns=1)
    assert result.summary == "done"
    assert executor.runs_ended == 1


def test_hooks() -> None:
    """Hooks change what is received, and what is sent; an unknown one is refused."""
    me, a = user(), bot("a", "first", "second")
    a.register_hook("process_last_received_message", lambda text: text + "!")
    a.register_hook("process_all_messages_before_reply", lambda messages: messages[-1:])
    a.register_hook(
        "process_message_before_send", lambda sender, message, recipient, silent: f"[{sender.name}] {message}"
    )
    states: list[int] = []
    a.register_hook("update_agent_state", lambda agent, messages: states.append(len(messages)))
    me._default = "go on"
    result = me.initiate_chat(a, message="Task", silent=True, max_turns=2)
    assert result.chat_history[1]["content"] == "[a] first"
    assert asked(a, 1) == ["go on!"]
    assert states == [1, 3]
    with pytest.raises(ValueError, match="process_last_received_message"):
        a.register_hook("nothing", print)


def test_messages_by_hand() -> None:
    """`send` says something without a reply; with `request_reply` the two go on."""
    me, a = user(), bot("a", "reply TERMINATE")
    me.send("note", a, silent=True)
    assert [m["content"] for m in a.chat_messages[me]] == ["note"]
    me.send({"content": "question"}, a, request_reply=True, silent=True)
    assert [m["content"] for m in me.chat_messages[a]] == ["note", "question", "reply TERMINATE"]


def test_a_model_reflects() -> None:
    """`reflection_with_llm` asks the model for the summary, metered; without any model it is refused."""
    me, a = user(), bot("a", "It is 42.", "The answer is 42.")
    result = me.initiate_chat(
        a, message="Task", silent=True, max_turns=1, summary_method="reflection_with_llm"
    )
    assert (result.summary, result.usage.requests) == ("The answer is 42.", 2)
    spent = me.initiate_chat(
        bot("b", "It is 42."),
        message="Task",
        silent=True,
        max_turns=1,
        summary_method="reflection_with_llm",
        usage_limits=UsageLimits(requests=1),
    )
    assert spent.summary == "It is 42."
    with pytest.raises(ValueError, match="model"):
        me.initiate_chat(
            ConversableAgent("c"), message="x", summary_method="reflection_with_llm", silent=True
        )


def test_remove_other_reply_funcs() -> None:
    """With it a registered function is all that an agent has."""
    me, a = user(), bot("a", "never")
    a.register_reply(UserProxyAgent, lambda *_, **__: (False, None), remove_other_reply_funcs=True)
    result = me.initiate_chat(a, message="Task", silent=True, max_turns=1)
    assert result.chat_history[1]["content"] == ""


def test_two_parties_of_one_name_are_refused() -> None:
    """Names say who spoke, so two agents of a chat need two."""
    with pytest.raises(ValueError, match="different names"):
        bot("a").initiate_chat(bot("a"), message="x", silent=True)


def test_a_chat_goes_on_in_another_process() -> None:
    """What `save_state` gave, as JSON, is taken up by agents made anew: transcript, counters, session."""
    me, a, executor = pair([CODE], [done()])
    executor.session_id = "s1"
    me.initiate_chat(a, message="Task", silent=True, max_turns=1)
    state = json.loads(json.dumps(me.save_state()))
    again, b, fresh = pair(["It was 1. TERMINATE"], [done("2\n")])
    with pytest.raises(ValueError, match="bot"):
        again.load_state(state, [])
    again.load_state(state, [b])
    assert fresh.session_id == "s1"
    result = again.resume_chat(b, silent=True)
    assert [m["content"] for m in result.chat_history] == [
        *("Task", CODE, "exitcode: 0 (execution succeeded)\nCode output: 2\n", "It was 1. TERMINATE")
    ]
    with pytest.raises(ValueError, match="resume"):
        user("fresh").resume_chat(b)


def test_a_question_is_saved_and_answered_elsewhere() -> None:
    """An input function without an answer ends the chat with the question; another process answers it."""

    def nobody(prompt: str) -> str:
        raise InputPending(prompt)

    me, a, _ = pair(["Shall I?"], human_input_mode="ALWAYS", input_func=nobody)
    result = me.initiate_chat(a, message="Task", silent=True)
    assert result.pending is not None
    assert "Provide feedback to bot" in result.pending.prompt
    assert result.stop_reason == "input_required: user waits for an answer"
    again, b, _ = pair(["Done"], human_input_mode="ALWAYS", input_func=nobody)
    again.load_state(json.loads(json.dumps(me.save_state())), [b])
    second = again.resume_chat(b, answer="yes", silent=True)
    assert [m["content"] for m in second.chat_history] == ["Task", "Shall I?", "yes", "Done"]
    assert second.human_input == ("yes",)
    assert second.pending is not None


def test_a_group_goes_on_in_another_process() -> None:
    """A group's chat is saved and resumed like any other."""

    def group(*replies: str) -> tuple[UserProxyAgent, GroupChatManager, ScriptedExecutor]:
        executor = ScriptedExecutor([done()])
        runner = UserProxyAgent(
            "runner", human_input_mode="NEVER", code_execution_config={"executor": executor}
        )
        me = user()
        members = [me, bot("a", *replies), runner]
        chat = GroupChat(members, max_round=2, speaker_selection_method="round_robin")
        return me, GroupChatManager(chat), executor

    me, manager, executor = group(CODE)
    executor.session_id = "s7"
    me.initiate_chat(manager, message="Task", silent=True)
    again, second, fresh = group("It is 1. TERMINATE")
    again.load_state(json.loads(json.dumps(me.save_state())), [second])
    second.groupchat.max_round = 5
    result = again.resume_chat(second, silent=True)
    assert fresh.session_id == "s7"
    assert [m["name"] for m in result.chat_history] == ["user", "a", "runner", "user", "a"]
