"""What a sandbox's meters say before and after an operation; a sandbox that is gone says nothing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from executor_service.errors import SandboxFailed
from executor_service.result import Reading
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.files import now_ns

__all__ = ["Reading", "Start", "begin", "read_meters"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """From when on, and from what readings, an operation counts; `again`: it began under another service."""

    since_ns: int
    before: Reading
    again: bool = False


async def begin(sandbox: Sandbox) -> Start:
    """An operation starts now."""
    return Start(since_ns=now_ns(), before=await read_meters(sandbox))


async def read_meters(sandbox: Sandbox) -> Reading:
    """The meters now."""
    with contextlib.suppress(SandboxFailed, OSError):
        return await sandbox.meters()
    return Reading()
