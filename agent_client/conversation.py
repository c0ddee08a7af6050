"""The engine of every conversation: a loop over one transcript that emits typed events.

It knows its parties only by what they do (`Party`): given what they may see, they say something or
stop. Who speaks next is a function of the transcript, so that two parties, a group and a team share the
loop. Every run is bounded and says why it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from agent_client.chat_events import ChatEvent, Ended, EventSink, MessageSent
from agent_client.conditions import Condition, Progress, Stalled
from agent_client.errors import CodecellError
from agent_client.messages import Artifact, Message
from agent_client.models.base import ModelClient, ModelResponse
from agent_client.usage import BudgetSpent, Usage, UsageLimits, UsageMeter

MAX_TIME = 3600.0
CLOSE_TIME = 15.0
MAX_NESTED = 10  # chats inside chats
_LOG = logging.getLogger(__name__)
Setting = Literal["two", "group", "team"]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A party does not go on, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class PendingInput:
    """A question to a human that nobody has answered yet: who asks, and with what prompt."""

    agent: str
    prompt: str


class InputPending(Exception):
    """Raised by an `input_func` that has no answer yet: the run ends, can be saved, and resumed with one."""


class Run:
    """What all parties of one run share: where events go, what may be used, what came of it.

    A run that is started inside another one (a nested chat) counts against the outer one's limits too,
    and what it holds is let go of when the outermost ends.

    Raises:
        CodecellError: it would be the eleventh inside one another, as agents do whose chats call each other.
    """

    def __init__(
        self,
        *,
        sink: EventSink | None = None,
        limits: UsageLimits | None = None,
        answer: str | None = None,
    ) -> None:
        self._sink = sink
        outer = _CURRENT.get()
        self._started = time.monotonic()
        self.is_nested = outer is not None
        self.depth: int = outer.depth + 1 if outer else 0
        if self.depth > MAX_NESTED:
            raise CodecellError(f"chats are nested more than {MAX_NESTED} deep: do they call each other?")
        self.meter: UsageMeter = UsageMeter(limits or UsageLimits(), outer.meter if outer else None)
        self.held: dict[Held, None] = outer.held if outer else {}
        self.human_input: list[str] = []
        self.artifacts: list[Artifact] = []
        self.pending: PendingInput | None = None
        self._answer = answer

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    def emit(self, event: ChatEvent) -> None:
        """Tell whoever listens."""
        if self._sink is not None:
            self._sink(event)

    async def ask(self, model: ModelClient, messages: Sequence[Message], **options: Any) -> ModelResponse:
        """The model's answer, metered. Options as for `ModelClient.create`.

        Raises:
            BudgetSpent: the run may make no further call.
            ModelError: the endpoint failed or refused.
        """
        self.meter.check()
        response = await model.create(messages, **options)
        self.meter.add(response.model, response.usage)
        return response

    def take_answer(self) -> str | None:
        """The answer that this run was resumed with, once."""
        answer, self._answer = self._answer, None
        return answer


_CURRENT: contextvars.ContextVar[Run | None] = contextvars.ContextVar("codecell_run", default=None)


def current_run() -> Run:
    """The run that the calling code is part of; one of its own outside of any."""
    return _CURRENT.get() or Run()


class Held(Protocol):
    """What a run holds on to while it lasts."""

    async def run_ended(self) -> None:
        """The run is over, however it ended: let go of sessions and the like."""
        ...


class Party(Held, Protocol):
    """One who takes part. Called by the engine, one turn at a time."""

    @property
    def name(self) -> str: ...

    async def respond(self, turn: Turn) -> Message | Stop:
        """Say something, or stop."""
        ...


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a party gets when it is its turn.

    `messages` is what it may see, its own as "assistant", the others' as "user". `about_task` says
    that the last of them is the task itself, whose text never ends a run. `setting`: between two each
    agent decides when to end; in a group so too, but names say who speaks; in a team conditions decide.
    """

    run: Run
    sender: Party | None
    messages: Sequence[Message]
    about_task: bool = False
    setting: Setting = "two"

    @property
    def sender_name(self) -> str:
        last = self.messages[-1].name if self.messages else None
        return self.sender.name if self.sender else last or "user"


