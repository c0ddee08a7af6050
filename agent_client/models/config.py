"""AutoGen's `llm_config` as a model client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_client.errors import ModelError
from agent_client.messages import Message
from agent_client.models.base import ModelClient, ModelResponse, TextSink
from agent_client.models.openai_chat import DEFAULT_TIMEOUT, OpenAIChatCompletionClient

Json = Any
LlmConfig = Mapping[str, Json]
# Settings of AutoGen itself that say nothing to an endpoint.
_NOT_SENT = frozenset(
    {"config_list", "cache_seed", "cache", "filter_func", "tags", "api_type", "functions", "tools"}
)


class FailoverClient:
    """Asks the clients in order until one answers. What was streamed is not taken back, so a client
    that fails after its first word ends the search.
    """

    def __init__(self, clients: Sequence[ModelClient]) -> None:
        self._clients = tuple(clients)

    async def close(self) -> None:
        """Close the clients' connections."""
        for client in self._clients:
            close = getattr(client, "close", None)
            if close is not None:
                await close()

    async def create(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Json]] = (),
        stream: TextSink | None = None,
    ) -> ModelResponse:
        """The first answer.

        Raises:
            ModelError: that of the last client, when all failed.
        """
        said: list[str] = []

        def heard(text: str) -> None:
            said.append(text)
            if stream is not None:
                stream(text)

        for client in self._clients[:-1]:
            try:
                return await client.create(messages, tools=tools, stream=heard if stream else None)
            except ModelError:
                if said:
                    raise
        return await self._clients[-1].create(messages, tools=tools, stream=stream)


def model_client_from(config: LlmConfig) -> ModelClient:
    """The client for `{"config_list": [{"model": ..., ...}], "temperature": ...}` or `{"model": ...}`.

    Raises:
        ValueError: no model is named, or an `api_type` other than OpenAI's is asked for.
    """
    common = {k: v for k, v in config.items() if k not in _NOT_SENT}
    entries = config.get("config_list") or ([config] if "model" in config else [])
    if not entries:
        raise ValueError('llm_config names no model: {"config_list": [{"model": ..., "api_key": ...}]}')
    clients = [_client(common | dict(entry)) for entry in entries]
    return clients[0] if len(clients) == 1 else FailoverClient(clients)


def _client(entry: dict[str, Json]) -> ModelClient:
    if entry.get("api_type", "openai") not in ("openai", "open_ai"):
        raise ValueError(
            f"api_type {entry['api_type']!r} is not supported: give its OpenAI-compatible endpoint as"
            " base_url, or pass model_client="
        )
    if not entry.get("model"):
        raise ValueError("an entry of llm_config names no model")
    options = {k: v for k, v in entry.items() if k not in _NOT_SENT}
    price = options.pop("price", None)
    return OpenAIChatCompletionClient(
        options.pop("model"),
        api_key=options.pop("api_key", None),
        base_url=options.pop("base_url", None),
        timeout=options.pop("timeout", None) or DEFAULT_TIMEOUT,
        max_retries=options.pop("max_retries", 2),
        price=(float(price[0]), float(price[1])) if price else None,
        **options,
    )
