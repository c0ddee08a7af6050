"""The user proxy: stands in for the user, asks them where wanted, and runs the code it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agent_client.agents.conversable import ConversableAgent, InputFunc
from agent_client.agents.human import HumanInputMode, Situation, heed
from agent_client.agents.replies import CodeExecutionConfig
from agent_client.conversation import Stop, Turn
from agent_client.messages import Message
from agent_client.models.base import ModelClient
from agent_client.termination import IsTermination


class UserProxyAgent(ConversableAgent):
    """Runs code in the service's sandboxes unless `code_execution_config` is False; asks a human at each
    message unless `human_input_mode` says otherwise. In a team it asks its human, and runs code only if
    `code_execution_config` was given.
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
        self._runs_code_in_teams = bool(code_execution_config) or code_execution_config == {}

    async def _reply(self, turn: Turn) -> Message | Stop | None:
        if turn.setting != "team":
            return await super()._reply(turn)
        reply = await self._late_reply(turn) or await self._tool_reply(turn)
        if reply is None and self._runs_code_in_teams:
            reply = await self._code_reply(turn)
        if reply is not None or self.human_input_mode == "NEVER":
            return reply
        last = turn.messages[-1].name if turn.messages else None
        to = f" to {last}" if last else ""
        prompt = f"Replying as {self.name}. Enter your response{to}, or 'exit' to stop: "
        answer = await self.ask(prompt, turn.run)
        terminal = not turn.about_task and await self._ends(turn.messages)
        situation = Situation(mode="ALWAYS", terminal=terminal, auto_replies=0, allowed=0)
        return heed(situation, answer, sender=turn.sender_name)
