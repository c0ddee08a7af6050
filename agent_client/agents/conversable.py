"""The agent that the others are made of: replies by human, tools, code, model or default, in that order."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from agent_client.agents.chats import ChatPlan, a_initiate_chats, initiate_chats, nested_reply
from agent_client.agents.human import HumanInputMode, Situation, decide, heed
from agent_client.agents.replies import (
    CodeExecutionConfig,
    answer_calls,
    blocks_to_run,
    chat_event,
    executor_from,
    for_model,
    last_n_from,
)
from agent_client.agents.two_party import TwoParty
from agent_client.blocking import blocking_form, call, in_caller, typed
from agent_client.chat_events import HumanAsked, ModelText, Notice
from agent_client.conversation import ChatResult, InputPending, PendingInput, Run, Stop, Turn
from agent_client.messages import Message, ToolCall
from agent_client.models.base import ModelClient, ModelResponse
from agent_client.models.config import model_client_from
from agent_client.output_text import clean
from agent_client.termination import IsTermination, last_word_is_terminate
from agent_client.tools.base import Tool, schema_of
from agent_client.tools.code import reply_text
from agent_client.tools.function import FunctionTool

MAX_CONSECUTIVE_AUTO_REPLY = 100
MAX_TOOL_ITERATIONS = 20
HOOKS = (
    "update_agent_state",
    "process_last_received_message",
    "process_all_messages_before_reply",
    "process_message_before_send",
)
InputFunc = Callable[[str], str | Awaitable[str]]
ReplyFunc = Callable[..., Any]
_Registered = tuple[Any, ReplyFunc, Any]  # trigger, function, config


class ConversableAgent(TwoParty):
    """One party of a conversation. Arguments as in AutoGen; `model_client` may stand for `llm_config`,
    `input_func(prompt)` (sync or async) for the keyboard. `tools` are run inside the agent's own turn, at
    most `max_tool_iterations` times before it must answer.
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
        tools: Sequence[Tool | Callable[..., Any]] = (),
        max_tool_iterations: int = MAX_TOOL_ITERATIONS,
    ) -> None:
        if human_input_mode not in ("ALWAYS", "TERMINATE", "NEVER"):
            raise ValueError(f"human_input_mode is ALWAYS, TERMINATE or NEVER, not {human_input_mode!r}")
        if model_client is not None and llm_config:
            raise ValueError("give either model_client or llm_config")
        if model_client is not None and not hasattr(model_client, "create"):
            raise ValueError(
                f"model_client is no model client (OpenAIChatCompletionClient(...)): {model_client!r}"
            )
        super().__init__(name)
        self.system_message = system_message or ""
        self.description = description or self.system_message
        self.human_input_mode: HumanInputMode = human_input_mode
        limit = max_consecutive_auto_reply
        self.max_consecutive_auto_reply = MAX_CONSECUTIVE_AUTO_REPLY if limit is None else limit
        self.model_client = model_client or (model_client_from(llm_config) if llm_config else None)
        self.code_executor = executor_from(code_execution_config)
        self.tools: dict[str, Tool] = {}  # run by this agent, for others' calls and its own
        self.max_tool_iterations = max_tool_iterations
        self._called: dict[str, Tool] = {}  # told to the model
        self._last_n = last_n_from(code_execution_config)
        self._is_termination = is_termination_msg or last_word_is_terminate
        self._default = default_auto_reply
        self._input = input_func
        self._registered: list[_Registered] = []
        self._registered_late: list[_Registered] = []
        self._others_removed = False
        self._hooks: dict[str, list[Callable[..., Any]]] = {name: [] for name in HOOKS}
        self._auto_replies: dict[str, int] = {}
        for given in tools:
            self.add_tool(given)

    def add_tool(self, given: Tool | Callable[..., Any], *, call: bool = True, run: bool = True) -> Tool:
        """Tell the model of a tool (`call`), and have this agent run it (`run`).

        Raises:
            ValueError: another tool has that name, or the function cannot be a tool.
        """
        tool = _tool(given, None, None)
        for wanted, known in ((call, self._called), (run, self.tools)):
            if wanted and known.setdefault(tool.name, tool) is not tool:
                raise ValueError(f"{self.name} has a tool named {tool.name!r} already")
        return tool

    def register_for_llm(
        self, *, name: str | None = None, description: str | None = None, **_: Any
    ) -> Callable[[Any], Any]:
        """A decorator: the agent's model may call the function, which another agent runs."""
        return lambda function: self.add_tool(_tool(function, name, description), run=False)

    def register_for_execution(
        self, name: str | None = None, *, description: str | None = None
    ) -> Callable[[Any], Any]:
        """A decorator: the agent runs the function when another's model calls it."""
        return lambda function: self.add_tool(_tool(function, name, description), call=False)

    def update_system_message(self, system_message: str) -> None:
        """Have the model told something else from now on."""
        self.system_message = system_message

    def update_max_consecutive_auto_reply(self, value: int) -> None:
        """Allow so many auto-replies from now on."""
        self.max_consecutive_auto_reply = value

    def reset(self) -> None:
        """Forget what was said, and the auto-replies."""
        self.clear_history()
        self._auto_replies.clear()

    def register_reply(
        self,
        trigger: Any,
        reply_func: ReplyFunc,
        position: int = 0,
        config: Any = None,
        *,
        remove_other_reply_funcs: bool = False,
    ) -> None:
        """Put a reply function ahead of all others, or from `position` 2 on behind the human's. `trigger`: an
        agent, its name, a class, a callable of the sender, a list of these, or None for no sender.
        `reply_func(recipient, messages, sender, config)` (the last three by name) gives `(final, reply)`;
        sync or async.
        """
        if remove_other_reply_funcs:
            self._registered.clear()
            self._registered_late.clear()
            self._others_removed = True
        replies, at = (self._registered, position) if position < 2 else (self._registered_late, position - 2)
        replies.insert(at, (trigger, reply_func, config))

    def register_nested_chats(
        self, chat_queue: Sequence[ChatPlan], trigger: Any, *, position: int = 2
    ) -> None:
        """Reply to `trigger` (as in `register_reply`) with what comes of chats of its own: each a dict of
        `recipient` and arguments of `initiate_chat`. The first one's message is the one received unless it
        has its own; a callable message gets `(recipient, messages, sender, config)`. The reply is the last
        chat's summary. The model calls of nested chats count against the outer run's limits.
        """
        self.register_reply(trigger, nested_reply(chat_queue), position)

    def initiate_chats(self, chat_queue: Sequence[ChatPlan]) -> list[ChatResult]:
        """`initiate_chats` with this agent as the sender where a chat names none."""
        return initiate_chats([{"sender": self, **chat} for chat in chat_queue])

    async def a_initiate_chats(self, chat_queue: Sequence[ChatPlan]) -> dict[int, ChatResult]:
        """`a_initiate_chats` with this agent as the sender where a chat names none."""
        return await a_initiate_chats([{"sender": self, **chat} for chat in chat_queue])

    def register_hook(self, hookable_method: str, hook: Callable[..., Any]) -> None:
        """Have `hook` change what the agent receives or sends, as in AutoGen: `update_agent_state(agent,
        messages)`, `process_last_received_message(text)`, `process_all_messages_before_reply(messages)`,
        `process_message_before_send(sender=, message=, recipient=, silent=)`. Sync or async.
        """
        if hookable_method not in self._hooks:
            raise ValueError(f"{hookable_method!r} is no hook; known: {', '.join(HOOKS)}")
        self._hooks[hookable_method].append(hook)

    async def a_generate_reply(
        self, messages: Sequence[Mapping[str, Any]] | None = None, sender: ConversableAgent | None = None
    ) -> str | dict[str, Any] | None:
        """What the agent would say to `messages` (else to what `sender` has said); None: nothing."""
        given = messages if messages is not None else (self.chat_messages.get(sender, []) if sender else [])
        seen = [Message.of(message) for message in given]
        run = Run()
        try:
            reply = await self.respond(Turn(run=run, sender=sender, messages=seen))
        finally:
            if not run.is_nested:
                await self.run_ended()
        if isinstance(reply, Stop):
            return None
        return reply.to_dict() if reply.extra or reply.tool_calls or reply.tool_responses else reply.content

    generate_reply = blocking_form(a_generate_reply)

    async def respond(self, turn: Turn) -> Message | Stop:
        """Reply: registered functions, termination and human, tools, code, model, default."""
        turn = await self._hooked(turn)
        registered = await self._registered_reply(turn)
        if registered is None:
            registered = await (self._late_reply if self._others_removed else self._reply)(turn)
        if registered is None:
            if self._default is None:
                return Stop(reason=f"no reply: {self.name} has nothing to say")
            registered = Message.of(self._default)
        if isinstance(registered, Stop) or turn.sender is None:
            return registered
        return await self._processed(registered, turn.sender)

    async def run_ended(self) -> None:
        """Let the code executor close its session, unless it keeps it, and the model its connections."""
        for held in (self.code_executor, *self.tools.values()):
            if held is not None and hasattr(held, "run_ended"):
                await held.run_ended()
        if self.model_client is not None and hasattr(self.model_client, "close"):
            await self.model_client.close()

    def new_chat(self, other: str) -> None:
        """A chat begins: the auto-replies to `other` are counted anew."""
        self._auto_replies.pop(other, None)

    def save_counters(self) -> dict[str, Any]:
        state: Mapping[str, Any] = getattr(self.code_executor, "save_state", dict)()
        return {"auto_replies": dict(self._auto_replies), "executor": state}

    def load_counters(self, saved: Mapping[str, Any]) -> None:
        self._auto_replies = {str(k): int(v) for k, v in saved.get("auto_replies", {}).items()}
        load = getattr(self.code_executor, "load_state", None)
        if load is not None and saved.get("executor"):
            load(saved["executor"])

    async def _reply(self, turn: Turn) -> Message | Stop | None:
        if turn.setting != "team":
            human = await self._human_reply(turn)
            if human is not None:
                return human
        for reply_with in (self._late_reply, self._tool_reply, self._code_reply, self._model_reply):
            reply = await reply_with(turn)
            if reply is not None:
                return reply
        return None

    async def _hooked(self, turn: Turn) -> Turn:
        for hook in self._hooks["update_agent_state"]:
            await call(hook, self, [message.to_dict() for message in turn.messages])
        messages = list(turn.messages)
        for hook in self._hooks["process_all_messages_before_reply"]:
            messages = [Message.of(m) for m in await call(hook, [message.to_dict() for message in messages])]
        for hook in self._hooks["process_last_received_message"]:
            if messages and messages[-1].content:
                text = await call(hook, messages[-1].content)
                messages[-1] = replace(messages[-1], content=str(text))
        return replace(turn, messages=messages)

    async def _processed(self, message: Message, recipient: Any) -> Message:
        for hook in self._hooks["process_message_before_send"]:
            plain = message.to_dict() if message.extra or message.parts else message.content
            given = {"sender": self, "message": plain, "recipient": recipient, "silent": False}
            made = await call(partial(hook, **given))
            changed = Message.of(made)
            message = replace(message, content=changed.content, parts=changed.parts, extra=changed.extra)
        return message

    async def _late_reply(self, turn: Turn) -> Message | Stop | None:
        return await self._registered_reply(turn, late=True)

    async def _registered_reply(self, turn: Turn, *, late: bool = False) -> Message | Stop | None:
        for trigger, function, config in self._registered_late if late else self._registered:
            if not _triggers(trigger, turn.sender):
                continue
            messages = [message.to_dict() for message in turn.messages]
            given = {"messages": messages, "sender": turn.sender, "config": config}
            final, reply = await call(partial(function, self, **given))
            if final:
                none = Stop(reason=f"no reply: a reply function of {self.name} ended the conversation")
                return none if reply is None else Message.of(reply)
        return None

    async def _human_reply(self, turn: Turn) -> Message | Stop | None:
        situation = Situation(
            mode=self.human_input_mode,
            terminal=not turn.about_task and await self._ends(turn.messages),
            auto_replies=self._auto_replies.get(turn.sender_name, 0),
            allowed=self.max_consecutive_auto_reply,
        )
        plan = decide(situation, name=self.name, sender=turn.sender_name)
        if isinstance(plan, str):
            answer = await self.ask(plan, turn.run)
            reply = heed(situation, answer, sender=turn.sender_name)
        else:
            reply = plan
        self._auto_replies[turn.sender_name] = situation.auto_replies + 1 if reply is None else 0
        if reply is None and self.human_input_mode != "NEVER":
            turn.run.emit(Notice(agent=self.name, text="USING AUTO REPLY..."))
        return reply

    async def _ends(self, messages: Sequence[Message]) -> bool:
        """Whether the last message ends the conversation."""
        last = messages[-1].to_dict() if messages else {"content": ""}
        ends = self._is_termination(last)  # on the loop itself: it is called for every message
        return bool(await ends if inspect.isawaitable(ends) else ends)

    def get_human_input(self, prompt: str) -> str:
        """Ask at the keyboard. Override it to ask elsewhere, or give `input_func`."""
        return typed(prompt)

    async def ask(self, prompt: str, run: Run) -> str:
        """Ask the agent's human; the answer that the run was resumed with comes first.

        Raises:
            InputPending: there is no answer yet.
        """
        answer = run.take_answer()
        if answer is None:
            run.emit(HumanAsked(agent=self.name, prompt=prompt))
            try:
                answer = await ask_human(self._input or self.get_human_input, clean(prompt, colours=False))
            except InputPending:
                run.pending = PendingInput(agent=self.name, prompt=prompt)
                raise
        run.human_input.append(answer)
        if not answer:
            run.emit(Notice(agent=self.name, text="NO HUMAN INPUT RECEIVED."))
        return answer

    async def _tool_reply(self, turn: Turn) -> Message | None:
        last = turn.messages[-1] if turn.messages else None
        if last is None or not last.tool_calls or last.name == self.name:
            return None
        return await answer_calls(self.name, last.tool_calls, self.tools, turn.run)

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
        return Message(content=reply_text(result), kind="code", artifacts=tuple(result.artifacts))

    async def _model_reply(self, turn: Turn) -> Message | None:
        if self.model_client is None:
            return None
        inner: list[Message] = []
        for made in range(self.max_tool_iterations + 1):
            response = await self._ask_model(turn, inner, tools=made < self.max_tool_iterations)
            own = [wanted for wanted in response.tool_calls if self._runs_itself(wanted)]
            others = [wanted for wanted in response.tool_calls if wanted not in own]
            if own:
                inner.append(Message(content=response.content, role="assistant", tool_calls=own))
                inner.append(await answer_calls(self.name, own, self.tools, turn.run))
                passed_on = self._after_tools(own, inner)
                if passed_on is not None:
                    return passed_on
            if others or not own:
                content = response.content if not own else ""
                break
        else:
            content, others = f"{self.name} went on calling tools without an answer.", []
        artifacts = tuple(made for message in inner for made in message.artifacts)
        return Message(content=content, tool_calls=others, inner=tuple(inner), artifacts=artifacts)

    def _runs_itself(self, wanted: ToolCall) -> bool:
        """Whether a call of its model is its own to answer: also one of a tool that nobody has, unless
        others run its tools.
        """
        return wanted.name in self.tools or self._called.keys() <= self.tools.keys()

    def _after_tools(
        self,
        calls: Sequence[ToolCall],  # noqa: ARG002 - for those who override it
        inner: Sequence[Message],  # noqa: ARG002
    ) -> Message | None:
        """What the agent says without asking its model again, once its calls are answered; None: it asks."""
        return None

    async def _ask_model(self, turn: Turn, inner: Sequence[Message], *, tools: bool) -> ModelResponse:
        assert self.model_client is not None
        system = [Message(role="system", content=self.system_message)] if self.system_message else []
        seen = for_model([*turn.messages, *inner], named=turn.setting != "two")

        def heard(text: str) -> None:
            turn.run.emit(ModelText(agent=self.name, recipient=turn.sender_name, text=text))

        schemas = [schema_of(tool) for tool in self._called.values()] if tools else []
        return await turn.run.ask(self.model_client, [*system, *seen], tools=schemas, stream=heard)


