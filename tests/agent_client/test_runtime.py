"""The event-driven runtime: order, fan-out, failures, cancelling, idleness, circles and routing."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_client.runtime import (
    AgentId,
    AgentRuntime,
    CannotHandle,
    LocalAgentRuntime,
    MessageContext,
    NotRunning,
    RoutedAgent,
    TopicId,
    TypePrefixSubscription,
    TypeSubscription,
    UnknownAgent,
    WaitsForItself,
    message_handler,
)

DOCS = Path(__file__).parents[2] / "docs" / "runtime.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
DEADLINE = 30
NEWS = TopicId("news")


class Does:
    """An agent that is one function."""

    def __init__(self, function: Callable[[Any, MessageContext], Awaitable[Any]]) -> None:
        self.on_message = function


async def registered(
    topics: str = "", /, **agents: Callable[[Any, MessageContext], Awaitable[Any]]
) -> LocalAgentRuntime:
    """A runtime of agents that are functions; all of them subscribe to the topic types."""
    runtime = LocalAgentRuntime()
    for name, function in agents.items():
        await runtime.register(name, lambda function=function: Does(function))
        for topic in topics.split():
            await runtime.add_subscription(TypeSubscription(topic, name))
    return runtime


async def within(work: Awaitable[Any]) -> Any:
    """The result, or a failure where it hangs."""
    return await asyncio.wait_for(work, DEADLINE)


async def test_an_answer_comes_back() -> None:
    """A sent message's handler sees who sent it and how, and its answer is returned."""
    seen: list[MessageContext] = []

    async def double(message: int, context: MessageContext) -> int:
        seen.append(context)
        return message * 2

    async with await registered(double=double) as runtime:
        assert await runtime.send_message(21, AgentId("double")) == 42
        await runtime.send_message(1, AgentId("double"), sender=AgentId("someone", "1"))
    assert [(c.id, c.sender, c.topic_id, c.is_rpc) for c in seen] == [
        (AgentId("double"), None, None, True),
        (AgentId("double"), AgentId("someone", "1"), None, True),
    ]
    assert len({context.message_id for context in seen}) == 2


async def test_one_at_a_time_and_in_order() -> None:
    """An agent handles its messages one by one in the order in which they came, sent and published alike."""
    log: list[object] = []

    async def slow(message: int, context: MessageContext) -> None:
        log.append(message)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        log.append("end")

    async with await registered("news", slow=slow) as runtime:
        for number in range(0, 20, 2):
            await runtime.publish_message(number, NEWS)
            await runtime.send_message(number + 1, AgentId("slow"))
    assert log == [each for number in range(20) for each in (number, "end")]


async def test_different_agents_at_the_same_time() -> None:
    """Two agents, and two keys of one type, meet inside their handlers."""
    barrier = asyncio.Barrier(3)

    async def meet(message: str, context: MessageContext) -> None:
        await barrier.wait()

    async with await registered(left=meet, right=meet) as runtime:
        ids = [AgentId("left"), AgentId("right", "a"), AgentId("right", "b")]
        await within(asyncio.gather(*[runtime.send_message("go", each) for each in ids]))


async def test_fan_out() -> None:
    """A published message goes to every matching subscription's agent once, keyed by the topic's source."""
    got: list[tuple[str, str]] = []

    async def note(message: str, context: MessageContext) -> None:
        got.append((str(context.id), message))

    runtime = await registered("news", one=note, two=note, three=note)
    await runtime.remove_subscription(TypeSubscription("news", "three"))
    await runtime.add_subscription(TypeSubscription("news", "one"))
    await runtime.add_subscription(TypePrefixSubscription("new", "one"))
    await runtime.add_subscription(TypePrefixSubscription("new", "three"))
    async with runtime:
        await runtime.publish_message("hi", TopicId("news", "bonn"))
        await runtime.publish_message("ho", TopicId("newer"))
    assert sorted(got) == [
        ("one/bonn", "hi"),
        ("one/default", "ho"),
        ("three/bonn", "hi"),
        ("three/default", "ho"),
        ("two/bonn", "hi"),
    ]