@dataclass
class Transcript:
    """Who said what, in order; speakers are known by name. It belongs to the conversation. The run's task
    is the `task_count` messages from `task_at` on. With `goes_on` a further message by hand is answered.
    """

    messages: list[Message] = field(default_factory=list)
    task_at: int = 0
    task_count: int = 1
    goes_on: bool = False

    def add(self, speaker: str, message: Message) -> Message:
        said = message if message.name == speaker else replace(message, name=speaker)
        self.messages.append(said)
        return said

    @property
    def last_speaker(self) -> str | None:
        return self.messages[-1].name if self.messages else None

    @property
    def since_task(self) -> int:
        """How many messages were said in this run, the task's included."""
        return len(self.messages) - self.task_at

    def seen_by(self, name: str) -> list[Message]:
        """The messages as the party of that name sees them."""
        seen: list[Message] = []
        for message in self.messages:
            own = message.name == name
            if own:
                seen += message.inner
            role = message.role if message.role == "tool" else "assistant" if own else "user"
            inner = () if own else message.inner
            changed = role != message.role or inner != message.inner
            seen.append(replace(message, role=role, inner=inner) if changed else message)
        return seen

    def progress(self, run: Run) -> Progress:
        """What conditions look at."""
        said_at = self.task_at + self.task_count
        return Progress(
            task=self.messages[self.task_at : said_at],
            messages=self.messages[said_at:],
            usage=run.meter.total,
            elapsed=run.elapsed,
            run=run,
        )

    def save(self) -> dict[str, Any]:
        """All of it as JSON."""
        saved = [message.save() for message in self.messages]
        rest = {"task_at": self.task_at, "task_count": self.task_count, "goes_on": self.goes_on}
        return {"messages": saved, **rest}

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Transcript:
        """What `save` wrote.

        Raises:
            ValueError: it is not of that form, as are KeyError, TypeError and OverflowError.
        """
        messages = [Message.load(message) for message in saved["messages"]]
        at, count = int(saved["task_at"]), int(saved["task_count"])
        if not (0 <= at <= len(messages) and count >= 0):
            raise ValueError(f"of {len(messages)} messages none can be a task of {count} from {at} on")
        return cls(messages, at, count, bool(saved.get("goes_on")))


NextSpeaker = Callable[[Transcript], Awaitable[Party | Stop]]


@dataclass(frozen=True, kw_only=True)
class ChatResult:
    """What came of a chat. `cost` counts all agents; `stop_reason` always says why it ended. `pending` is
    the question that it waits for, where an `input_func` had no answer.
    """

    chat_id: int
    chat_history: list[dict[str, Any]]
    summary: str
    cost: Mapping[str, Any]
    human_input: Sequence[str]
    stop_reason: str
    usage: Usage
    artifacts: Sequence[Artifact] = ()
    pending: PendingInput | None = None


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What came of a team's or an agent's task: the messages of the run, the task's first."""

    messages: Sequence[Message]
    stop_reason: str
    usage: Usage = field(default_factory=Usage)
    artifacts: Sequence[Artifact] = ()
    pending: PendingInput | None = None


