"""Agents: parties of a conversation that reply by asking a human, running code, or asking a model."""

from __future__ import annotations

from agent_client.agents.assistant import AssistantAgent
from agent_client.agents.conversable import ConversableAgent
from agent_client.agents.user_proxy import UserProxyAgent

__all__ = ["AssistantAgent", "ConversableAgent", "UserProxyAgent"]