async def test_no_subscribers_is_fine() -> None:
    """Publishing where nobody listens does nothing; removing what is not there is an error."""
    async with await registered() as runtime:
        await runtime.publish_message("hello?", NEWS)
        with pytest.raises(LookupError):
            await runtime.remove_subscription(TypeSubscription("news", "one"))


async def test_the_sender_does_not_get_its_own() -> None:
    """An agent that publishes on a topic that it listens to is spared its own message, not the others'."""
    heard: list[str] = []

    async def chat(message: str, context: MessageContext) -> None:
        heard.append(f"{context.id.type} heard {message} of {context.sender}")
        if message == "start" and context.id.type == "ann":
            await context.runtime.publish_message("hi", NEWS)

    async with await registered("news", ann=chat, bob=chat) as runtime:
        await runtime.publish_message("start", NEWS)
    assert sorted(heard) == [
        "ann heard start of None",
        "bob heard hi of ann/default",
        "bob heard start of None",
    ]


async def test_an_agent_is_made_once_per_key() -> None:
    """The factory, sync or async, makes an agent at its first message, however many come at once."""
    made: list[int] = []

    async def same(message: str, context: MessageContext) -> int:
        return len(made)

    async def factory() -> Does:
        await asyncio.sleep(0)
        made.append(1)
        return Does(same)

    runtime = LocalAgentRuntime()
    await runtime.register("x", factory)
    async with runtime:
        assert made == []
        ids = [AgentId("x", key) for key in "aabba"]
        await within(asyncio.gather(*[runtime.send_message("", each) for each in ids]))
    assert len(made) == 2


async def test_a_failing_factory_is_tried_again() -> None:
    """A factory's error goes to the sender, and the next message tries again."""
    tries: list[int] = []

    async def fine(message: str, context: MessageContext) -> str:
        return "fine"

    def factory() -> Does:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no model today")
        return Does(fine)

    runtime = LocalAgentRuntime()
    await runtime.register("x", factory)
    async with runtime:
        with pytest.raises(OSError, match="no model today"):
            await runtime.send_message("", AgentId("x"))
        assert await runtime.send_message("", AgentId("x")) == "fine"


async def fail(message: Any, context: MessageContext) -> None:
    """A handler that fails."""
    raise ValueError(f"no {message}")


async def test_a_sender_gets_the_error() -> None:
    """What a sent message's handler raises is raised to the sender, and the agent works on."""
    async with await registered(fail=fail) as runtime:
        for what in ("tea", "milk"):
            with pytest.raises(ValueError, match=f"no {what}"):
                await runtime.send_message(what, AgentId("fail"))


async def test_errors_of_published_messages_come_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """They are logged, the other messages are handled, and the end of the block raises them all once."""
    got: list[str] = []

    async def note(message: str, context: MessageContext) -> None:
        got.append(message)

    runtime = await registered("news", fail=fail, note=note)

    async def publish() -> None:
        async with runtime:
            await runtime.publish_message("tea", NEWS)
            await runtime.publish_message("milk", NEWS)

    with pytest.raises(ExceptionGroup, match="published") as caught:
        await publish()
    assert [str(error) for error in caught.value.exceptions] == ["no tea", "no milk"]
    assert got == ["tea", "milk"]
    logged = [record.__dict__["agent"] for record in caplog.records if record.levelno == logging.ERROR]
    assert logged == ["fail/default"] * 2
    runtime.start()
    await runtime.stop_when_idle()


