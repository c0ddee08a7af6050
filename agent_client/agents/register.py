"""A function that one agent's model calls and another agent runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent_client.agents.conversable import ConversableAgent
from agent_client.tools.function import FunctionTool


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