class CancellationToken:
    """Cancels the runs that it was given to, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = []

    def is_cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Cancel what is linked, and what will be."""
        with self._lock:
            self._cancelled = True
            linked, self._tasks = self._tasks, []
        for loop, future in linked:
            with contextlib.suppress(RuntimeError):  # its loop has ended, and it with it
                loop.call_soon_threadsafe(future.cancel)

    def link_future(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Have `future` (a task, too) cancelled with this."""
        with self._lock:
            if not self._cancelled:
                self._tasks = [(at, linked) for at, linked in self._tasks if not linked.done()]
                self._tasks.append((future.get_loop(), future))
                return future
        future.cancel()
        return future


async def converse(
    transcript: Transcript,
    *,
    run: Run,
    parties: Sequence[Party],
    next_speaker: NextSpeaker,
    stop_when: Condition | None = None,
    setting: Setting = "two",
    host: Party | None = None,
) -> str:
    """Let the parties speak until one stops or `stop_when` says so; why it ended. `host` is who passes the
    messages on in a group, and so their sender.
    """
    speakers = {party.name: party for party in parties}
    while True:
        reason = await stop_when.check(transcript.progress(run)) if stop_when is not None else None
        if reason is not None:
            return reason
        speaker = await next_speaker(transcript)
        if isinstance(speaker, Stop):
            return speaker.reason
        last = transcript.last_speaker
        turn = Turn(
            run=run,
            sender=host or speakers.get(last or ""),
            messages=transcript.seen_by(speaker.name),
            about_task=transcript.since_task <= transcript.task_count,
            setting=setting,
        )
        reply = await speaker.respond(turn)
        if isinstance(reply, Stop):
            return reply.reason
        say(transcript, run, speaker.name, reply, to=host.name if host else last or "")


def say(transcript: Transcript, run: Run, speaker: str, message: Message, *, to: str) -> None:
    """Put a message in the transcript and tell of it."""
    said = transcript.add(speaker, message)
    run.artifacts += said.artifacts
    run.emit(MessageSent(sender=speaker, recipient=to, message=said))


def two_party(initiator: Party, recipient: Party, *, max_turns: int | None) -> NextSpeaker:
    """The two in turn; `max_turns` round trips at most."""

    async def next_speaker(transcript: Transcript) -> Party | Stop:
        if max_turns is not None and transcript.since_task >= 2 * max_turns:
            return Stop(reason=f"max_turns: {max_turns} round trips were made")
        return recipient if transcript.last_speaker == initiator.name else initiator

    return next_speaker


def stop_when(condition: Condition | None, stalled: bool | Condition) -> Condition | None:
    """What ends a run beside its bounds. `stalled` ends politeness loops: True as usual, False not at all."""
    if stalled is False:
        return condition
    loops = Stalled() if stalled is True else stalled
    return loops if condition is None else condition | loops


async def bounded(
    loop: Callable[[], Awaitable[str]], *, run: Run, held: Iterable[Held], max_time: float | None
) -> str:
    """Run a conversation's loop within its bounds, end it in order, and say why it ended.

    Cancelling it stops model calls and code at once; what the run holds is let go of either way.
    """
    run.held.update(dict.fromkeys(held))
    clock = asyncio.timeout(max_time)
    current = _CURRENT.set(run)
    try:
        async with clock:
            reason = await loop()
    except BudgetSpent as spent:
        if run.is_nested and run.meter.limits.exceeded_by(run.meter.total) is None:
            raise  # the outer run's budget: that one ends
        reason = f"usage_limit: {spent}"
    except TimeoutError:
        if not clock.expired():
            raise
        reason = f"timeout: the run took longer than {max_time:g} s"
    except InputPending:
        if run.pending is None:
            raise
        reason = f"input_required: {run.pending.agent} waits for an answer"
    finally:
        _CURRENT.reset(current)
        if not run.is_nested:
            await _to_its_end(_end(list(run.held)))
    run.emit(Ended(reason=reason, usage=run.meter.total, duration=run.elapsed))
    return reason


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await what is bounded by itself, a cancellation in the middle of it too; a second one leaves it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _end(held: Sequence[Held]) -> None:
    async def end(one: Held) -> None:
        try:  # how the run went matters more than how this goes
            async with asyncio.timeout(CLOSE_TIME):
                await one.run_ended()
        except (TimeoutError, CodecellError, OSError):
            pass  # a session expires on its own
        except Exception:  # noqa: BLE001 - an executor or model client of somebody's
            _LOG.warning("%r failed when its run had ended", one, exc_info=True)

    async with asyncio.TaskGroup() as group:
        for one in held:
            group.create_task(end(one))
