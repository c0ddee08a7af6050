"""The two-party conversation: AutoGen's semantics, bounds, events, cancelling."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent_client import (
    AssistantAgent,
    Console,
    ConversableAgent,
    Message,
    ModelResponse,
    RemoteCodeExecutor,
    ReplayChatCompletionClient,
    Usage,
    UsageLimits,
    UserProxyAgent,
)
from agent_client.chat_events import ChatEvent, CodeOutput, Ended, MessageSent, ModelText
from agent_client.errors import ModelError
from tests.agent_client.fake_service import HANG, KEY, FakeService
from tests.agent_client.parties import CODE, answers, done, pair


def test_the_loop() -> None:
    """Code fails, is mended, succeeds, and the word TERMINATE ends it; the replies read as in AutoGen."""
    user, bot, executor = pair([CODE, CODE, "It is 1.\n\nTERMINATE"], [done("KeyError\n", 1), done("1\n")])
    result = user.initiate_chat(bot, message="Task", silent=True)
    assert [m["content"] for m in result.chat_history] == [
        "Task",
        CODE,
        "exitcode: 1 (execution failed)\nCode output: KeyError\n",
        CODE,
        "exitcode: 0 (execution succeeded)\nCode output: 1\n",
        "It is 1.\n\nTERMINATE",
    ]
    assert [(m["role"], m["name"]) for m in result.chat_history[:2]] == [
        ("assistant", "user"),
        ("user", "bot"),
    ]
    assert result.summary == "It is 1."
    assert result.stop_reason == "termination message: from bot"
    assert result.usage.requests == 3
    assert executor.runs_ended == 1
    assert [b.code for b in executor.given[0]] == ["print(1)"]
    assert bot.chat_messages[user][0]["role"] == "user"
    assert user.last_message(bot) == result.chat_history[-1]


def test_the_model_sees_its_own_side() -> None:
    """The model gets the system message, then its own words as assistant and the others' as user."""
    user, bot, _ = pair([CODE, "TERMINATE"], [done()])
    model = bot.model_client
    assert isinstance(model, ReplayChatCompletionClient)
    user.initiate_chat(bot, message="Task", silent=True)
    assert [m.role for m in model.calls[1]] == ["system", "user", "assistant", "user"]


def test_the_tasks_own_words_never_end_it() -> None:
    """A task that ends with TERMINATE is still worked on."""
    user, bot, _ = pair(["ok TERMINATE"])
    result = user.initiate_chat(bot, message="Do it, then say TERMINATE", silent=True)
    assert len(result.chat_history) == 2


@pytest.mark.parametrize("turns", [1, 2])
def test_max_turns_counts_round_trips(turns: int) -> None:
    """`max_turns=n` is n messages of each."""
    user, bot, _ = pair(["a", "b", "c"])
    result = user.initiate_chat(bot, message="Task", max_turns=turns, silent=True)
    assert len(result.chat_history) == 2 * turns
    assert result.stop_reason.startswith("max_turns")


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_auto_replies_are_counted(limit: int) -> None:
    """`max_consecutive_auto_reply=n` allows n auto-replies, 0 none at all; a second chat starts anew."""
    user, bot, _ = pair(["a1", "b2", "c3"] * 3, max_consecutive_auto_reply=limit)
    for _ in range(2):
        result = user.initiate_chat(bot, message="Task", silent=True)
        assert len(result.chat_history) == 2 + 2 * limit
        assert result.stop_reason.startswith("max_consecutive_auto_reply")


def test_no_reply_ends_it() -> None:
    """A reply of None ends the chat."""
    user, bot, _ = pair(["a"], default_auto_reply=None)
    assert user.initiate_chat(bot, message="Task", silent=True).stop_reason.startswith("no reply")


