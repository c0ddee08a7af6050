"""AutoGen's `llm_config` as a model client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_client.models.base import ModelClient
from agent_client.models.failover import FailoverClient
from agent_client.models.openai_chat import OpenAIChatCompletionClient

Json = Any
LlmConfig = Mapping[str, Json] | Sequence[Mapping[str, Json]] | str
# Settings of AutoGen itself that say nothing to an endpoint.
_NOT_SENT = ("api_type", "cache", "cache_seed", "config_list", "filter_func", "tags")


def model_client_from(config: LlmConfig) -> ModelClient:
    """The client for `{"config_list": [{"model": ..., ...}], "temperature": ...}`, `{"model": ...}` or a bare
    `config_list`. Of several entries only the last tries again when it fails (`max_retries`): the others have
    a next one.

    Raises:
        ValueError: no model is named, or an `api_type` other than OpenAI's and Azure's is asked for.
    """
    if isinstance(config, str):
        raise ValueError(f'llm_config is {{"model": ...}} or {{"config_list": [...]}}, not {config!r}')  # noqa: TRY004
    refused = {"functions", "tools"} & set(config if isinstance(config, Mapping) else ())
    if refused:
        raise ValueError(f"llm_config has {sorted(refused)}: give functions with tools= or register_function")
    common = dict(config) if isinstance(config, Mapping) else {"config_list": config}
    entries = common.pop("config_list", None) or [{}]
    retries = [0] * (len(entries) - 1) + [2]
    clients = [
        _client({"max_retries": tries, **common, **entry})
        for tries, entry in zip(retries, entries, strict=True)
    ]
    return clients[0] if len(clients) == 1 else FailoverClient(clients)


def _client(entry: dict[str, Json]) -> ModelClient:
    kind = entry.get("api_type") or "openai"
    if kind not in ("openai", "open_ai", "azure"):
        raise ValueError(
            f"api_type {kind!r} is not supported: give its OpenAI-compatible endpoint as base_url, or pass"
            " model_client="
        )
    if not entry.get("model"):
        raise ValueError('llm_config names no model: {"config_list": [{"model": ..., "api_key": ...}]}')
    options = {key: value for key, value in entry.items() if key not in _NOT_SENT}
    if kind == "azure" and "base_url" in options:
        options["azure_endpoint"] = options.pop("base_url")
    return OpenAIChatCompletionClient(**options)
