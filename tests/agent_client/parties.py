"""What the conversations' tests share: a scripted executor, agents with scripted words, input functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from agent_client import (
    AssistantAgent,
    CodeBlock,
    CodeResult,
    ModelResponse,
    ReplayChatCompletionClient,
    ToolCall,
    UserProxyAgent,
)
from agent_client.executors.base import BlockStarted, Output, ProgressSink

CODE = "Try:\n```python\nprint(1)\n```"


class ScriptedExecutor:
    """An executor that answers from a list and remembers what it was given."""

    def __init__(self, results: Sequence[CodeResult]) -> None:
        self.results = list(results)
        self.given: list[list[CodeBlock]] = []
        self.runs_ended = 0
        self.session_id: str | None = None

    async def execute_code_blocks(
        self, blocks: Sequence[CodeBlock], on_progress: ProgressSink | None = None
    ) -> CodeResult:
        self.given.append(list(blocks))
        if on_progress:
            on_progress(BlockStarted(block=blocks[0], index=0))
            on_progress(Output(text="live\n"))
        return self.results.pop(0)

    async def run_ended(self) -> None:
        self.runs_ended += 1

    async def close(self) -> None: ...

    def save_state(self) -> dict[str, Any]:
        return {"session_id": self.session_id}

    def load_state(self, state: dict[str, Any]) -> None:
        self.session_id = state["session_id"]


def done(output: str = "1\n", code: int = 0) -> CodeResult:
    """What came of a block."""
    return CodeResult(exit_code=code, output=output)


def bot(name: str, *replies: str | ModelResponse, **options: Any) -> AssistantAgent:
    """An assistant with scripted words."""
    return AssistantAgent(name, ReplayChatCompletionClient(replies), **options)


def pair(
    replies: Sequence[str | ModelResponse], results: Sequence[CodeResult] = (), **options: Any
) -> tuple[UserProxyAgent, AssistantAgent, ScriptedExecutor]:
    """A user proxy and an assistant whose words and results are scripted, and the executor."""
    executor = ScriptedExecutor(results)
    options = {"human_input_mode": "NEVER", "code_execution_config": {"executor": executor}} | options
    return UserProxyAgent("user", **options), bot("bot", *replies), executor


def calls(*wanted: tuple[str, dict[str, Any]], content: str = "") -> ModelResponse:
    """A model's reply that calls tools, by name and arguments."""
    return ModelResponse(
        content=content,
        tool_calls=[
            ToolCall(id=f"c{number}", name=name, arguments=json.dumps(arguments))
            for number, (name, arguments) in enumerate(wanted)
        ],
    )


def answers(*lines: str) -> tuple[Callable[[str], str], list[str]]:
    """An input function that gives these lines, and the prompts that it was asked."""
    prompts: list[str] = []
    left = list(lines)

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return left.pop(0)

    return answer, prompts