def register_function(
    f: Callable[..., Any],
    *,
    caller: ConversableAgent,
    executor: ConversableAgent,
    name: str | None = None,
    description: str | None = None,
) -> None:
    """Let `caller`'s model call `f`, and `executor` run it; where both are one agent, in its own turn.

    Raises:
        ValueError: it cannot be a tool, or one of that name is there.
    """
    tool = FunctionTool(f, description, name)
    caller.add_tool(tool, run=False)
    executor.add_tool(tool, call=False)


async def ask_human(input_func: InputFunc, prompt: str) -> str:
    """A human's answer, stripped; without a keyboard (end of input) it is "exit"."""
    try:
        if inspect.iscoroutinefunction(input_func):
            return str(await input_func(prompt)).strip()
        answer = await in_caller(lambda: input_func(prompt))
        return str(await answer if inspect.isawaitable(answer) else answer).strip()
    except EOFError:
        return "exit"


def _tool(function: Any, name: str | None, description: str | None) -> Tool:
    tool: Tool = function if hasattr(function, "parameters") else FunctionTool(function, description, name)
    return tool


def _triggers(trigger: Any, sender: Any) -> bool:
    if isinstance(trigger, list | tuple | set):
        return any(_triggers(one, sender) for one in trigger)
    if trigger is None or sender is None:
        return trigger is sender
    if isinstance(trigger, str):
        return bool(trigger == sender.name)
    if isinstance(trigger, type):
        return isinstance(sender, trigger)
    if isinstance(trigger, TwoParty):
        return trigger is sender
    return bool(trigger(sender))
