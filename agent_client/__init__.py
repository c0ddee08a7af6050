"""Codecell's client: agents that write code, and a service that runs it in a sandbox.

Everything public is importable from here and loaded on first use, so that `import agent_client` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_client.agents import *  # noqa: F403
    from agent_client.client import *  # noqa: F403
    from agent_client.code_blocks import CodeBlock as CodeBlock
    from agent_client.code_blocks import extract_code_blocks as extract_code_blocks
    from agent_client.conditions import *  # noqa: F403
    from agent_client.console import Console as Console
    from agent_client.conversation import CancellationToken as CancellationToken
    from agent_client.conversation import ChatResult as ChatResult
    from agent_client.conversation import InputPending as InputPending
    from agent_client.conversation import TaskResult as TaskResult
    from agent_client.executors import *  # noqa: F403
    from agent_client.groupchat import *  # noqa: F403
    from agent_client.messages import *  # noqa: F403
    from agent_client.models import *  # noqa: F403
    from agent_client.runtime import *  # noqa: F403
    from agent_client.teams import *  # noqa: F403
    from agent_client.tools import *  # noqa: F403
    from agent_client.transcript_file import TranscriptWriter as TranscriptWriter
    from agent_client.usage import Usage as Usage
    from agent_client.usage import UsageLimits as UsageLimits
    from agent_client.wire.results import CommandResult as CommandResult
    from agent_client.wire.results import ExecutionResult as ExecutionResult
    from agent_client.wire.results import RunResult as RunResult

_ROOMS = {
    "agents": "Agent AssistantAgent CodeExecutorAgent ConversableAgent Handoff UserProxyAgent"
    " a_initiate_chats initiate_chats register_function",
    "client": "AsyncExecutorClient AsyncSession ExecutorClient Session",
    "code_blocks": "CodeBlock extract_code_blocks",
    "conditions": "Condition Progress ExternalTermination FunctionCallTermination FunctionalTermination"
    " HandoffTermination LastWordTermination MaxMessageTermination SourceMatchTermination Stalled"
    " StopMessageTermination TextMentionTermination TextMessageTermination TimeoutTermination"
    " TokenUsageTermination",
    "console": "Console",
    "conversation": "CancellationToken ChatResult InputPending TaskResult",
    "executors": "CodeExecutor CodeResult RemoteCodeExecutor",
    "groupchat": "GroupChat GroupChatManager",
    "messages": "Artifact Message TextMessage ToolCall ToolResponse",
    "models": "ModelClient ModelResponse OpenAIChatCompletionClient ReplayChatCompletionClient"
    " config_list_from_json filter_config",
    "runtime": "AgentId AgentRuntime LocalAgentRuntime MessageContext RoutedAgent TopicId"
    " TypePrefixSubscription TypeSubscription message_handler",
    "teams": "RoundRobinGroupChat SelectorGroupChat Swarm Team",
    "tools": "CodeExecutionTool FunctionTool Tool ToolResult tool",
    "transcript_file": "TranscriptWriter",
    "usage": "Usage UsageLimits",
    "wire.results": "CommandResult ExecutionResult RunResult",
}
_WHERE = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