def test_human_words_take_precedence_over_code() -> None:
    """ALWAYS asks at each message; words are sent instead of running code, "" runs it, exit stops."""
    ask, prompts = answers("rather this", "", "exit")
    user, bot, executor = pair([CODE, CODE, CODE], [done()], human_input_mode="ALWAYS", input_func=ask)
    result = user.initiate_chat(bot, message="Task", silent=True)
    assert result.chat_history[2]["content"] == "rather this"
    assert result.chat_history[4]["content"].startswith("exitcode: 0")
    assert len(executor.given) == 1
    assert result.human_input == ("rather this", "", "exit")
    assert result.stop_reason == "human: exit was typed"
    assert len(prompts) == 3


def test_terminate_mode_asks_at_the_end() -> None:
    """TERMINATE asks only at a termination message; words go on, nothing stops."""

    async def ask(prompt: str) -> str:
        return lines.pop(0)

    lines = ["one more", ""]
    user, bot, _ = pair(
        [CODE, "x TERMINATE", "y TERMINATE"], [done()], human_input_mode="TERMINATE", input_func=ask
    )
    result = user.initiate_chat(bot, message="Task", silent=True)
    assert result.human_input == ("one more", "")
    assert len(result.chat_history) == 6


def test_no_keyboard_is_an_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can answer, the conversation ends instead of failing."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    user, bot, _ = pair(["a"], human_input_mode="ALWAYS")
    assert user.initiate_chat(bot, message="Task", silent=True).stop_reason.startswith("human")


def test_input_is_asked_on_the_calling_thread() -> None:
    """Human input and printing happen on the thread that called, where notebooks expect them."""
    threads: list[threading.Thread] = []

    def ask(prompt: str) -> str:
        threads.append(threading.current_thread())
        return "exit"

    user, bot, _ = pair(["a"], human_input_mode="ALWAYS", input_func=ask)
    user.initiate_chat(bot, message="Task", silent=True)
    assert threads == [threading.main_thread()]


async def test_inside_a_running_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """The blocking form works where a loop is running, and the async one beside it."""
    user, bot, _ = pair([CODE, "TERMINATE"], [done()])
    user.initiate_chat(bot, message="Task")
    out = capsys.readouterr().out
    assert out.startswith("user (to bot):\n\nTask\n")
    assert "[user] live\n" in out
    assert ">>>>>>>> EXECUTING CODE BLOCK (inferred language is python)..." in out
    user, bot, _ = pair(["TERMINATE"])
    assert (await user.a_initiate_chat(bot, message="Task", silent=True)).usage.requests == 1


def test_registered_replies_come_first() -> None:
    """A registered function stands before all others, and may make blocking calls itself."""
    user, bot, _ = pair(["never"])
    inner = pair(["inner TERMINATE"])

    def reply(recipient: Any, messages: list[dict[str, Any]], sender: Any, config: Any) -> tuple[bool, Any]:
        assert (recipient, sender, config) == (bot, user, {"c": 1})
        result = inner[0].initiate_chat(inner[1], message=messages[-1]["content"], silent=True)
        return True, {"content": result.summary + " TERMINATE"}

    bot.register_reply([UserProxyAgent, None], reply, config={"c": 1})
    result = user.initiate_chat(bot, message="Task", silent=True)
    assert result.chat_history[1]["content"] == "inner TERMINATE"


def test_generate_reply() -> None:
    """A single reply can be had without a chat."""
    bot = AssistantAgent("bot", ReplayChatCompletionClient(["hello"]))
    assert bot.generate_reply(messages=[{"role": "user", "content": "hi"}]) == "hello"
    silent = ConversableAgent("silent", human_input_mode="NEVER", default_auto_reply=None)
    assert silent.generate_reply(messages=[{"role": "user", "content": "hi"}]) is None


def test_last_n_messages() -> None:
    """Code is taken from the newest message that has any, since the agent last spoke or among n."""
    from agent_client.agents.replies import blocks_to_run

    code, text, own = Message(content=CODE), Message(content="x"), Message(content=CODE, role="assistant")
    assert blocks_to_run([code, text])
    assert blocks_to_run([own, text]) == []
    assert blocks_to_run([code, text], 1) == []
    assert blocks_to_run([code, text], 2)
    assert blocks_to_run([]) == []


