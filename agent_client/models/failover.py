"""Several model clients as one: the next is asked where one fails."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent_client.errors import ModelError, ModelRequestRefused
from agent_client.messages import Message
from agent_client.models.base import ModelClient, ModelResponse, TextSink


class FailoverClient:
    """Asks the clients in order until one answers; one that wants to be left alone for a while
    (`Retry-After`) comes last until then.

    Every failure leads on, a refused key and an unknown model too: the next entry has its own. Only a
    request that is itself wrong does not, nor a failure after the first word, as what was streamed cannot
    be taken back.
    """

    def __init__(self, clients: Sequence[ModelClient]) -> None:
        self._clients = tuple(clients)
        self._rests: dict[int, float] = {}  # until when, on the monotonic clock

    async def close(self) -> None:
        """Close the clients' connections."""
        for client in self._clients:
            if hasattr(client, "close"):
                await client.close()

    async def create(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        stream: TextSink | None = None,
    ) -> ModelResponse:
        """The first answer.

        Raises:
            ModelError: all failed; it says each one's reason, and is of their class if they agree.
        """
        failed: list[ModelError] = []
        said = False

        def heard(text: str) -> None:
            nonlocal said
            said = True
            if stream is not None:
                stream(text)

        now = time.monotonic()
        for index in sorted(range(len(self._clients)), key=lambda i: max(0.0, self._rests.get(i, 0.0) - now)):
            try:
                sink = heard if stream is not None else None
                return await self._clients[index].create(messages, tools=tools, stream=sink)
            except ModelError as error:
                if said or isinstance(error, ModelRequestRefused):
                    raise
                failed.append(error)
                self._rests[index] = time.monotonic() + (error.retry_after or 0.0)
        kinds = {type(error) for error in failed}
        kind = kinds.pop() if len(kinds) == 1 else ModelError
        reasons = "; ".join(f"({number}) {error}" for number, error in enumerate(failed, 1))
        wait = min((error.retry_after for error in failed if error.retry_after), default=None)
        raise kind(f"None of {len(failed)} models answered: {reasons}", retry_after=wait)