async def test_an_error_in_the_block_wins() -> None:
    """Where the block itself fails, its handlers are cancelled and its own error is raised."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def forever(message: str, context: MessageContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def block() -> None:
        async with await registered("news", forever=forever) as runtime:
            await runtime.publish_message("", NEWS)
            await within(begun.wait())
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()
    assert ended.is_set()


async def test_cancelling_a_send_cancels_the_handling() -> None:
    """The handler is cancelled and has ended when the sender goes on; the agent takes the next message."""
    begun, log = asyncio.Event(), []

    async def wait(message: str, context: MessageContext) -> str:
        if message == "quick":
            return "done"
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")
        return "never"

    async with await registered(wait=wait) as runtime:
        task = asyncio.create_task(runtime.send_message("long", AgentId("wait")))
        await within(begun.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(task)
        assert log == ["cleaned up"]
        assert await within(runtime.send_message("quick", AgentId("wait"))) == "done"


async def test_cancelling_a_send_that_waits_its_turn() -> None:
    """A message whose sender is cancelled before its turn is never handled."""
    release, seen = asyncio.Event(), []

    async def wait(message: str, context: MessageContext) -> None:
        seen.append(message)
        await release.wait()

    async with await registered(wait=wait) as runtime:
        first = asyncio.create_task(runtime.send_message("first", AgentId("wait")))
        for _ in range(5):
            second = asyncio.create_task(runtime.send_message("second", AgentId("wait")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await within(second)
        release.set()
        await within(first)
        await within(runtime.send_message("third", AgentId("wait")))
    assert seen == ["first", "third"]


async def test_stop_tells_who_waits() -> None:
    """Whoever waits for an answer when the runtime stops is told so, not cancelled."""
    begun = asyncio.Event()

    async def forever(message: str, context: MessageContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    runtime = await registered(forever=forever)
    runtime.start()
    waiting = [asyncio.create_task(runtime.send_message("", AgentId("forever"))) for _ in range(3)]
    await within(begun.wait())
    await within(runtime.stop())
    got = await within(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(each) for each in got] == [NotRunning] * 3


async def test_a_handler_may_stop_the_runtime() -> None:
    """`stop` inside a handler cancels the others and returns; waiting there until idle is refused."""
    log: list[str] = []

    async def forever(message: str, context: MessageContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")

    async def end(message: str, context: MessageContext) -> None:
        assert isinstance(context.runtime, LocalAgentRuntime)
        with pytest.raises(WaitsForItself):
            await context.runtime.stop_when_idle()
        await context.runtime.stop()
        log.append("stopped")

    runtime = await registered("news", forever=forever, end=end)
    runtime.start()
    await runtime.publish_message("", NEWS)
    await within(runtime.stop_when_idle())
    assert log == ["cancelled", "stopped"]


async def test_nothing_runs_before_start_or_after_stop() -> None:
    """Messages to a runtime that does not run are refused with what to do; it can be started again."""

    async def yes(message: str, context: MessageContext) -> str:
        return "yes"

    runtime = await registered("news", yes=yes)
    with pytest.raises(NotRunning, match=re.escape("call `start()`")):
        await runtime.send_message("", AgentId("yes"))
    async with runtime:
        pass
    with pytest.raises(NotRunning):
        await runtime.publish_message("", NEWS)
    async with runtime:
        assert await runtime.send_message("", AgentId("yes")) == "yes"


async def test_idle_waits_for_what_handlers_start() -> None:
    """A chain of 1,000 messages that handlers publish to each other ends before `stop_when_idle` returns."""
    counts: list[int] = []

    async def relay(message: int, context: MessageContext) -> None:
        await asyncio.sleep(0)
        counts.append(message)
        if message < 1000:
            await context.runtime.publish_message(message + 1, NEWS)

    runtime = await registered("news", ping=relay, pong=relay)
    runtime.start()
    await runtime.send_message(1, AgentId("ping"))
    await within(runtime.stop_when_idle())
    assert counts == list(range(1, 1001))


async def test_an_agent_sends_and_waits() -> None:
    """Agents may send to others and wait along a chain, also several at once."""

    async def last(message: int, context: MessageContext) -> int:
        return message + 1

    async def middle(message: int, context: MessageContext) -> int:
        answers = [context.runtime.send_message(message, AgentId("last", key)) for key in "abab"]
        return sum(await asyncio.gather(*answers))

    async def first(message: int, context: MessageContext) -> int:
        return int(await context.runtime.send_message(message, AgentId("middle")))

    async with await registered(last=last, middle=middle, first=first) as runtime:
        sends = [runtime.send_message(n, AgentId("first", str(n))) for n in range(50)]
        assert await within(asyncio.gather(*sends)) == [4 * (n + 1) for n in range(50)]


async def test_waiting_for_oneself_is_refused() -> None:
    """A send to oneself, straight or around a corner, is an error instead of a hang; another key is fine."""

    async def ask(message: str, context: MessageContext) -> str:
        target, _, rest = message.partition(" ")
        return await context.runtime.send_message(rest, AgentId.from_str(target)) if target else "end"

    async with await registered(a=ask, b=ask) as runtime:
        with pytest.raises(WaitsForItself, match="a/1 would wait for a/1"):
            await within(runtime.send_message("a/1", AgentId("a", "1")))
        with pytest.raises(WaitsForItself, match="b/1 would wait for a/1"):
            await within(runtime.send_message("b/1 a/1", AgentId("a", "1")))
        assert await within(runtime.send_message("b/1 a/2 b/2", AgentId("a", "1"))) == "end"


async def test_two_agents_that_wait_for_each_other() -> None:
    """Two handlers that each send to the other's agent do not hang: the second is refused."""
    barrier = asyncio.Barrier(2)

    async def cross(message: str, context: MessageContext) -> str:
        if message == "go":
            await barrier.wait()
            other = AgentId("b" if context.id.type == "a" else "a")
            return str(await context.runtime.send_message("hello", other))
        return f"{context.id.type} says hello"

    async with await registered(a=cross, b=cross) as runtime:
        sends = [runtime.send_message("go", AgentId(each)) for each in "ab"]
        got = await within(asyncio.gather(*sends, return_exceptions=True))
    assert sorted(type(each).__name__ for each in got) == ["WaitsForItself", "str"]


