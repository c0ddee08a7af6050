"""Model clients: what turns a list of messages into the next one."""

from agent_client.models.base import ModelClient, ModelResponse
from agent_client.models.config import model_client_from
from agent_client.models.config_list import config_list_from_json, filter_config
from agent_client.models.openai_chat import OpenAIChatCompletionClient
from agent_client.models.replay import ReplayChatCompletionClient

__all__ = [
    "ModelClient",
    "ModelResponse",
    "OpenAIChatCompletionClient",
    "ReplayChatCompletionClient",
    "config_list_from_json",
    "filter_config",
    "model_client_from",
]
