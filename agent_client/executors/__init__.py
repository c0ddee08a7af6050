"""Code executors: what an agent hands its code blocks to."""

from __future__ import annotations

from agent_client.executors.base import CodeExecutor, CodeResult
from agent_client.executors.remote import RemoteCodeExecutor

__all__ = ["CodeExecutor", "CodeResult", "RemoteCodeExecutor"]
