"""Chats of one agent with one other (or with a group's manager), and looking at what was said."""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent_client.agents.summary import SummaryMethod, check_summary, summarise
from agent_client.blocking import blocking_form, call, post
from agent_client.chat_events import ChatEvent, EventSink
from agent_client.conditions import Condition
from agent_client.console import Console
from agent_client.conversation import (
    MAX_TIME,
    ChatResult,
    Party,
    Run,
    Setting,
    Stop,
    Transcript,
    Turn,
    bounded,
    converse,
    say,
    stop_when,
    two_party,
)
from agent_client.messages import Message
from agent_client.models.base import ModelClient
from agent_client.usage import UsageLimits

STATE_VERSION = 1


@dataclass(frozen=True)
class _Resumed:
    """Stands for an opening message where a chat goes on as it is."""

    answer: str | None


Opening = str | Mapping[str, Any] | Message | Callable[..., Any] | _Resumed | None


class TwoParty:
    """What an agent can do in a chat with another. `respond` is for the agents to fill in."""

    setting: Setting = "two"  # of the chats that others start with it

    def __init__(self, name: str) -> None:
        if not name or not name.strip():
            raise ValueError("an agent needs a name")
        self._name = name
        self._chats: dict[TwoParty, Transcript] = {}
        self.transcript: Transcript | None = None  # of tasks that it was given itself
        self.model_client: ModelClient | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def chat_messages(self) -> dict[Any, list[dict[str, Any]]]:
        """By agent, the messages of the chat with it, as this agent sees them; none with others."""
        chats: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
        chats.update((other, self._history(chat)) for other, chat in self._chats.items())
        return chats

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
        stalled: bool | Condition = True,
        on_event: EventSink | None = None,
        **context: Any,
    ) -> ChatResult:
        """Send `message` (a text, a dict, or a callable of sender, recipient and context) and let the two
        talk until one stops; prints the conversation unless `silent`. `carryover=` (a text or a list) is
        put below a text. `max_time` is seconds. Cancelling stops model calls and code at once.

        `initiate_chat` is the blocking form, which works inside a running event loop too.

        Raises:
            ValueError: an argument is wrong; nothing was said.
            CodecellError: the service or the model failed.
        """
        if not hasattr(recipient, "plan"):
            raise ValueError(f"the recipient of a chat is an agent, not {recipient!r}")
        check_summary(summary_method, self, recipient)
        unknown = set(context) - {"carryover", "cache"}
        if unknown and not callable(message):
            raise ValueError(
                f"initiate_chat knows no {sorted(unknown)}, and no function takes them as context"
            )
        parties, next_speaker = recipient.plan(self, max_turns)
        resumed = isinstance(message, _Resumed)
        run = Run(
            sink=sink_of(None if silent else Console(), on_event),
            limits=usage_limits,
            answer=message.answer if isinstance(message, _Resumed) else None,
        )
        opening = None if resumed else await self._opening(recipient, message, context, run)
        transcript = self._chats[recipient] if resumed else self._chat_with(recipient, clear=clear_history)
        if not resumed:
            transcript.goes_on = max_turns is None
        summary: str | None = None

        async def chat() -> str:
            nonlocal summary
            if opening is not None:
                say(transcript, run, self.name, opening, to=recipient.name)
            reason = await converse(
                transcript,
                run=run,
                parties=parties,
                next_speaker=next_speaker,
                stop_when=stop_when(None, stalled),
                setting=recipient.setting,
                host=recipient if recipient.setting == "group" else None,
            )
            summary = await summarise(summary_method, self, recipient, summary_args, transcript, run)
            return reason

        reason = await bounded(chat, run=run, held=parties, max_time=max_time)
        if summary is None:  # no time or budget is left for asking a model
            summary = await summarise("last_msg", self, recipient, None, transcript, run)
        return ChatResult(
            chat_id=uuid.uuid4().int,
            chat_history=self._history(transcript),
            summary=summary,
            cost=run.meter.cost(),
            human_input=tuple(run.human_input),
            stop_reason=reason,
            usage=run.meter.total,
            artifacts=tuple(run.artifacts),
            pending=run.pending,
        )

    initiate_chat = blocking_form(a_initiate_chat)

    async def a_resume_chat(
        self, recipient: TwoParty, *, answer: str | None = None, **options: Any
    ) -> ChatResult:
        """Go on with a chat that was interrupted, or that waits for a human: `answer` is what they say to
        the first question. Options as for `initiate_chat`. See `save_state`.

        Raises:
            ValueError: there is no such chat.
            CodecellError: the service or the model failed.
        """
        known = self._chats.get(recipient)
        if known is None or not known.messages:
            raise ValueError(f"{self.name} has no chat with {recipient.name} to resume: load_state first")
        return await self.a_initiate_chat(recipient, _Resumed(answer), clear_history=False, **options)

    resume_chat = blocking_form(a_resume_chat)

    async def a_send(
        self,
        message: str | Mapping[str, Any] | Message,
        recipient: TwoParty,
        request_reply: bool | None = None,
        silent: bool = False,
    ) -> None:
        """Say something to `recipient` without a new chat; `request_reply` asks for an answer, by default
        where a chat without `max_turns` came before; the two go on talking then, else it is one answer.
        """
        transcript = self._chats.get(recipient)
        if transcript is None:
            transcript = self._chat_with(recipient, clear=False)
        sent = await self._processed(Message.of(message), recipient)
        run = Run(sink=sink_of(None if silent else Console(), None))
        say(transcript, run, self.name, sent, to=recipient.name)
        if transcript.goes_on if request_reply is None else request_reply:
            transcript.task_at = len(transcript.messages) - 1
            turns = None if transcript.goes_on else 1
            await self.a_resume_chat(recipient, silent=silent, max_turns=turns)

    send = blocking_form(a_send)

    async def a_receive(
        self,
        message: str | Mapping[str, Any] | Message,
        sender: TwoParty,
        request_reply: bool | None = None,
        silent: bool = False,
    ) -> None:
        """Be told something by `sender`: the other end of `send`."""
        await sender.a_send(message, self, request_reply, silent)

    receive = blocking_form(a_receive)

    def save_state(self) -> dict[str, Any]:
        """The agent's chats as JSON: transcripts, counters of all who take part, their open sessions (where
        the executor keeps them: `keep_session=True`).
        """
        chats = [
            {
                "with": other.name,
                "transcript": chat.save(),
                "parties": {p.name: p.save_counters() for p in _parties(self, other)},
            }
            for other, chat in self._chats.items()
        ]
        saved = {"version": STATE_VERSION, "agent": self.name, "chats": chats}
        return saved if self.transcript is None else saved | {"task": self.transcript.save()}

    def load_state(self, state: Mapping[str, Any], agents: Sequence[TwoParty]) -> None:
        """Take up what `save_state` gave, perhaps in another process. `agents` are the others, by name.
        Load only states of your own: they name files and sessions.

        Raises:
            ValueError: it is no such state, of another agent, or an agent is missing.
        """
        with checked_state(state, "agent", self.name):
            others = {agent.name: agent for agent in agents}
            missing = sorted({chat["with"] for chat in state["chats"]} - set(others))
            if missing:
                raise ValueError(f"the state has chats with {', '.join(missing)}: give these agents too")
            chats = {chat["with"]: Transcript.load(chat["transcript"]) for chat in state["chats"]}
            if "task" in state:
                self.transcript = Transcript.load(state["task"])
            for chat in state["chats"]:
                other = others[chat["with"]]
                self._chats[other] = chats[other.name]
                other.attach(self, chats[other.name])
                for party in _parties(self, other):
                    party.load_counters(chat["parties"].get(party.name, {}))

    def attach(self, initiator: TwoParty, transcript: Transcript) -> None:
        """Take part in a chat that `initiator` started."""
        self._chats[initiator] = transcript

    def save_counters(self) -> dict[str, Any]:
        """What the agent itself remembers of its chats, as JSON."""
        return {}

    def load_counters(self, saved: Mapping[str, Any]) -> None:
        """What `save_counters` wrote."""

    def clear_history(self, agent: TwoParty | None = None) -> None:
        """Forget the chat with `agent`, or all."""
        if agent is None:
            self._chats.clear()
        else:
            self._chats.pop(agent, None)

    def new_chat(self, other: str) -> None:
        """A chat begins in which the agent hears `other`."""

    def plan(self, initiator: TwoParty, max_turns: int | None) -> tuple[Sequence[Party], Any]:
        """Who takes part in a chat that `initiator` starts with this agent, and who speaks next.

        Raises:
            ValueError: it cannot be held.
        """
        if max_turns is not None and max_turns < 1:
            raise ValueError("max_turns is a number of round trips above zero")
        if initiator is self:
            raise ValueError("an agent cannot chat with itself")
        if initiator.name == self.name:
            raise ValueError(f"two agents of a chat need different names, both are {self.name!r}")
        return (initiator, self), two_party(initiator, self, max_turns=max_turns)

    async def respond(self, turn: Turn) -> Message | Stop:
        """Say something, or stop."""
        raise NotImplementedError

    async def ask(self, prompt: str, run: Run) -> str:
        """Ask the agent's human."""
        raise NotImplementedError

    async def run_ended(self) -> None:
        """The run is over: let go of what lasts no longer."""

    def _history(self, chat: Transcript) -> list[dict[str, Any]]:
        seen = chat.seen_by(self.name)  # chat APIs let none but an assistant call tools
        return [m.to_dict() | ({"role": "assistant"} if m.tool_calls else {}) for m in seen]

    async def _processed(self, message: Message, recipient: Any) -> Message:  # noqa: ARG002
        """What hooks make of a message before it is sent."""
        return message

    def _chat_with(self, recipient: TwoParty, *, clear: bool) -> Transcript:
        known = self._chats.get(recipient)
        transcript = Transcript() if clear or known is None else known
        transcript.task_at = len(transcript.messages)
        self._chats[recipient] = transcript
        recipient.attach(self, transcript)
        for party in _parties(self, recipient):
            party.new_chat(self.name if party is recipient else recipient.name)
        return transcript

    async def _opening(
        self, recipient: TwoParty, message: Opening, context: Mapping[str, Any], run: Run
    ) -> Message:
        said: Any = message
        if callable(message):
            said = await call(message, self, recipient, dict(context))
        if said is None:
            said = await self.ask(">", run)
        opening = Message.of(said)
        carryover = context.get("carryover")
        if carryover and not callable(message):
            texts = [carryover] if isinstance(carryover, str) else [str(text) for text in carryover]
            text = f"{opening.content}\nContext: \n" + "\n".join(texts)
            opening = replace(opening, content=text)
        return await self._processed(opening, recipient)


@contextlib.contextmanager
def checked_state(state: Mapping[str, Any], what: str, name: str) -> Iterator[None]:
    """Around the loading of a state: one that is not ours to load, or is damaged, is refused.

    Raises:
        ValueError: it is of another version, of another agent or team, or not of the form of a state.
    """
    try:
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"no state that this version of save_state wrote (version {STATE_VERSION})")
        if state.get(what) != name:
            raise ValueError(f"the state is of {what} {state.get(what)!r}, not of {name!r}")
        yield
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the state is damaged ({type(error).__name__}: {error})") from error


def _parties(initiator: TwoParty, recipient: TwoParty) -> list[TwoParty]:
    return [party for party in recipient.plan(initiator, None)[0] if isinstance(party, TwoParty)]


def sink_of(console: Console | None, on_event: EventSink | None) -> EventSink:
    """One sink for all who listen; printing happens on the thread that called."""

    def emit(event: ChatEvent) -> None:
        if on_event is not None:
            on_event(event)
        if console is not None:
            post(lambda: console(event))

    return emit
