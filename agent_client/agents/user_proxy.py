"""The user proxy: stands in for the user, asks them where wanted, and runs the code it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agent_client.agents.code_reply import CodeExecutionConfig
from agent_client.agents.conversable import ConversableAgent, InputFunc
from agent_client.agents.human import HumanInputMode
from agent_client.models.base import ModelClient
from agent_client.termination import IsTermination


class UserProxyAgent(ConversableAgent):
    """Runs code in the service's sandboxes unless `code_execution_config` is False; asks a human at each
    message unless `human_input_mode` says otherwise.
    """

    def __init__(
        self,
        name: str,
        is_termination_msg: IsTermination | None = None,
        max_consecutive_auto_reply: int | None = None,
        human_input_mode: HumanInputMode = "ALWAYS",
        code_execution_config: CodeExecutionConfig | None = None,
        default_auto_reply: str | Mapping[str, Any] | None = "",
        llm_config: Mapping[str, Any] | Literal[False] | None = False,
        system_message: str | None = "",
        description: str | None = None,
        *,
        model_client: ModelClient | None = None,
        input_func: InputFunc | None = None,
    ) -> None:
        super().__init__(
            name,
            system_message,
            is_termination_msg,
            max_consecutive_auto_reply,
            human_input_mode,
            {} if code_execution_config is None else code_execution_config,
            llm_config,
            default_auto_reply,
            description or "Stands in for the user: gives feedback and runs code.",
            model_client=model_client,
            input_func=input_func,
        )
        self.code_execution_given = code_execution_config is not None
