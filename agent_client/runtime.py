"""An event-driven runtime: agents that send each other messages and publish them on topics.

`AgentRuntime` is what agents know of it: ids and topics are values, messages are plain data (dataclasses,
pydantic models, JSON), so a distributed one is another class. `LocalAgentRuntime` runs the agents as tasks of
one event loop: each agent handles one message at a time, in order, different agents at the same time.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import types
import typing
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar, overload

__all__ = [
    "AgentId", "AgentRuntime", "LocalAgentRuntime", "MessageContext", "RoutedAgent", "TopicId",
    "TypePrefixSubscription", "TypeSubscription", "message_handler",
]  # fmt: skip
F = TypeVar("F", bound=Callable[..., Any])
CLEANUP_TIME = 10.0  # seconds that handlers get to end when they are cancelled
_LOG = logging.getLogger(__name__)


class UnknownAgent(LookupError):
    """A message is for an agent type that was not registered."""


class CannotHandle(TypeError):
    """A message was sent to an agent that handles no messages of its type."""


class WaitsForItself(RuntimeError):
    """An agent would wait for an agent that waits for it (or is it), for ever."""


class NotRunning(RuntimeError):
    """The runtime was not started, or stopped before the message was handled."""


@dataclass(frozen=True)
class AgentId:
    """An agent: its registered type, and which of that type it is."""

    type: str
    key: str = "default"

    def __str__(self) -> str:
        return f"{self.type}/{self.key}"

    @classmethod
    def from_str(cls, text: str) -> Self:
        """The id that `str` wrote."""
        return cls(*text.split("/", 1))


@dataclass(frozen=True)
class TopicId:
    """A topic: what it is about, and (as `source`) which one of those; subscribers get `source` as key."""

    type: str = "default"
    source: str = "default"


@dataclass(frozen=True)
class TypeSubscription:
    """Topics of this type go to agents of that type."""

    topic_type: str
    agent_type: str

    def is_match(self, topic: TopicId) -> bool:
        return topic.type == self.topic_type


@dataclass(frozen=True)
class TypePrefixSubscription:
    """Topics whose type begins so go to agents of that type."""

    topic_type_prefix: str
    agent_type: str

    def is_match(self, topic: TopicId) -> bool:
        return topic.type.startswith(self.topic_type_prefix)


Subscription = TypeSubscription | TypePrefixSubscription


@dataclass(frozen=True, kw_only=True)
class MessageContext:
    """How a message came: to agent `id`, from `sender` (None: no agent), published on `topic_id` or, where
    `is_rpc`, sent by someone who waits for the answer. `runtime` is where the agent sends and publishes.
    """

    id: AgentId
    runtime: AgentRuntime = field(repr=False)
    sender: AgentId | None = None
    topic_id: TopicId | None = None
    message_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def is_rpc(self) -> bool:
        return self.topic_id is None


class Agent(Protocol):
    """What handles messages; its answer goes to the sender, if the message was sent. `save_state` and
    `load_state` (JSON; sync or async) are called where it has them.
    """

    async def on_message(self, message: Any, context: MessageContext, /) -> Any: ...


class AgentRuntime(Protocol):
    """Where agents live. `sender` is known by itself inside a handler."""

    async def register(self, type: str, factory: Callable[[], Any]) -> None:
        """Have agents of `type` made by `factory` (sync or async), one for each key at its first message.

        Raises:
            ValueError: the type is taken, empty, or contains "/".
        """

    async def add_subscription(self, subscription: Subscription) -> None:
        """Deliver matching topics; twice the same is once."""

    async def remove_subscription(self, subscription: Subscription) -> None:
        """Deliver them no more.

        Raises:
            LookupError: there is no such subscription.
        """

    async def send_message(self, message: Any, recipient: AgentId, *, sender: AgentId | None = None) -> Any:
        """The agent's answer. Cancelling this cancels the handling.

        Raises:
            UnknownAgent, CannotHandle, WaitsForItself, NotRunning: as they say.
            Exception: whatever the handler raised.
        """

    async def publish_message(
        self, message: Any, topic_id: TopicId, *, sender: AgentId | None = None
    ) -> None:
        """Give the message to every subscriber but its sender.

        Raises:
            UnknownAgent, NotRunning: as they say.
        """

    def start(self) -> None:
        """Accept messages."""

    async def stop(self) -> None:
        """Cancel what is being handled and drop what waits."""

    async def stop_when_idle(self) -> None:
        """Stop once nothing is being handled or waits.

        Raises:
            ExceptionGroup: what handlers of published messages raised (the last 100 of it).
        """

    async def save_state(self) -> dict[str, Any]:
        """The states of the agents, by id, as JSON."""

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Put the agents into the states that `save_state` gave."""


