"""Starting a chat with one other agent, and looking at what was said."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from agent_client.blocking import blocking_form, call, in_caller, post
from agent_client.chat_events import ChatEvent, EventSink
from agent_client.console import Console
from agent_client.conversation import (
    MAX_TIME,
    ChatResult,
    Run,
    Stop,
    Transcript,
    Turn,
    bounded,
    converse,
    say,
    two_party,
)
from agent_client.messages import Message
from agent_client.termination import without_terminate
from agent_client.usage import UsageLimits

Opening = str | Mapping[str, Any] | Callable[..., Any] | None
SummaryMethod = str | Callable[..., Any]


class TwoParty:
    """What an agent can do in a chat between two. `respond` is for the agents to fill in."""

    def __init__(self, name: str) -> None:
        if not name or not name.strip():
            raise ValueError("an agent needs a name")
        self._name = name
        self._chats: dict[TwoParty, Transcript] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def chat_messages(self) -> dict[Any, list[dict[str, Any]]]:
        """By agent, the messages of the chat with it, as this agent sees them."""
        return {
            other: [message.to_dict() for message in chat.seen_by(self)]
            for other, chat in self._chats.items()
        }

    def last_message(self, agent: TwoParty | None = None) -> dict[str, Any] | None:
        """The last message of the chat with `agent` (or of the only one)."""
        chats = self.chat_messages
        if agent is None and len(chats) > 1:
            raise ValueError("more than one conversation: say with which agent")
        messages = chats.get(agent) if agent is not None else next(iter(chats.values()), None)
        return messages[-1] if messages else None

    async def a_initiate_chat(
        self,
        recipient: TwoParty,
        message: Opening = None,
        *,
        max_turns: int | None = None,
        clear_history: bool = True,
        silent: bool = False,
        summary_method: SummaryMethod = "last_msg",
        summary_args: Mapping[str, Any] | None = None,
        usage_limits: UsageLimits | None = None,
        max_time: float | None = MAX_TIME,
        on_event: EventSink | None = None,
        **context: Any,
    ) -> ChatResult:
        """Send `message` (a text, a dict, or a callable of sender, recipient and context) and let the two
        talk until one stops; prints the conversation unless `silent`. Cancelling stops model calls and
        code at once.

        `initiate_chat` is the blocking form, which works inside a running event loop too.

        Raises:
            CodecellError: the service or the model failed.
        """
        if max_turns is not None and max_turns < 1:
            raise ValueError("max_turns is a number of round trips above zero")
        if not callable(summary_method) and summary_method != "last_msg":
            raise ValueError('summary_method is "last_msg" or a callable')
        run = Run(sink=_sink(None if silent else Console(), on_event), limits=usage_limits)
        transcript = self._chat_with(recipient, clear=clear_history)

        async def chat() -> str:
            opening = await self._opening(recipient, message, context)
            say(transcript, run, self, opening, to=recipient.name)
            return await converse(
                transcript, run=run, next_speaker=two_party(self, recipient, max_turns=max_turns)
            )

        reason = await bounded(chat, run=run, parties=(self, recipient), max_time=max_time)
        history = [said.to_dict() for said in transcript.seen_by(self)]
        return ChatResult(
            chat_id=uuid.uuid4().int,
            chat_history=history,
            summary=await self._summary(recipient, summary_method, summary_args, history),
            cost=run.meter.cost(),
            human_input=tuple(run.human_input),
            stop_reason=reason,
            usage=run.meter.total,
            artifacts=tuple(run.artifacts),
        )

    initiate_chat = blocking_form(a_initiate_chat)

    def clear_history(self, agent: TwoParty | None = None) -> None:
        """Forget the chat with `agent`, or all."""
        if agent is None:
            self._chats.clear()
        else:
            self._chats.pop(agent, None)

    def new_chat_with(self, other: str) -> None:
        """A chat with the agent named `other` begins."""

    async def respond(self, turn: Turn) -> Message | Stop:
        """Say something, or stop."""
        raise NotImplementedError

    async def run_ended(self) -> None:
        """The run is over: let go of what lasts no longer."""

    def _chat_with(self, recipient: TwoParty, *, clear: bool) -> Transcript:
        if recipient is self:
            raise ValueError("an agent cannot chat with itself")
        known = self._chats.get(recipient)
        transcript = Transcript() if clear or known is None else known
        transcript.task_at = len(transcript.entries)
        self._chats[recipient] = recipient._chats[self] = transcript
        self.new_chat_with(recipient.name)
        recipient.new_chat_with(self.name)
        return transcript

    async def _opening(self, recipient: TwoParty, message: Opening, context: Mapping[str, Any]) -> Message:
        said: Any = message
        if callable(message):
            said = await call(message, self, recipient, dict(context))
        if said is None:
            said = await in_caller(lambda: input("> "))
        return Message.of(said)

    async def _summary(
        self,
        recipient: TwoParty,
        method: SummaryMethod,
        arguments: Mapping[str, Any] | None,
        history: list[dict[str, Any]],
    ) -> str:
        if callable(method):
            return str(await call(method, self, recipient, dict(arguments or {})))
        return without_terminate(history[-1]["content"]) if history else ""


def _sink(console: Console | None, on_event: EventSink | None) -> EventSink:
    """One sink for all who listen; printing happens on the thread that called."""

    def emit(event: ChatEvent) -> None:
        if on_event is not None:
            on_event(event)
        if console is not None:
            post(lambda: console(event))

    return emit
