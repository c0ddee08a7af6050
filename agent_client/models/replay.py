"""A model that says what it was told to say, for tests and demos."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent_client.errors import ModelError
from agent_client.messages import Message
from agent_client.models.base import ModelResponse, TextSink
from agent_client.usage import Usage


class ReplayChatCompletionClient:
    """Gives the replies in order, whoever asks, from any loop or thread: an exception is raised, a str counts
    as a token for every 4 characters of it and of the messages, at least one each. `calls` holds the messages
    of each call so far.
    """

    def __init__(self, replies: Iterable[str | ModelResponse | Exception]) -> None:
        self._replies = tuple(replies)
        self._lock = threading.Lock()
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
            Exception: the one that is next.
        """
        with self._lock:
            index = len(self.calls)
            if index >= len(self._replies):
                raise ModelError(
                    f"the replay has only {len(self._replies)} replies and was asked for one more"
                )
            self.calls.append(tuple(messages))
        reply = self._replies[index]
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, str):
            asked = sum(len(message.content) for message in messages)
            used = Usage(requests=1, prompt_tokens=1 + asked // 4, completion_tokens=1 + len(reply) // 4)
            reply = ModelResponse(content=reply, usage=used, model="replay")
        if stream is not None:
            for piece in re.findall(r"\S+\s*|\s+", reply.content):
                stream(piece)
        return reply
