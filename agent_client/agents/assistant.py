"""The assistant: writes replies, and code, with a model; calls tools; hands over to others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent_client.agents.conversable import MAX_TOOL_ITERATIONS, ConversableAgent, InputFunc
from agent_client.agents.human import HumanInputMode
from agent_client.agents.task import Runnable
from agent_client.messages import Message, ToolCall
from agent_client.models.base import ModelClient
from agent_client.termination import IsTermination
from agent_client.tools.base import Tool
from agent_client.tools.function import FunctionTool

DEFAULT_SYSTEM_MESSAGE = """You solve tasks by reasoning and by writing code that is run for you.
Whoever you talk to runs every fenced code block of your message and sends you back the exit code and the \
output; they cannot edit code, and they see nothing but what it prints.
- Write complete blocks, tagged ```python or ```sh. Python state (variables, imports, files) is kept.
- Print what you need to see. Save plots and other results as files in the working directory.
- Put code in a fence only if it should run now. Best is one block a message; wait for its output.
- When code fails, read the error, find the cause and send the whole corrected block.
- Check the output before you believe it. Never make up results.
When the task is done and checked, say so with the result, and end your message with the word TERMINATE."""


@dataclass(frozen=True, kw_only=True)
class Handoff:
    """Lets an agent's model pass the word to `target` by calling a tool."""

    target: str
    name: str = ""
    description: str = ""
    message: str = ""

    @property
    def tool_name(self) -> str:
        return self.name or re.sub(r"[^a-zA-Z0-9_-]", "_", f"transfer_to_{self.target}".lower())[:64]

    @property
    def said(self) -> str:
        return (
            self.message or f"Transferred to {self.target}, adopting the role of {self.target} immediately."
        )


class AssistantAgent(Runnable, ConversableAgent):
    """Replies with a model and never asks a human. The second argument may be the system message or a
    model client. `handoffs` are agents' names or `Handoff`s, for a `Swarm`. Without `reflect_on_tool_use`
    the answers of its tools are its reply; with it (the default) its model puts them into words. What the
    model writes is always streamed, whatever `model_client_stream` says.
    """

    DEFAULT_SYSTEM_MESSAGE = DEFAULT_SYSTEM_MESSAGE

    def __init__(
        self,
        name: str,
        system_message: str | ModelClient | None = DEFAULT_SYSTEM_MESSAGE,
        llm_config: Mapping[str, Any] | Literal[False] | None = None,
        is_termination_msg: IsTermination | None = None,
        max_consecutive_auto_reply: int | None = None,
        human_input_mode: HumanInputMode = "NEVER",
        description: str | None = None,
        *,
        model_client: ModelClient | None = None,
        input_func: InputFunc | None = None,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        handoffs: Sequence[str | Handoff] = (),
        max_tool_iterations: int = MAX_TOOL_ITERATIONS,
        reflect_on_tool_use: bool = True,
        model_client_stream: bool = True,  # noqa: ARG002 - as AutoGen 0.4's users type it
    ) -> None:
        if system_message is not None and not isinstance(system_message, str):
            if model_client is not None:
                raise ValueError("two model clients were given")
            model_client, system_message = system_message, DEFAULT_SYSTEM_MESSAGE
        super().__init__(
            name,
            system_message,
            is_termination_msg,
            max_consecutive_auto_reply,
            human_input_mode,
            False,
            llm_config,
            description=description,
            model_client=model_client,
            input_func=input_func,
            tools=tools,
            max_tool_iterations=max_tool_iterations,
        )
        self._reflects = reflect_on_tool_use
        self._handoffs: dict[str, Handoff] = {}
        for given in handoffs:
            handoff = given if isinstance(given, Handoff) else Handoff(target=given)
            described = handoff.description or f"Handoff to {handoff.target}."
            self.add_tool(FunctionTool(_says(handoff.said), described, handoff.tool_name))
            self._handoffs[handoff.tool_name] = handoff

    def reset(self) -> None:
        super().reset()
        self.transcript = None

    def _after_tools(self, calls: Sequence[ToolCall], inner: Sequence[Message]) -> Message | None:
        artifacts = tuple(made for message in inner for made in message.artifacts)
        for wanted in calls:
            handoff = self._handoffs.get(wanted.name)
            if handoff is not None:
                return Message(
                    content=handoff.said,
                    kind="handoff",
                    target=handoff.target,
                    inner=tuple(inner),
                    artifacts=artifacts,
                )
        if self._reflects:
            return None
        return Message(content=inner[-1].content, inner=tuple(inner), artifacts=artifacts)


def _says(text: str) -> Callable[[], str]:
    return lambda: text
