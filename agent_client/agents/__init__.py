"""Agents: parties of a conversation that reply by asking a human, running code, or asking a model."""

from agent_client.agents.assistant import AssistantAgent, Handoff
from agent_client.agents.chats import a_initiate_chats, initiate_chats
from agent_client.agents.code_executor import CodeExecutorAgent
from agent_client.agents.conversable import ConversableAgent, register_function
from agent_client.agents.two_party import TwoParty as Agent
from agent_client.agents.user_proxy import UserProxyAgent

__all__ = [
    "Agent",
    "AssistantAgent",
    "CodeExecutorAgent",
    "ConversableAgent",
    "Handoff",
    "UserProxyAgent",
    "a_initiate_chats",
    "initiate_chats",
    "register_function",
]
