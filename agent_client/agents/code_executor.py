"""The agent that does nothing but run the code of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent_client.agents.conversable import ConversableAgent
from agent_client.conversation import Turn
from agent_client.executors.base import CodeExecutor
from agent_client.messages import Message

NO_CODE = (
    "No code blocks found in the thread. Please provide at least one markdown-encoded code block to execute"
    " (i.e., quoting code in ```python or ```sh code blocks)."
)


class CodeExecutorAgent(ConversableAgent):
    """Runs the code blocks of the newest message that has any, since it last spoke; of `sources` alone
    where they are named.
    """

    def __init__(
        self,
        name: str,
        code_executor: CodeExecutor,
        *,
        description: str = "Runs code blocks in ```python or ```sh fences and gives back their output.",
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            name,
            "",
            human_input_mode="NEVER",
            code_execution_config={"executor": code_executor},
            default_auto_reply=NO_CODE,
            description=description,
        )
        self._sources = None if sources is None else frozenset(sources)

    async def _code_reply(self, turn: Turn) -> Message | None:
        if self._sources is not None:
            mine = [m for m in turn.messages if m.role == "assistant" or m.name in self._sources]
            turn = replace(turn, messages=mine)
        return await super()._code_reply(turn)
