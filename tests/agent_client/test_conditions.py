"""What ends a run of many parties: each condition alone, combined, and which turns count as idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from agent_client.conditions import (
    Condition,
    ExternalTermination,
    FunctionalTermination,
    FunctionCallTermination,
    HandoffTermination,
    LastWordTermination,
    MaxMessageTermination,
    Progress,
    SourceMatchTermination,
    Stalled,
    StopMessageTermination,
    TextMentionTermination,
    TextMessageTermination,
    TimeoutTermination,
    TokenUsageTermination,
)
from agent_client.courtesy import is_courtesy
from agent_client.messages import Artifact, Message, ToolCall, ToolResponse
from agent_client.usage import Usage


class Token:
    """Stands for a run."""


def said(content: str = "", name: str = "writer", **fields: object) -> Message:
    """A message of a run."""
    return Message(content=content, name=name, **fields)  # type: ignore[arg-type]


def after(*messages: Message, task: Sequence[Message] = (), run: object = None, **fields: object) -> Progress:
    """A run in which these messages were said since the task."""
    return Progress(task=task, messages=list(messages), run=run, **fields)  # type: ignore[arg-type]


ANSWER = ToolResponse(call_id="1", name="approve", content="done")
CALL = ToolCall(id="1", name="approve")


@pytest.mark.parametrize(
    ("condition", "progress", "reason"),
    [
        (MaxMessageTermination(2), after(said(), task=[said()]), "max_messages: 2 messages"),
        (MaxMessageTermination(3), after(said(), task=[said()]), None),
        (MaxMessageTermination(4), after(said(inner=[said(), said()]), task=[said()]), None),
        (
            MaxMessageTermination(4, True),
            after(said(inner=[said(), said()]), task=[said()]),
            "max_messages: 4",
        ),
        (
            TextMentionTermination("YES"),
            after(said("No."), said("Well, YES.", "critic")),
            "text_mention: 'YES' was",
        ),
        (TextMentionTermination("YES"), after(said("yes"), task=[said("Say YES")]), None),
        (TextMentionTermination("YES", sources=["critic"]), after(said("YES")), None),
        (
            TextMentionTermination("YES", ["critic"]),
            after(said("YES", "critic")),
            "text_mention: 'YES' was said by critic",
        ),
        (LastWordTermination(), after(said("All done. **TERMINATE**")), "last_word: "),
        (LastWordTermination(), after(said("I shall say TERMINATE later")), None),
        (StopMessageTermination(), after(said(kind="stop")), "stop_message: writer"),
        (StopMessageTermination(), after(said("stop")), None),
        (TextMessageTermination(), after(said("hi")), "text_message: writer"),
        (TextMessageTermination(), after(said("hi", kind="human")), "text_message: writer"),
        (TextMessageTermination(), after(task=[said("hi")]), None),
        (TextMessageTermination("critic"), after(said("hi")), None),
        (TextMessageTermination("critic"), after(said("hi"), said("ho", "critic")), "text_message: critic"),
        (TextMessageTermination(), after(said("x", tool_calls=[CALL])), None),
        (TextMessageTermination(), after(said("x", tool_responses=[ANSWER])), None),
        (TextMessageTermination(), after(said("x", kind="code")), None),
        (SourceMatchTermination(["critic"]), after(said(), task=[said("", "critic")]), None),
        (SourceMatchTermination(["critic"]), after(said("", "critic"), said()), "source_match: critic"),
        (
            HandoffTermination("user"),
            after(said(kind="handoff", target="user")),
            "handoff: writer handed over to user",
        ),
        (HandoffTermination("user"), after(said(kind="handoff", target="critic")), None),
        (HandoffTermination("user"), after(said("user")), None),
        (FunctionCallTermination("approve"), after(said(tool_responses=[ANSWER])), "function_call: writer"),
        (
            FunctionCallTermination("approve"),
            after(said(inner=[said(tool_responses=[ANSWER])])),
            "function_call: ",
        ),
        (FunctionCallTermination("approve"), after(said("approve", tool_calls=[CALL])), None),
        (FunctionCallTermination("refuse"), after(said(tool_responses=[ANSWER])), None),
        (
            TokenUsageTermination(10),
            after(usage=Usage(prompt_tokens=6, completion_tokens=4)),
            "token_usage: 10 total",
        ),
        (TokenUsageTermination(11), after(usage=Usage(prompt_tokens=6, completion_tokens=4)), None),
        (
            TokenUsageTermination(max_prompt_token=6),
            after(usage=Usage(prompt_tokens=6)),
            "token_usage: 6 prompt",
        ),
        (
            TokenUsageTermination(99, None, 5),
            after(usage=Usage(completion_tokens=5)),
            "token_usage: 5 completion",
        ),
        (TimeoutTermination(1.5), after(elapsed=1.5), "timeout: 1.5 of 1.5 seconds"),
        (TimeoutTermination(2), after(elapsed=1.9), None),
        (
            FunctionalTermination(lambda messages: messages[-1].content == "x"),
            after(said("x")),
            "functional: ",
        ),
        (FunctionalTermination(lambda messages: len(messages) > 1), after(said("x"), task=[said()]), None),
    ],
)
async def test_condition(condition: Condition, progress: Progress, reason: str | None) -> None:
    """A condition holds for what it is about, with a reason that starts with its stable word."""
    found = await condition.check(progress)
    assert found is None if reason is None else found is not None and found.startswith(reason)


async def test_an_async_function_decides() -> None:
    """A FunctionalTermination awaits an async function and names it."""

    async def enough(messages: Sequence[Message]) -> bool:
        return len(messages) == 2

    condition = FunctionalTermination(enough)
    assert await condition.check(after(said())) is None
    assert await condition.check(after(said(), said())) == "functional: enough said so"


async def test_and_remembers_what_was_said_earlier() -> None:
    """`&` holds as soon as both sides have come true, in whatever order, and joins the reasons."""
    both = TextMentionTermination("OK") & MaxMessageTermination(3)
    run, messages = Token(), [said("OK"), said("well"), said("so")]
    got = [await both.check(after(*messages[:n], run=run)) for n in (1, 2, 3)]
    assert got == [None, None, "text_mention: 'OK' was said by writer; max_messages: 3 messages"]


async def test_nested_combinations() -> None:
    """Combinations combine, and `|` gives every reason there is."""
    deep = (StopMessageTermination() | TextMentionTermination("a")) & (
        TextMentionTermination("b") | MaxMessageTermination(9)
    )
    assert await deep.check(after(said("a"))) is None
    reason = await deep.check(after(said("a"), said("b", kind="stop")))
    assert reason is not None
    assert [part.split(":")[0] for part in reason.split("; ")] == [
        "stop_message",
        "text_mention",
        "text_mention",
    ]


def test_only_conditions_combine() -> None:
    """Combining with something else says what is wrong."""
    with pytest.raises(TypeError, match="combines with a condition, not with 3"):
        MaxMessageTermination(1) | 3  # type: ignore[operator]


def test_repr_is_what_one_would_write() -> None:
    """A combination reads like the expression that made it."""
    shown = repr(MaxMessageTermination(5) | TextMentionTermination("x", ["a"]) & Stalled())
    assert shown == (
        "(MaxMessageTermination(max_messages=5, include_agent_event=False)"
        " | (TextMentionTermination(text='x', sources=('a',)) & Stalled(turns=2)))"
    )


@pytest.mark.parametrize(
    ("make", "right"),
    [
        (lambda: MaxMessageTermination(0), "max_messages is a whole number from 1"),
        (lambda: MaxMessageTermination(True), "max_messages is a whole number"),
        (lambda: MaxMessageTermination("5"), "not '5'"),
        (lambda: TextMentionTermination(""), "text is a text that is not empty"),
        (
            lambda: TextMentionTermination("x", sources="critic"),
            'sources is a list of names such as \\["critic"\\]',
        ),
        (lambda: TextMessageTermination(""), "source is a text"),
        (lambda: SourceMatchTermination([]), "sources is a list of names"),
        (lambda: SourceMatchTermination([3]), "sources is a list of names"),
        (lambda: HandoffTermination(None), "target is a text"),
        (lambda: FunctionCallTermination(""), "function_name is a text"),
        (TokenUsageTermination, "give max_total_token, max_prompt_token or"),
        (lambda: TokenUsageTermination(max_prompt_token=-1), "max_prompt_token is a whole number from 1"),
        (lambda: TimeoutTermination(0), "timeout_seconds is a number of seconds above 0"),
        (lambda: TimeoutTermination("5"), "timeout_seconds is a number of seconds above 0"),
        (lambda: TimeoutTermination(float("nan")), "timeout_seconds is a number of seconds above 0"),
        (lambda: FunctionalTermination("x"), "func is a function"),
        (lambda: Stalled(turns=0), "turns is a whole number from 1"),
    ],
)
def test_wrong_arguments_are_refused(make: object, right: str) -> None:
    """A condition that could never mean anything is refused with what is right."""
    with pytest.raises(ValueError, match=right):
        make()  # type: ignore[operator]


async def test_external_needs_no_reset() -> None:
    """`set` ends the run that asks next, for good, and no later one."""
    external = ExternalTermination()
    first, second = Token(), Token()
    assert await external.check(after(run=first)) is None
    thread = threading.Thread(target=external.set)
    thread.start()
    thread.join()
    assert not external.terminated
    assert await external.check(after(run=first)) == "external: the run was ended from outside"
    assert external.terminated
    assert await external.check(after(said(), run=first)) is not None
    assert await external.check(after(run=second)) is None
    assert not external.terminated


async def test_external_inside_combinations() -> None:
    """In `&` the mark stays until the other side holds; in `|` it does not outlive a run that ended."""
    external, run = ExternalTermination(), Token()
    external.set()
    both = external & MaxMessageTermination(2)
    assert await both.check(after(said(), run=run)) is None
    assert await both.check(after(said(), said(), run=run)) is not None
    external.set()
    either = MaxMessageTermination(1) | external
    assert await either.check(after(said(), run=run)) is not None
    assert await either.check(after(run=Token())) is None


async def test_runs_share_a_condition() -> None:
    """One condition serves several runs at once: each is judged by its own messages."""
    condition = TextMentionTermination("x") | Stalled()
    one, two = Token(), Token()
    assert await condition.check(after(said("x"), run=one)) is not None
    assert await condition.check(after(said("y"), run=two)) is None
    assert await condition.check(after(said("x"), said("z"), run=one)) is not None
    assert await condition.check(after(said("y"), said("z"), run=two)) is None


async def test_a_long_run_stays_cheap() -> None:
    """Asking after each of 500 messages, more than a team may say, takes under a second in all."""
    texts = [said(f"Line {n} of a longer text that goes on and on, " * 8) for n in range(500)]
    condition = TextMentionTermination("never") | Stalled() | FunctionCallTermination("never")
    run, messages = Token(), []
    began = time.process_time()
    for text in texts:
        messages.append(text)
        assert await condition.check(Progress(task=(), messages=messages, run=run)) is None
    assert time.process_time() - began < 1


COURTESIES = [
    "",
    "  \n",
    "👍",
    "Thank you!",
    "You're welcome! Let me know if you need anything else.",
    "Great, goodbye",
    "You are most welcome! Have a wonderful day ahead!",
    "Thanks a lot for your help, Alice!",
    "It was a pleasure working with you. Take care!",
    "I'm glad I could help! If you have any more questions, feel free to ask.",
    "You\u2019re welcome! Don\u2019t hesitate to reach out if you need further assistance.",
    "Is there anything else I can help you with?",
    "No, thank you. That will be all.",
    "Sounds good!",
    "Happy to help. Happy coding!",
    "Okay, great.",
    "Agreed.",
    "Likewise, thank you and goodbye!",
    "Vielen Dank für deine Hilfe!",
    "Gern geschehen! Wenn du noch Fragen hast, melde dich jederzeit.",
    "Auf Wiedersehen!",
    "Danke, einen schönen Tag noch!",
    "Merci beaucoup !",
    "De rien, bonne journée !",
    "Je vous en prie. Au revoir !",
    "¡Muchas gracias!",
    "De nada, ¡hasta luego!",
    "谢谢！",  # noqa: RUF001
    "不客气，如果还有其他问题，随时告诉我。",  # noqa: RUF001
    "好的，再见！",  # noqa: RUF001
]
SUBSTANCE = [
    "42",
    "yes",
    "No.",
    "Paris",
    "Thanks, here is the data: 1,2,3",
    "Thanks! Data: a, b",
    "Great, I will now write the parser.",
    "Thank you. The answer is Paris.",
    "Great, please deploy it now",
    "Let me check.",
    "Thank you! Could you help me with my taxes?",
    "Thanks, but it does not work.",
    "I need help.",
    "Approved.",
    "Great, so x = y",
    "Welcome to the jungle",
    "Perfect numbers are equal to the sum of their divisors",
    "Okay, then sort the list and remove duplicates",
    "Can you look at it again?",
    "Thank you for all the questions, and I looked at each of them so that we know what to do: first of all",
    "Thank you " * 13,
    "Danke, aber das ist falsch.",
    "Danke, bitte schreibe den Bericht.",
    "Merci, mais il faut corriger la fonction.",
    "谢谢，答案是巴黎。",  # noqa: RUF001
    "你的",
    "Sure, the capital of France is Paris.",
    "Great question! Photosynthesis turns light into sugar.",
    "I agree with plan B, start the migration",
]


@pytest.mark.parametrize("text", COURTESIES)
def test_is_courtesy(text: str) -> None:
    """Thanks, agreement and farewells in a few words are courtesy."""
    assert is_courtesy(text)


@pytest.mark.parametrize("text", SUBSTANCE)
def test_is_no_courtesy(text: str) -> None:
    """What answers, asks or announces something is none, however polite."""
    assert not is_courtesy(text)


def turns(*texts: str) -> list[Message]:
    """Two agents in turn."""
    return [said(text, ("ann", "bob")[n % 2]) for n, text in enumerate(texts)]


BLOCK = "Thank you!\n```python\nprint(1)\n```"


@pytest.mark.parametrize(
    ("messages", "ends_at"),
    [
        (turns("The sum is 5.", "Thank you!", "You're welcome!", "Bye!"), 3),
        (turns("", ""), 2),
        (turns("", "The sum is 5.", "", "The product is 6."), None),
        (turns("42", "yes"), None),
        (turns("42", "yes", "42", "Yes!"), 4),
        (turns("Ping", "Pong", "ping...", "PONG"), 4),
        (turns("same", "same"), None),
        (turns("-1", "<", "1", ">"), None),
        (turns("1.5", "a", "15", "b"), None),
        (turns("Thank you!", "The sum is 5.", "Bye!"), None),
        (turns(BLOCK, "Thanks!", BLOCK, "Thanks!", BLOCK), None),
        ([said("Bye", kind="human"), said("bye", kind="human")], None),
        ([said("", kind="code"), said("", kind="code")], None),
        ([said("", kind="handoff", target="x"), said("", kind="handoff", target="y")], None),
        ([said("", tool_calls=[CALL]), said("", tool_responses=[ANSWER])], None),
        ([said("Thanks", inner=[said(tool_calls=[CALL])])] * 3, None),
        ([said("Thanks", artifacts=[Artifact(name="a.png")])] * 3, None),
        ([said("", parts=[{"type": "image_url"}])] * 3, None),
    ],
)
async def test_stalled(messages: list[Message], ends_at: int | None) -> None:
    """A run ends at the second idle turn in a row, and goes on wherever something moves."""
    condition, run = Stalled(), Token()
    for count in range(len(messages) + 1):
        noted = await condition.check(after(*messages[:count], run=run))
        assert noted == await Stalled().check(after(*messages[:count]))
        if noted:
            assert (count, noted) == (ends_at, "stalled: 2 turns brought nothing new")
            return
    assert ends_at is None


async def test_a_repeated_task_is_no_repetition() -> None:
    """The task's own text is not what a turn may repeat."""
    progress = after(*turns("Go", "Go"), task=[said("Go", "ann"), said("Go", "bob")])
    assert await Stalled(turns=1).check(progress) is None