@dataclass(eq=False)
class _Seat:
    """An agent's place: `turn` for the message that is being handled (first come, first served), `waits_for`
    whom its handler waits for, None between messages.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    agent: Any = None
    waits_for: list[_Seat] | None = None


# The seat whose handler is running, and that handling's own list: a task may outlive the handler.
_AT: ContextVar[tuple[_Seat, AgentId, list[_Seat]] | None] = ContextVar("codecell_runtime_at", default=None)


class LocalAgentRuntime:
    """Agents in this process, on one event loop. `async with` starts it, and stops it when idle."""

    def __init__(self) -> None:
        self._factories: dict[str, Callable[[], Any]] = {}
        self._subscriptions: dict[Subscription, None] = {}
        self._seats: dict[AgentId, _Seat] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errors: deque[Exception] = deque(maxlen=100)
        self._running = False

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await (self.stop_when_idle() if error is None else self.stop())

    async def register(self, type: str, factory: Callable[[], Any]) -> None:
        if not type or "/" in type or type in self._factories:
            raise ValueError(f"an agent type is a new word without '/', not {type!r}")
        self._factories[type] = factory

    async def add_subscription(self, subscription: Subscription) -> None:
        self._subscriptions[subscription] = None

    async def remove_subscription(self, subscription: Subscription) -> None:
        del self._subscriptions[subscription]

    def start(self) -> None:
        self._running = True

    async def stop(self) -> None:
        self._running = False
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=CLEANUP_TIME)

    async def stop_when_idle(self) -> None:
        if self._current():
            raise WaitsForItself("a handler cannot wait until no handler runs")
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.stop()
        errors = list(self._errors)
        self._errors.clear()
        if errors:
            raise ExceptionGroup("handlers of published messages failed", errors)

    async def send_message(self, message: Any, recipient: AgentId, *, sender: AgentId | None = None) -> Any:
        context, current = self._context(recipient, sender), self._current()
        goal = self._seat(recipient)
        waits_for = current[2] if current else []
        if current and _leads_to(goal, current[0]):
            me = current[1]
            raise WaitsForItself(f"{me} would wait for {recipient}, and so for itself: publish instead")
        waits_for.append(goal)
        task = self._post(message, context)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or (caller and caller.cancelling()):
                raise
            raise NotRunning(f"the handling of a message by {recipient} was cancelled") from None
        finally:
            waits_for.remove(goal)

    async def publish_message(
        self, message: Any, topic_id: TopicId, *, sender: AgentId | None = None
    ) -> None:
        agent_types = dict.fromkeys(s.agent_type for s in self._subscriptions if s.is_match(topic_id))
        contexts = [self._context(AgentId(each, topic_id.source), sender, topic_id) for each in agent_types]
        for context in contexts:
            if context.id != context.sender:
                self._post(message, context)

    async def save_state(self) -> dict[str, Any]:
        agents = {str(where): seat.agent for where, seat in self._seats.items()}
        return {i: await _settled(a.save_state()) for i, a in agents.items() if hasattr(a, "save_state")}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        for name, saved in state.items():
            await _settled((await self._agent(AgentId.from_str(name))).load_state(saved))

    def _current(self) -> tuple[_Seat, AgentId, list[_Seat]] | None:
        """The handler that this is called from, if it has not ended and is of this runtime."""
        at = _AT.get()
        return at if at and self._seats.get(at[1]) is at[0] and at[0].waits_for is at[2] else None

    def _seat(self, who: AgentId) -> _Seat:
        if who.type not in self._factories:
            known = ", ".join(self._factories) or "none"
            raise UnknownAgent(f"no agent type {who.type!r} was registered; known are: {known}")
        return self._seats.setdefault(who, _Seat())

    def _context(self, to: AgentId, sender: AgentId | None, topic: TopicId | None = None) -> MessageContext:
        if not self._running:
            raise NotRunning("the runtime is not running: call `start()`, or use `async with runtime:`")
        self._seat(to)
        current = self._current()
        sender = sender or (current[1] if current else None)
        return MessageContext(id=to, runtime=self, sender=sender, topic_id=topic)

    def _post(self, message: Any, context: MessageContext) -> asyncio.Task[Any]:
        task = asyncio.create_task(self._handle(message, context), name=f"message to {context.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _handle(self, message: Any, context: MessageContext) -> Any:
        seat = self._seat(context.id)
        async with seat.turn:
            seat.waits_for = []
            _AT.set((seat, context.id, seat.waits_for))  # in this task, and in those that the handler starts
            try:
                return await (await self._agent(context.id)).on_message(message, context)
            except Exception as error:
                if context.is_rpc:
                    raise
                _LOG.exception("a published message failed", extra={"agent": str(context.id)})
                self._errors.append(error)
            finally:
                seat.waits_for = None

    async def _agent(self, who: AgentId) -> Any:
        seat = self._seat(who)
        if seat.agent is None:
            seat.agent = await _settled(self._factories[who.type]())
            if isinstance(seat.agent, RoutedAgent):
                seat.agent.id, seat.agent.runtime = who, self
        return seat.agent


def _leads_to(start: _Seat, end: _Seat) -> bool:
    """Whether `end` is among those whom `start` waits for, and they wait for."""
    ahead = [start]
    for seat in ahead:  # which grows meanwhile
        ahead += [other for other in dict.fromkeys(seat.waits_for or ()) if other not in ahead]
    return end in ahead


class RoutedAgent:
    """An agent whose methods marked with `@message_handler` each handle messages of one type."""

    id: AgentId
    runtime: AgentRuntime
    _handlers: Mapping[type, str] = {}

    def __init__(self, description: str = "") -> None:
        self.description = description

    def __init_subclass__(cls) -> None:
        found = dict(cls._handlers)
        own = [(kind, name) for name, method in vars(cls).items() for kind in getattr(method, "handles", ())]
        if len({kind for kind, _ in own}) < len(own):
            raise TypeError(f"{cls.__name__} has two handlers of the same message type")
        cls._handlers = found | dict(own)

    @classmethod
    async def register(cls, runtime: AgentRuntime, type: str, factory: Callable[[], Any]) -> None:
        """Register agents of this class, as AutoGen writes it."""
        await runtime.register(type, factory)

    async def on_message(self, message: Any, context: MessageContext, /) -> Any:
        """Call the handler of the message's type, or of its nearest base.

        Raises:
            CannotHandle: there is none, and the message was sent; a published one is then for others.
        """
        name = next((self._handlers[kind] for kind in type(message).__mro__ if kind in self._handlers), None)
        if name is not None:
            return await getattr(self, name)(message, context)
        if context.is_rpc:
            known = ", ".join(kind.__name__ for kind in self._handlers) or "nothing"
            raise CannotHandle(f"{context.id} handles {known}, not {type(message).__name__}")
        return None

    async def send_message(self, message: Any, recipient: AgentId) -> Any:
        """The answer of another agent."""
        return await self.runtime.send_message(message, recipient, sender=self.id)

    async def publish_message(self, message: Any, topic_id: TopicId) -> None:
        """Give a message to a topic's subscribers."""
        await self.runtime.publish_message(message, topic_id, sender=self.id)


@overload
def message_handler(handler: F, /) -> F: ...
@overload
def message_handler(*kinds: type) -> Callable[[F], F]: ...
def message_handler(*given: Any) -> Any:
    """Mark `async def name(self, message: Type, context)` as the handler of messages of that type (or of the
    types of a union); `@message_handler(Type)` says it where the annotation cannot be evaluated.

    Raises:
        TypeError: there is no such annotation, or it cannot be evaluated here.
    """
    if not inspect.isfunction(given[0]):
        return lambda handler: _mark(handler, given)
    try:
        kind = typing.get_type_hints(given[0])[list(inspect.signature(given[0]).parameters)[1]]
    except (NameError, LookupError) as error:
        name = given[0].__qualname__
        raise TypeError(f"{name}: annotate the message, or use @message_handler(Type) ({error})") from None
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return _mark(given[0], typing.get_args(kind) if union else (kind,))


def _mark(handler: Any, kinds: tuple[Any, ...]) -> Any:
    handler.handles = tuple(object if kind is Any else typing.get_origin(kind) or kind for kind in kinds)
    return handler


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
