"""What a tool is, and how the calls of one model reply are run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from agent_client.blocking import CLEANUP_TIME
from agent_client.executors.base import ProgressSink
from agent_client.messages import ToolCall, ToolResponse
from agent_client.output_text import label
from agent_client.tools.result import ToolResult, attempt

Json = Any
DEFAULT_TIMEOUT = 300.0


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
    """Run the calls at the same time; the answers in the calls' order. An unknown tool, one that fails and
    one that takes longer than `max_time` seconds are answered as errors. Cancelling cancels all.
    """

    async def one(call: ToolCall) -> ToolResponse:
        if call.name in tools:
            result = await _within(max_time, call, lambda: tools[call.name].run(call.arguments, on_progress))
        else:
            known = ", ".join(sorted(tools)) or "none"
            text = f"Error: no tool {label(call.name)!r}. Known tools: {known}."
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


async def _within(
    max_time: float | None, call: ToolCall, work: Callable[[], Awaitable[ToolResult]]
) -> ToolResult:
    """`work`'s result. It is cancelled when the time is over or this is cancelled, and abandoned where it
    does not heed that.
    """
    task = asyncio.create_task(attempt(work))
    try:
        await asyncio.wait([task], timeout=max_time)
        if task.done():
            return task.result()
    finally:
        if task.cancel():
            await asyncio.wait([task], timeout=CLEANUP_TIME)
    text = f"Error: {call.name} did not return within {max_time:g} s and was abandoned."
    return ToolResult(content=text, is_error=True)
