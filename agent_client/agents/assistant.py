"""The assistant: writes replies, and code, with a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agent_client.agents.conversable import ConversableAgent, InputFunc
from agent_client.agents.human import HumanInputMode
from agent_client.models.base import ModelClient
from agent_client.termination import IsTermination

DEFAULT_SYSTEM_MESSAGE = """You solve tasks by reasoning and by writing code that is run for you.
Whoever you talk to runs every fenced code block of your message and sends you back the exit code and the \
output; they cannot edit code, and they see nothing but what it prints.
- Write complete blocks, tagged ```python or ```sh. Python state (variables, imports, files) is kept.
- Print what you need to see. Save plots and other results as files in the working directory.
- Put code in a fence only if it should run now. Best is one block a message; wait for its output.
- When code fails, read the error, find the cause and send the whole corrected block.
- Check the output before you believe it. Never make up results.
When the task is done and checked, say so with the result, and end your message with the word TERMINATE."""


class AssistantAgent(ConversableAgent):
    """Replies with a model and never asks a human. The second argument may be the system message or a
    model client.
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
        )
