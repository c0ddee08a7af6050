"""Replying by calling tools, and what a model is shown of calls that are not its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent_client.agents.code_reply import chat_event
from agent_client.chat_events import ToolCalled, ToolReturned
from agent_client.conversation import Run
from agent_client.messages import Message, ToolCall
from agent_client.tools.base import Tool, run_calls


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