def test_bounds_end_it_and_say_so() -> None:
    """Model calls, tokens, cost and time are bounded, over all agents, and the reason is told."""
    for limits, reason in (
        (UsageLimits(requests=2), "2 model calls"),
        (UsageLimits(tokens=50), "50 tokens"),
        (UsageLimits(cost=0.3), "0.3 in cost"),
    ):
        used = Usage(requests=1, prompt_tokens=20, completion_tokens=10, cost=0.2)
        replies = [ModelResponse(content=f"x{n}", usage=used, model="m") for n in range(9)]
        user, bot, executor = pair(replies)
        result = user.initiate_chat(bot, message="Task", silent=True, usage_limits=limits)
        assert reason in result.stop_reason
        assert result.usage.requests == 2
        assert result.cost["usage_including_cached_inference"]["total_cost"] == pytest.approx(0.4)
        assert executor.runs_ended == 1


def test_time_is_bounded() -> None:
    """A run that takes too long ends with what was said so far."""

    class Slow:
        async def create(self, messages: Any, *, tools: Any = (), stream: Any = None) -> ModelResponse:
            await asyncio.sleep(60)
            raise AssertionError

    user, _, executor = pair([])
    bot = AssistantAgent("bot", model_client=Slow())
    result = user.initiate_chat(bot, message="Task", silent=True, max_time=0.2)
    assert result.stop_reason.startswith("timeout")
    assert len(result.chat_history) == 1
    assert executor.runs_ended == 1


def test_a_failing_model_is_raised_and_sessions_close() -> None:
    """A model's failure is raised to the caller, after everything was let go."""
    user, bot, executor = pair([])
    with pytest.raises(ModelError, match="0 replies"):
        user.initiate_chat(bot, message="Task", silent=True)
    assert executor.runs_ended == 1


def test_events() -> None:
    """Everything is an event, in order: what the model writes, messages, output, the end."""
    user, bot, _ = pair([CODE, "TERMINATE"], [done()])
    events: list[ChatEvent] = []
    user.initiate_chat(bot, message="Task", silent=True, on_event=events.append)
    kinds = [type(e) for e in events]
    assert kinds[:2] == [MessageSent, ModelText]
    assert kinds[-1] is Ended
    assert "".join(e.text for e in events if isinstance(e, ModelText)) == CODE + "TERMINATE"
    assert CodeOutput(agent="user", text="live\n", stream="stdout") in events


def test_console_prints_nothing_dangerous() -> None:
    """Model text, names and replies reach the terminal without control sequences."""
    out = io.StringIO()
    console = Console(file=out, colours=True)
    evil = "\x1b]0;x\x07a\x1b[2J\x1b[31mred"
    console(ModelText(agent="bot", recipient="user\x1b[2J", text="\x1b]0;"))
    console(ModelText(agent="bot", recipient="user", text="title\x07shown"))
    console(MessageSent(sender="bot", recipient="user", message=Message(content="x")))
    console(MessageSent(sender="user", recipient="bot", message=Message(content=evil)))
    console(Ended(reason=evil, usage=Usage()))
    text = out.getvalue()
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "shown" in text
    plain = io.StringIO()
    Console(file=plain, colours=False)(MessageSent(sender="u", recipient="b", message=Message(content=evil)))
    assert "\x1b" not in plain.getvalue()


def test_history_can_go_on() -> None:
    """With `clear_history=False` the next chat goes on; by default it starts anew."""
    user, bot, _ = pair(["a TERMINATE", "b TERMINATE", "c TERMINATE"])
    user.initiate_chat(bot, message="1", silent=True)
    assert len(user.initiate_chat(bot, message="2", silent=True, clear_history=False).chat_history) == 4
    assert len(user.initiate_chat(bot, message="3", silent=True).chat_history) == 2


