"""The engine of every conversation: a loop over one transcript that emits typed events.

It knows its parties only by what they do (`Party`): given what they may see, they say something or
stop. Who speaks next is a function of the transcript, so that two parties and many share the loop.
Every run is bounded and says why it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from agent_client.chat_events import ChatEvent, Ended, EventSink, MessageSent
from agent_client.messages import Artifact, Message
from agent_client.usage import BudgetSpent, Usage, UsageLimits, UsageMeter

MAX_TIME = 3600.0
CLOSE_TIME = 15.0


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A party does not go on, and why."""

    reason: str


class Run:
    """What all parties of one run share: where events go, what may be used, what came of it."""

    def __init__(self, *, sink: EventSink | None = None, limits: UsageLimits | None = None) -> None:
        self._sink = sink
        self.meter = UsageMeter(limits or UsageLimits())
        self.human_input: list[str] = []
        self.artifacts: list[Artifact] = []

    def emit(self, event: ChatEvent) -> None:
        if self._sink is not None:
            self._sink(event)


class Party(Protocol):
    """One who takes part. Called by the engine, one turn at a time."""

    @property
    def name(self) -> str: ...

    async def respond(self, turn: Turn) -> Message | Stop:
        """Say something, or stop."""
        ...

    async def run_ended(self) -> None:
        """The run is over, however it ended: let go of sessions and the like."""
        ...


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a party gets when it is its turn.

    `messages` is what it may see, its own as "assistant", the others' as "user". `about_task` says
    that the last of them is the task itself, whose text never ends a run.
    """

    run: Run
    sender: Party | None
    messages: Sequence[Message]
    about_task: bool = False

    @property
    def sender_name(self) -> str:
        return self.sender.name if self.sender else "the sender"


@dataclass
class Transcript:
    """Who said what, in order. It belongs to the conversation; `task_at` is where the run began."""

    entries: list[tuple[Party, Message]] = field(default_factory=list)
    task_at: int = 0

    def add(self, speaker: Party, message: Message) -> None:
        self.entries.append((speaker, replace(message, name=speaker.name)))

    def seen_by(self, party: Party) -> list[Message]:
        """The messages as `party` sees them."""
        return [_as_seen(message, own=speaker is party) for speaker, message in self.entries]


NextSpeaker = Callable[[Transcript], Party | Stop]


@dataclass(frozen=True, kw_only=True)
class ChatResult:
    """What came of a chat. `cost` counts all agents; `stop_reason` always says why it ended."""

    chat_id: int
    chat_history: list[dict[str, Any]]
    summary: str
    cost: Mapping[str, Any]
    human_input: Sequence[str]
    stop_reason: str
    usage: Usage
    artifacts: Sequence[Artifact] = ()


async def converse(transcript: Transcript, *, run: Run, next_speaker: NextSpeaker) -> str:
    """Let the parties speak until one stops; why it ended."""
    while True:
        speaker = next_speaker(transcript)
        if isinstance(speaker, Stop):
            return speaker.reason
        last = transcript.entries[-1][0] if transcript.entries else None
        turn = Turn(
            run=run,
            sender=last,
            messages=transcript.seen_by(speaker),
            about_task=len(transcript.entries) == transcript.task_at + 1,
        )
        reply = await speaker.respond(turn)
        if isinstance(reply, Stop):
            return reply.reason
        say(transcript, run, speaker, reply, to=last.name if last else "")


def say(transcript: Transcript, run: Run, speaker: Party, message: Message, *, to: str) -> None:
    """Put a message in the transcript and tell of it."""
    transcript.add(speaker, message)
    run.artifacts += message.artifacts
    run.emit(MessageSent(sender=speaker.name, recipient=to, message=message))


def two_party(initiator: Party, recipient: Party, *, max_turns: int | None) -> NextSpeaker:
    """The two in turn; `max_turns` round trips at most."""

    def next_speaker(transcript: Transcript) -> Party | Stop:
        said = len(transcript.entries) - transcript.task_at
        if max_turns is not None and said >= 2 * max_turns:
            return Stop(reason=f"max_turns: {max_turns} round trips were made")
        return recipient if transcript.entries[-1][0] is initiator else initiator

    return next_speaker


async def bounded(
    loop: Callable[[], Awaitable[str]], *, run: Run, parties: Sequence[Party], max_time: float | None
) -> str:
    """Run a conversation's loop within its bounds, end it in order, and say why it ended.

    Cancelling it stops model calls and code at once; the parties let go of what they hold either way.
    """
    clock = asyncio.timeout(max_time)
    try:
        async with clock:
            reason = await loop()
    except BudgetSpent as spent:
        reason = f"usage_limit: {spent}"
    except TimeoutError:
        if not clock.expired():
            raise
        reason = f"timeout: the run took longer than {max_time:g} s"
    finally:
        await asyncio.shield(asyncio.ensure_future(_end(parties)))
    run.emit(Ended(reason=reason, usage=run.meter.total))
    return reason


async def _end(parties: Sequence[Party]) -> None:
    for party in parties:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIME):
                await party.run_ended()


def _as_seen(message: Message, *, own: bool) -> Message:
    if message.role == "tool":
        return message
    return replace(message, role="assistant" if own else "user")
