"""Group chats: several agents in one conversation, and a manager who says whose turn it is."""

from agent_client.groupchat.group_chat import GroupChat
from agent_client.groupchat.manager import GroupChatManager

__all__ = ["GroupChat", "GroupChatManager"]
