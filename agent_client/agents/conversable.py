"""The agent that the others are made of: it replies by human, code, model or default, in that order."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent_client.agents.code_reply import (
    CodeExecutionConfig,
    blocks_to_run,
    chat_event,
    executor_from,
    last_n_from,
    reply_text,
)
from agent_client.agents.human import AutoReply, End, HumanInputMode, Say, Situation, decide, heed
from agent_client.agents.two_party import TwoParty
from agent_client.blocking import blocking_form, call, in_caller
from agent_client.chat_events import HumanAsked, ModelText, Notice
from agent_client.conversation import Run, Stop, Turn
from agent_client.messages import Message
from agent_client.models.base import ModelClient
from agent_client.models.config import model_client_from
from agent_client.termination import IsTermination, last_word_is_terminate

MAX_CONSECUTIVE_AUTO_REPLY = 100
InputFunc = Callable[[str], str | Awaitable[str]]
ReplyFunc = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class _Registered:
    trigger: Any
    function: ReplyFunc
    config: Any


class ConversableAgent(TwoParty):
    """One party of a conversation. Arguments as in AutoGen; `model_client` may stand for `llm_config`,
    `input_func(prompt)` (sync or async) for the keyboard.
    """

    def __init__(
        self,
        name: str,
        system_message: str | None = "You are a helpful assistant.",
        is_termination_msg: IsTermination | None = None,
        max_consecutive_auto_reply: int | None = None,
        human_input_mode: HumanInputMode = "TERMINATE",
        code_execution_config: CodeExecutionConfig | None = False,
        llm_config: Mapping[str, Any] | Literal[False] | None = None,
        default_auto_reply: str | Mapping[str, Any] | None = "",
        description: str | None = None,
        *,
        model_client: ModelClient | None = None,
        input_func: InputFunc | None = None,
    ) -> None:
        if human_input_mode not in ("ALWAYS", "TERMINATE", "NEVER"):
            raise ValueError(f"human_input_mode is ALWAYS, TERMINATE or NEVER, not {human_input_mode!r}")
        if model_client is not None and llm_config:
            raise ValueError("give either model_client or llm_config")
        super().__init__(name)
        self.system_message = system_message or ""
        self.description = description or self.system_message
        self.human_input_mode: HumanInputMode = human_input_mode
        limit = max_consecutive_auto_reply
        self.max_consecutive_auto_reply = MAX_CONSECUTIVE_AUTO_REPLY if limit is None else limit
        self.model_client = model_client or (model_client_from(llm_config) if llm_config else None)
        self.code_executor = executor_from(code_execution_config)
        self._last_n = last_n_from(code_execution_config)
        self._is_termination = is_termination_msg or last_word_is_terminate
        self._default = default_auto_reply
        self._input = input_func
        self._registered: list[_Registered] = []
        self._auto_replies: dict[str, int] = {}

    def register_reply(
        self, trigger: Any, reply_func: ReplyFunc, position: int = 0, config: Any = None
    ) -> None:
        """Put a reply function ahead of all others. `trigger`: an agent, its name, a class, a callable of the
        sender, a list of these, or None for no sender. `reply_func(recipient, messages, sender, config)`
        gives `(final, reply)`; sync or async.
        """
        self._registered.insert(position, _Registered(trigger=trigger, function=reply_func, config=config))

    async def a_generate_reply(
        self, messages: Sequence[Mapping[str, Any]] | None = None, sender: ConversableAgent | None = None
    ) -> str | dict[str, Any] | None:
        """What the agent would say to `messages` (else to what `sender` has said); None: nothing."""
        given = messages if messages is not None else (self.chat_messages.get(sender, []) if sender else [])
        seen = [Message.of(message) for message in given]
        reply = await self.respond(Turn(run=Run(), sender=sender, messages=seen))
        if isinstance(reply, Stop):
            return None
        return {**reply.to_dict()} if reply.extra else reply.content

    generate_reply = blocking_form(a_generate_reply)

    async def respond(self, turn: Turn) -> Message | Stop:
        """Reply: registered functions, termination and human, code, model, default."""
        registered = await self._registered_reply(turn)
        if registered is not None:
            return registered
        human = await self._human_reply(turn)
        if human is not None:
            return human
        for reply_with in (self._code_reply, self._model_reply):
            reply = await reply_with(turn)
            if reply is not None:
                return reply
        if self._default is None:
            return Stop(reason=f"no reply: {self.name} has nothing to say")
        return Message.of(self._default)

    async def run_ended(self) -> None:
        """Let the code executor close its session, unless it keeps it, and the model its connections."""
        if self.code_executor is not None and hasattr(self.code_executor, "run_ended"):
            await self.code_executor.run_ended()
        close = getattr(self.model_client, "close", None)
        if close is not None:
            await close()

    def new_chat_with(self, other: str) -> None:
        """A chat begins: the auto-reply counter for that sender starts anew."""
        self._auto_replies.pop(other, None)

    async def _registered_reply(self, turn: Turn) -> Message | Stop | None:
        for registered in self._registered:
            if not _triggers(registered.trigger, turn.sender):
                continue
            messages = [message.to_dict() for message in turn.messages]
            final, reply = await call(registered.function, self, messages, turn.sender, registered.config)
            if final:
                none = Stop(reason=f"no reply: a reply function of {self.name} ended the conversation")
                return none if reply is None else Message.of(reply)
        return None

    async def _human_reply(self, turn: Turn) -> Message | Stop | None:
        last = turn.messages[-1].to_dict() if turn.messages else {"content": ""}
        situation = Situation(
            mode=self.human_input_mode,
            terminal=not turn.about_task and bool(self._is_termination(last)),
            auto_replies=self._auto_replies.get(turn.sender_name, 0),
            allowed=self.max_consecutive_auto_reply,
        )
        plan: Any = decide(situation, name=self.name, sender=turn.sender_name)
        asked = not isinstance(plan, End | AutoReply)
        if asked:
            plan = heed(situation, await self._ask(plan.prompt, turn), sender=turn.sender_name)
        if isinstance(plan, End | Say):
            self._auto_replies[turn.sender_name] = 0
            return Stop(reason=plan.reason) if isinstance(plan, End) else Message(content=plan.text)
        self._auto_replies[turn.sender_name] = situation.auto_replies + 1
        if self.human_input_mode != "NEVER":
            turn.run.emit(Notice(agent=self.name, text="USING AUTO REPLY..."))
        return None

    async def _ask(self, prompt: str, turn: Turn) -> str:
        turn.run.emit(HumanAsked(agent=self.name, prompt=prompt))
        answer = await ask_human(self._input, prompt)
        if answer:
            turn.run.human_input.append(answer)
        else:
            turn.run.emit(Notice(agent=self.name, text="NO HUMAN INPUT RECEIVED."))
        return answer

    async def _code_reply(self, turn: Turn) -> Message | None:
        if self.code_executor is None:
            return None
        blocks = blocks_to_run(turn.messages, self._last_n)
        if not blocks:
            return None
        count = len(blocks)
        result = await self.code_executor.execute_code_blocks(
            blocks, lambda progress: turn.run.emit(chat_event(progress, agent=self.name, count=count))
        )
        return Message(content=reply_text(result), artifacts=tuple(result.artifacts))

    async def _model_reply(self, turn: Turn) -> Message | None:
        if self.model_client is None:
            return None
        turn.run.meter.check()
        system = [Message(role="system", content=self.system_message)] if self.system_message else []

        def heard(text: str) -> None:
            turn.run.emit(ModelText(agent=self.name, recipient=turn.sender_name, text=text))

        response = await self.model_client.create([*system, *map(_unnamed, turn.messages)], stream=heard)
        turn.run.meter.add(response.model, response.usage)
        return Message(content=response.content)


async def ask_human(input_func: InputFunc | None, prompt: str) -> str:
    """A human's answer, stripped; without a keyboard (end of input) it is "exit"."""
    try:
        if input_func is None:
            return (await in_caller(lambda: input(prompt))).strip()
        if inspect.iscoroutinefunction(input_func):
            return str(await input_func(prompt)).strip()
        answer = await in_caller(lambda: input_func(prompt))
        return str(await answer if inspect.isawaitable(answer) else answer).strip()
    except EOFError:
        return "exit"


def _unnamed(message: Message) -> Message:
    """As a model gets it: between two, the roles say who speaks."""
    return Message(content=message.content, role=message.role, extra=message.extra)


def _triggers(trigger: Any, sender: Any) -> bool:
    if isinstance(trigger, list | tuple | set):
        return any(_triggers(one, sender) for one in trigger)
    if trigger is None or sender is None:
        return trigger is sender
    if isinstance(trigger, str):
        return bool(trigger == sender.name)
    if isinstance(trigger, type):
        return isinstance(sender, trigger)
    if isinstance(trigger, ConversableAgent):
        return trigger is sender
    return bool(trigger(sender))