def test_openings_and_summaries_may_be_computed() -> None:
    """The opening message may be a dict or a callable with context, the summary a callable."""
    user, bot, _ = pair(["TERMINATE"] * 2)
    result = user.initiate_chat(
        bot,
        message=lambda sender, recipient, context: f"{sender.name}>{recipient.name}:{context['x']}",
        summary_method=lambda sender, recipient, args: f"{len(sender.chat_messages[recipient])}{args['y']}",
        summary_args={"y": "!"},
        x=1,
        silent=True,
    )
    assert (result.chat_history[0]["content"], result.summary) == ("user>bot:1", "2!")
    assert user.initiate_chat(bot, message={"content": "hi"}, silent=True).chat_history[0]["content"] == "hi"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: UserProxyAgent("u", human_input_mode="SOMETIMES"),  # type: ignore[arg-type]
        lambda: UserProxyAgent("u", code_execution_config={"workdir": "x"}),
        lambda: UserProxyAgent("u", code_execution_config={"executor": 3}),
        lambda: UserProxyAgent("u", code_execution_config={"last_n_messages": 0}),
        lambda: AssistantAgent("a", llm_config={"config_list": []}),
        lambda: AssistantAgent("a", llm_config={"model": "m", "api_type": "bedrock"}),
        lambda: AssistantAgent(
            "a", ReplayChatCompletionClient([]), model_client=ReplayChatCompletionClient([])
        ),
        lambda: AssistantAgent(""),
        lambda: pair([])[0].initiate_chat(pair([])[1], message="x", max_turns=0),
        lambda: pair([])[0].initiate_chat(pair([])[1], message="x", summary_method="poem"),
    ],
)
def test_wrong_arguments_are_refused_early(wrong: Callable[[], Any]) -> None:
    """A wrong argument is a ValueError that says what is right, before anything runs."""
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        wrong()


def test_with_the_remote_executor(fake: FakeService) -> None:
    """The loop runs over the service, and its session is closed at the end."""
    executor = RemoteCodeExecutor(base_url=fake.url, api_key=KEY)
    user, bot, _ = pair([CODE, "TERMINATE"], code_execution_config={"executor": executor})
    result = user.initiate_chat(bot, message="Task", silent=True)
    assert result.chat_history[2]["content"] == "exitcode: 0 (execution succeeded)\nCode output: print(1)\n"
    assert fake.sessions["s1"]["state"] == "closed"


async def test_cancelling_a_run(fake: FakeService) -> None:
    """Cancelling stops the code at once and closes the session."""
    fake.script = lambda _: [("stdout", {"text": "x"}), (HANG, {})]
    executor = RemoteCodeExecutor(base_url=fake.url, api_key=KEY)
    user, bot, _ = pair([CODE], code_execution_config={"executor": executor})
    printed = asyncio.Event()

    def listen(event: ChatEvent) -> None:
        if isinstance(event, CodeOutput):
            printed.set()

    task = asyncio.create_task(user.a_initiate_chat(bot, message="Task", silent=True, on_event=listen))
    await asyncio.wait_for(printed.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(fake.left.wait, 20)
    assert fake.sessions["s1"]["state"] == "closed"


def test_interrupting_the_blocking_form(fake: FakeService) -> None:
    """Ctrl-C in a blocking chat stops the code, closes the session and is raised."""
    fake.script = lambda _: [("stdout", {"text": "x"}), (HANG, {})]
    executor = RemoteCodeExecutor(base_url=fake.url, api_key=KEY)

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            if "x" in text and "[user]" in text:
                raise KeyboardInterrupt
            return len(text)

    user, bot, _ = pair([CODE], code_execution_config={"executor": executor})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", Interrupting())
        with pytest.raises(KeyboardInterrupt):
            user.initiate_chat(bot, message="Task")
    assert fake.left.wait(20)
    assert fake.sessions["s1"]["state"] == "closed"