async def test_ten_thousand_messages() -> None:
    """10,000 messages over 100 agents take seconds, and leave no tasks behind."""
    counts: dict[str, int] = {}

    async def count(message: int, context: MessageContext) -> None:
        counts[context.id.key] = counts.get(context.id.key, 0) + 1

    before = len(asyncio.all_tasks())
    began = time.process_time()
    async with await registered("news", count=count) as runtime:
        for number in range(10_000):
            await runtime.publish_message(number, TopicId("news", str(number % 100)))
    assert time.process_time() - began < 10
    assert counts == {str(number): 100 for number in range(100)}
    assert len(asyncio.all_tasks()) == before


async def test_unknown_agent_type() -> None:
    """A message for a type that nobody registered is refused with the types that are known."""

    async def yes(message: str, context: MessageContext) -> None: ...

    async with await registered(yes=yes) as runtime:
        with pytest.raises(UnknownAgent, match="'no' was registered; known are: yes"):
            await runtime.send_message("", AgentId("no"))
        await runtime.add_subscription(TypeSubscription("news", "no"))
        with pytest.raises(UnknownAgent):
            await runtime.publish_message("", NEWS)


@pytest.mark.parametrize("name", ["", "a/b", "taken"])
async def test_wrong_agent_types(name: str) -> None:
    """An agent type is a word that is not taken."""
    runtime = await registered(taken=fail)
    with pytest.raises(ValueError, match="an agent type is a new word"):
        await runtime.register(name, RoutedAgent)


def test_ids_as_text() -> None:
    """An id's text is read back, whatever its key."""
    for each in (AgentId("a"), AgentId("a", "x/y")):
        assert AgentId.from_str(str(each)) == each


@dataclass(frozen=True)
class Ping:
    """A message."""

    number: int


@dataclass(frozen=True)
class LoudPing(Ping):
    """A more special one."""


@dataclass(frozen=True)
class Pong:
    """Another message."""


class Player(RoutedAgent):
    """Handles pings, and texts or numbers."""

    @message_handler
    async def ping(self, message: Ping, context: MessageContext) -> str:
        return f"ping {message.number}"

    @message_handler
    async def value(self, message: int | str, context: MessageContext) -> str:
        return f"value {message}"

    @message_handler
    async def items(self, message: list[int], context: MessageContext) -> str:
        return f"{len(message)} items"


class LoudPlayer(Player):
    """Inherits the handlers, overrides one, has one more."""

    async def value(self, message: int | str, context: MessageContext) -> str:
        return f"VALUE {message}"

    @message_handler(LoudPing)
    async def loud(self, message: Any, context: MessageContext) -> str:
        return "PING"


