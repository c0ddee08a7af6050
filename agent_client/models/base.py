"""What a model client is: one required method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent_client.messages import Message, ToolCall
from agent_client.usage import Usage

Json = Any
TextSink = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ModelResponse:
    """What the model said. `usage.requests` is 1 for one call."""

    content: str
    usage: Usage = field(default_factory=lambda: Usage(requests=1))
    model: str = "model"
    finish_reason: str = "stop"
    tool_calls: Sequence[ToolCall] = ()


class ModelClient(Protocol):
    """Turns messages into a response. Called by agents, once per reply of the model."""

    async def create(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Json]] = (),
        stream: TextSink | None = None,
    ) -> ModelResponse:
        """The model's next message. With `stream`, its text is also handed there piece by piece as it
        comes; a client that cannot stream may ignore it.

        Raises:
            ModelError: the endpoint failed or refused.
        """
        ...
