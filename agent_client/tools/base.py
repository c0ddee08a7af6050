"""What a tool is and gives back, and how the calls of one model reply are run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent_client.blocking import CLEANUP_TIME
from agent_client.executors.base import ProgressSink
from agent_client.messages import Artifact, ToolCall, ToolResponse
from agent_client.output_text import MAX_FOR_MODEL, for_model, label

Json = Any
DEFAULT_TIMEOUT = 300.0
MAX_AT_ONCE = 100  # calls of one reply: each may take a thread


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool gives back: text for the model (an error's too), and images or files it made."""

    content: str
    is_error: bool = False
    artifacts: Sequence[Artifact] = ()


class BadArguments(ValueError):
    """The model's arguments do not fit; the message is for the model."""


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
    """Run the calls, at most 100 at a time; the answers in the calls' order. An unknown tool, one that fails
    and one that takes longer than `max_time` seconds are answered as errors. Cancelling cancels all.
    """
    room = asyncio.Semaphore(MAX_AT_ONCE)

    async def one(call: ToolCall) -> ToolResponse:
        if call.name in tools:
            async with room:
                run = tools[call.name].run
                result = await _within(max_time, call, lambda: run(call.arguments, on_progress))
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


async def attempt(work: Callable[[], Awaitable[object]]) -> ToolResult:
    """What comes of `work`; what it raises is a result too, SystemExit included. A cancellation from outside
    passes, and so does Ctrl-C.
    """
    try:
        return result_of(await work())
    except BaseException as error:
        if _passes(error):
            raise
        return _failure(error)


def result_of(value: object) -> ToolResult:
    """A function's return value: text as it is, models, dataclasses and containers as JSON, artifacts by
    name, else `str(value)`; cleaned and bounded.
    """
    if isinstance(value, ToolResult):
        return value
    items = value if isinstance(value, list | tuple) else [value]
    artifacts = tuple(item for item in items if isinstance(item, Artifact))
    if artifacts:
        lines = (item.name if isinstance(item, Artifact) else _text(item) for item in items)
        return ToolResult(content=_bounded("\n".join(lines)), artifacts=artifacts)
    return ToolResult(content=_bounded(_text(value)))


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({memoryview(value).nbytes} bytes of binary data)"
    has_fields = any(hasattr(type(value), a) for a in ("model_dump_json", "__dataclass_fields__"))
    if has_fields or isinstance(value, dict | list | tuple | set | frozenset):
        from pydantic_core import to_json

        try:
            return to_json(value, fallback=str, bytes_mode="base64", inf_nan_mode="constants").decode()
        except (ValueError, RecursionError):  # it contains itself, or no JSON can say it
            pass
    return str(value)


def _bounded(text: str) -> str:
    if len(text) > 10 * MAX_FOR_MODEL:  # cleaning all of it, only to drop it, would hold up everyone
        head, tail = MAX_FOR_MODEL // 3, MAX_FOR_MODEL // 2
        parts = for_model(text[:head]), for_model(text[-tail:])
        text = f"\n... [{len(text) - head - tail} characters left out] ...\n".join(parts)
    # Names of files may hold lone surrogates, which no request can.
    return for_model(text).encode("utf-8", "replace").decode()


def _failure(error: BaseException) -> ToolResult:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - whatever a foreign __str__ raises, the call is to be answered
        said = ""
    parts = ["Error", *([] if isinstance(error, BadArguments) else [type(error).__name__]), said]
    return ToolResult(content=_bounded(": ".join(filter(None, parts))), is_error=True)


def _passes(error: BaseException) -> bool:
    """Whether it is meant for the program rather than from the tool."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    if isinstance(error, KeyboardInterrupt):  # elsewhere nobody pressed anything, and it would end the loop
        return threading.current_thread() is threading.main_thread()
    return isinstance(error, GeneratorExit)
