"""What a sandbox's meters say before and after an operation; a sandbox that is gone says nothing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from executor_service.errors import SandboxFailed
from executor_service.result import Usage
from executor_service.sandboxes.base import Sandbox


@dataclass(frozen=True, kw_only=True)
class Reading:
    """CPU and memory, and how many processes the memory limit has killed, up to an instant."""

    usage: Usage
    oom_kills: int


async def read_meters(sandbox: Sandbox) -> Reading:
    """The meters now."""
    usage, kills = Usage(), 0
    with contextlib.suppress(SandboxFailed, OSError):
        usage = await sandbox.usage()
    with contextlib.suppress(SandboxFailed, OSError):
        kills = await sandbox.oom_kills()
    return Reading(usage=usage, oom_kills=kills)
