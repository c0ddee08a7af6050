"""Codecell's client: agents that write code, and a service that runs it in a sandbox.

Everything public is importable from here and loaded on first use, so that `import agent_client` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_client.agents import AssistantAgent as AssistantAgent
    from agent_client.agents import ConversableAgent as ConversableAgent
    from agent_client.agents import UserProxyAgent as UserProxyAgent
    from agent_client.client import AsyncExecutorClient as AsyncExecutorClient
    from agent_client.client import AsyncSession as AsyncSession
    from agent_client.client import ExecutorClient as ExecutorClient
    from agent_client.client import Session as Session
    from agent_client.code_blocks import CodeBlock as CodeBlock
    from agent_client.code_blocks import extract_code_blocks as extract_code_blocks
    from agent_client.console import Console as Console
    from agent_client.conversation import ChatResult as ChatResult
    from agent_client.executors import CodeExecutor as CodeExecutor
    from agent_client.executors import CodeResult as CodeResult
    from agent_client.executors import RemoteCodeExecutor as RemoteCodeExecutor
    from agent_client.messages import Artifact as Artifact
    from agent_client.messages import Message as Message
    from agent_client.models import ModelClient as ModelClient
    from agent_client.models import ModelResponse as ModelResponse
    from agent_client.models import OpenAIChatCompletionClient as OpenAIChatCompletionClient
    from agent_client.models import ReplayChatCompletionClient as ReplayChatCompletionClient
    from agent_client.usage import Usage as Usage
    from agent_client.usage import UsageLimits as UsageLimits
    from agent_client.wire.results import CommandResult as CommandResult
    from agent_client.wire.results import ExecutionResult as ExecutionResult
    from agent_client.wire.results import RunResult as RunResult

_WHERE = {
    "AssistantAgent": "agents",
    "ConversableAgent": "agents",
    "UserProxyAgent": "agents",
    "AsyncExecutorClient": "client",
    "AsyncSession": "client",
    "ExecutorClient": "client",
    "Session": "client",
    "CodeBlock": "code_blocks",
    "extract_code_blocks": "code_blocks",
    "Console": "console",
    "ChatResult": "conversation",
    "CodeExecutor": "executors",
    "CodeResult": "executors",
    "RemoteCodeExecutor": "executors",
    "Artifact": "messages",
    "Message": "messages",
    "ModelClient": "models",
    "ModelResponse": "models",
    "OpenAIChatCompletionClient": "models",
    "ReplayChatCompletionClient": "models",
    "Usage": "usage",
    "UsageLimits": "usage",
    "CommandResult": "wire.results",
    "ExecutionResult": "wire.results",
    "RunResult": "wire.results",
}
__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