async def test_routing_by_type() -> None:
    """The handler is that of the message's type or of its nearest base; unions and overriding work."""
    runtime = LocalAgentRuntime()
    await Player.register(runtime, "player", Player)
    await LoudPlayer.register(runtime, "loud", lambda: LoudPlayer("Shouts."))
    async with runtime:
        got = [
            [
                await runtime.send_message(each, AgentId(player))
                for each in (Ping(1), LoudPing(2), 3, "x", [1, 2])
            ]
            for player in ("player", "loud")
        ]
    assert got == [
        ["ping 1", "ping 2", "value 3", "value x", "2 items"],
        ["ping 1", "PING", "VALUE 3", "VALUE x", "2 items"],
    ]


async def test_a_wrong_message_type() -> None:
    """A sent message without a handler is refused with the types that have one; a published one passes by."""
    runtime = LocalAgentRuntime()
    await runtime.register("player", Player)
    await runtime.add_subscription(TypeSubscription("news", "player"))
    async with runtime:
        with pytest.raises(CannotHandle, match="player/default handles Ping, int, str, list, not Pong"):
            await runtime.send_message(Pong(), AgentId("player"))
        await runtime.publish_message(Pong(), NEWS)


async def test_a_routed_agent_sends_and_publishes() -> None:
    """A routed agent knows its id, and its own messages name it as their sender."""
    senders: list[AgentId | None] = []

    class Talker(RoutedAgent):
        @message_handler(str)
        async def talk(self, message: str, context: MessageContext) -> object:
            await self.publish_message(1, NEWS)
            return await self.send_message(2, AgentId("note"))

    async def note(message: int, context: MessageContext) -> int:
        senders.append(context.sender)
        return message

    runtime = await registered("news", note=note)
    await runtime.register("talker", Talker)
    async with runtime:
        assert await runtime.send_message("go", AgentId("talker", "1")) == 2
    assert senders == [AgentId("talker", "1")] * 2


def test_wrong_handlers_are_refused() -> None:
    """A handler without a usable annotation, and two of one type, are refused where they are written."""
    with pytest.raises(TypeError, match="annotate the message"):

        class _Bare(RoutedAgent):
            @message_handler
            async def bare(self, message, context: MessageContext) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(TypeError, match=r"use @message_handler\(Type\) .*'Nowhere'"):

        class _Unknown(RoutedAgent):
            @message_handler
            async def unknown(self, message: Nowhere, context: MessageContext) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="_Two has two handlers"):

        class _Two(RoutedAgent):
            @message_handler(int)
            async def one(self, message: int, context: MessageContext) -> None: ...

            @message_handler(int, str)
            async def two(self, message: int, context: MessageContext) -> None: ...


async def test_state_goes_on_elsewhere() -> None:
    """What agents save is loaded into agents made anew; agents without state are left out."""

    class Counter:
        count = 0

        async def on_message(self, message: int, context: MessageContext) -> int:
            self.count += message
            return self.count

        async def save_state(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    async def make() -> LocalAgentRuntime:
        runtime = await registered(fail=fail)
        await runtime.register("counter", Counter)
        return runtime

    async with await make() as runtime:
        await runtime.send_message(2, AgentId("counter", "x"))
        with pytest.raises(ValueError, match="no tea"):
            await runtime.send_message("tea", AgentId("fail"))
    saved = await runtime.save_state()
    assert saved == {"counter/x": {"count": 2}}
    other = await make()
    await other.load_state(saved)
    async with other:
        assert await other.send_message(3, AgentId("counter", "x")) == 5


def test_the_local_runtime_fits_the_protocol() -> None:
    """What agents know of a runtime is all there."""
    runtime: AgentRuntime = LocalAgentRuntime()
    assert runtime is not None


@pytest.mark.parametrize(
    ("block", "says"),
    list(zip(EXAMPLES, ["3\n", "Paris.\n", "2\n5\n"], strict=True)),
)
def test_the_documentation_runs(block: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every example of the page runs as it stands, and prints what it says."""
    exec(compile(block, str(DOCS), "exec", dont_inherit=True), {"__name__": "example"})
    assert capsys.readouterr().out == says
