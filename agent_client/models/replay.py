"""A model that says what it was told to say, for tests and demos."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent_client.errors import ModelError
from agent_client.messages import Message
from agent_client.models.base import ModelResponse, TextSink
from agent_client.usage import Usage


class ReplayChatCompletionClient:
    """Gives the replies in order. `calls` holds the messages of each call so far."""

    def __init__(self, replies: Iterable[str | ModelResponse]) -> None:
        self._replies = tuple(replies)
        self.calls: list[tuple[Message, ...]] = []

    async def create(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),  # noqa: ARG002  # the protocol's
        stream: TextSink | None = None,
    ) -> ModelResponse:
        """The next reply.

        Raises:
            ModelError: all replies have been given.
        """
        if len(self.calls) >= len(self._replies):
            raise ModelError(f"the replay has only {len(self._replies)} replies and was asked for one more")
        reply = self._replies[len(self.calls)]
        self.calls.append(tuple(messages))
        if isinstance(reply, str):
            reply = ModelResponse(content=reply, usage=Usage(requests=1), model="replay")
        if stream is not None:
            for piece in re.findall(r"\S+\s*|\s+", reply.content):
                stream(piece)
        return reply
