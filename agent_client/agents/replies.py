"""Replying by running code (which message's blocks, and by what) and by calling tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from agent_client.chat_events import (
    ArtifactCreated,
    ChatEvent,
    CodeOutput,
    CodeStarted,
    Notice,
    ToolCalled,
    ToolReturned,
)
from agent_client.code_blocks import CodeBlock, extract_code_blocks
from agent_client.conversation import Run
from agent_client.executors.base import ArtifactMade, BlockStarted, CodeExecutor, Output, Progress
from agent_client.executors.remote import DEFAULT_TIMEOUT, RemoteCodeExecutor
from agent_client.messages import Message, ToolCall
from agent_client.tools.base import Tool, run_calls

CodeExecutionConfig = Mapping[str, Any] | Literal[False]
LastN = int | Literal["auto"]
_KNOWN = frozenset({"executor", "work_dir", "timeout", "use_docker", "last_n_messages"})


def blocks_to_run(messages: Sequence[Message], last_n: LastN = "auto") -> list[CodeBlock]:
    """The blocks of the newest message that has any, among the last `last_n` received; "auto" reads
    those since the agent last spoke.
    """
    for scanned, message in enumerate(reversed(messages)):
        if message.role != "user" if last_n == "auto" else scanned >= last_n:
            return []
        blocks = extract_code_blocks(message.content)
        if blocks:
            return blocks
    return []


def chat_event(progress: Progress, *, agent: str, count: int) -> ChatEvent:
    """An executor's progress as an event of the conversation."""
    match progress:
        case BlockStarted():
            block, index = progress.block, progress.index
            return CodeStarted(
                agent=agent, language=block.language, index=index, count=count, code=block.code
            )
        case Output():
            return CodeOutput(agent=agent, text=progress.text, stream=progress.stream)
        case ArtifactMade():
            return ArtifactCreated(agent=agent, artifact=progress.artifact)
        case _:
            return Notice(agent=agent, text=progress.text)


def executor_from(config: CodeExecutionConfig | None) -> CodeExecutor | None:
    """The executor that a `code_execution_config` describes; None where it is false.

    Raises:
        ValueError: it has a key that is not known.
    """
    if config is False or config is None:
        return None
    unknown = set(config) - _KNOWN
    if unknown:
        raise ValueError(f"code_execution_config knows {sorted(_KNOWN)}, not {sorted(unknown)}")
    executor: CodeExecutor | None = config.get("executor")
    if executor is not None:
        if not hasattr(executor, "execute_code_blocks"):
            raise ValueError('code_execution_config["executor"] is no code executor')
        return executor
    docker = config.get("use_docker")
    return RemoteCodeExecutor(
        work_dir=config.get("work_dir"),
        timeout=float(config.get("timeout") or DEFAULT_TIMEOUT),
        backend="docker" if docker else None,
        image=docker if isinstance(docker, str) else None,
    )


def last_n_from(config: CodeExecutionConfig | None) -> LastN:
    """`last_n_messages` of a `code_execution_config`.

    Raises:
        ValueError: it is neither "auto" nor a number above zero.
    """
    value: object = config.get("last_n_messages", "auto") if config else "auto"
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError('last_n_messages is "auto" or a number above zero')


async def answer_calls(agent: str, calls: Sequence[ToolCall], tools: Mapping[str, Tool], run: Run) -> Message:
    """Run the calls at the same time, telling of each; the answers as one message of role "tool"."""
    for wanted in calls:
        run.emit(ToolCalled(agent=agent, call=wanted))
    responses = await run_calls(
        calls,
        tools,
        on_progress=lambda progress: run.emit(chat_event(progress, agent=agent, count=1)),
        on_return=lambda response: run.emit(ToolReturned(agent=agent, response=response)),
    )
    return Message(
        content="\n\n".join(response.content for response in responses),
        role="tool",
        tool_responses=responses,
        artifacts=tuple(made for response in responses for made in response.artifacts),
    )


def for_model(messages: Sequence[Message], *, named: bool) -> list[Message]:
    """The messages as a model may get them: each of its own calls is followed by its answers; calls of
    others, and calls that were never answered, are told as text. Names only where more than two speak.
    """
    shown: list[Message] = []
    for index, message in enumerate(messages):
        following = messages[index + 1] if index + 1 < len(messages) else None
        previous = messages[index - 1] if index else None
        plain = message if named else replace(message, name=None)
        if message.tool_calls and not (message.role == "assistant" and _answers(following, message)):
            calls = "; ".join(f"{c.name}({c.arguments})" for c in message.tool_calls)
            plain = replace(plain, content=f"{message.content}\n[calls {calls}]".strip(), tool_calls=())
        elif message.role == "tool" and not (
            previous is not None and previous.role == "assistant" and _answers(message, previous)
        ):
            plain = replace(plain, role="user", tool_responses=())
        shown.append(plain)
    return shown


def _answers(message: Message | None, calls: Message) -> bool:
    """Whether `message` answers exactly the calls."""
    answered = {response.call_id for response in message.tool_responses} if message is not None else set()
    return bool(calls.tool_calls) and answered == {wanted.id for wanted in calls.tool_calls}
