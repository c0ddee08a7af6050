"""Tools made from Python functions, typed by their annotations and described by their docstrings."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from agent_client.blocking import in_daemon_thread
from agent_client.executors.base import ProgressSink
from agent_client.tools.arguments import Arguments, summary
from agent_client.tools.base import ToolResult, attempt, result_of

P = ParamSpec("P")
T = TypeVar("T")


class FunctionTool(Generic[P, T]):
    """A function, sync or async, that a model may call; it stays callable as itself.

    Raises:
        ValueError: a name that no endpoint takes, or parameters that no JSON schema describes.
    """

    def __init__(self, func: Callable[P, T], description: str | None = None, name: str | None = None) -> None:
        functools.update_wrapper(self, func, updated=())
        plain = func.func if isinstance(func, functools.partial) else func
        own = getattr(plain, "__name__", type(plain).__name__)
        self.func = func
        self.name = name or re.sub(r"[^a-zA-Z0-9_-]", "_", own)[:64]
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", self.name):
            raise ValueError(f"a tool's name is 1 to 64 of a-z, A-Z, 0-9, _ and -, not {self.name!r}")
        self.description = summary(plain) if description is None else description
        self._arguments = Arguments(func)
        self.parameters = self._arguments.schema

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.func(*args, **kwargs)

    async def run(self, arguments: str, on_progress: ProgressSink | None = None) -> ToolResult:  # noqa: ARG002
        """Check the arguments and call the function; a sync one on a thread of its own, which is abandoned
        when this is cancelled. Whatever the model or the function does wrong is a result.
        """

        async def work() -> object:
            call = self._arguments.bind(arguments)
            if inspect.iscoroutinefunction(self.func):
                return await call()
            value = await in_daemon_thread(lambda: _settled(call()))
            return await value if inspect.isawaitable(value) else value

        return await attempt(work)


@overload
def tool(func: Callable[P, T], /) -> FunctionTool[P, T]: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None
) -> Callable[[Callable[P, T]], FunctionTool[P, T]]: ...
def tool(func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a tool: `@tool`, or `@tool(name=..., description=...)`."""
    if func is not None:
        return FunctionTool(func)
    return lambda function: FunctionTool(function, **options)


def _settled(value: object) -> object:
    """As a result, on the function's thread too: a large value takes its time."""
    return value if inspect.isawaitable(value) else result_of(value)
