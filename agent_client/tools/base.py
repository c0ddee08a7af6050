"""What a tool is, and how the calls of one model reply are run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent_client.executors.base import ProgressSink
from agent_client.messages import Artifact, ToolCall, ToolResponse

Json = Any
DEFAULT_TIMEOUT = 300.0


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool gives back: text for the model (an error's too), and images or files it made."""

    content: str
    is_error: bool = False
    artifacts: Sequence[Artifact] = ()


class Tool(Protocol):
    """Something a model may call. Called by agents, possibly several calls at a time."""

    @property
    def name(self) -> str:
        """`[a-zA-Z0-9_-]`, at most 64 characters."""
        ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Json]:
        """The JSON schema of the arguments: an object."""
        ...

    async def run(self, arguments: str, on_progress: ProgressSink | None = None) -> ToolResult:
        """Run it with `arguments`, JSON text as the model wrote it. Never raises for what the model or the
        tool's function did wrong: that is a result with `is_error`.
        """
        ...


def schema_of(tool: Tool) -> dict[str, Json]:
    """The tool as chat completions want it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


async def run_calls(
    calls: Sequence[ToolCall],
    tools: Mapping[str, Tool],
    *,
    max_time: float | None = DEFAULT_TIMEOUT,
    on_progress: ProgressSink | None = None,
    on_return: Callable[[ToolResponse], None] | None = None,
) -> list[ToolResponse]:
    """Run the calls at the same time; the answers in the calls' order. An unknown tool and one that takes
    longer than `max_time` seconds are answered as errors. Cancelling cancels all.
    """

    async def one(call: ToolCall) -> ToolResponse:
        tool = tools.get(call.name)
        if tool is None:
            known = ", ".join(sorted(tools)) or "none"
            result = ToolResult(content=f"Error: no tool {call.name!r}. Known tools: {known}.", is_error=True)
        else:
            try:
                async with asyncio.timeout(max_time):
                    result = await tool.run(call.arguments, on_progress)
            except TimeoutError:
                text = f"Error: {call.name} did not return within {max_time:g} s and was abandoned."
                result = ToolResult(content=text, is_error=True)
        response = ToolResponse(
            call_id=call.id,
            name=call.name,
            content=result.content,
            is_error=result.is_error,
            artifacts=result.artifacts,
        )
        if on_return is not None:
            on_return(response)
        return response

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]
