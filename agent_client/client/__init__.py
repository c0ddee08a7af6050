"""The service's HTTP API in Python: `AsyncExecutorClient`, and `ExecutorClient` over it."""

from __future__ import annotations

from agent_client.client.async_client import AsyncExecutorClient
from agent_client.client.operation import AsyncOperation, EventStream
from agent_client.client.session import AsyncSession
from agent_client.client.sync_client import ExecutorClient, Operation, Session

__all__ = [
    "AsyncExecutorClient",
    "AsyncOperation",
    "AsyncSession",
    "EventStream",
    "ExecutorClient",
    "Operation",
    "Session",
]
