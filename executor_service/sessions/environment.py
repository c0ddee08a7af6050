"""The environment variables of the programs in a sandbox: the same base for all, the caller's on top."""

from __future__ import annotations

import math
from collections.abc import Mapping

from executor_service.images import BASE_ENV, THREAD_COUNTS

WORKSPACE = "/workspace"
_WARM = {**BASE_ENV, **dict.fromkeys(THREAD_COUNTS, "1")}  # what a kernel was started with


def environment(*layers: Mapping[str, str], cpus: float) -> dict[str, str]:
    """All variables; later layers win. The libraries that start threads see `cpus`, rounded up."""
    env = dict(BASE_ENV) | dict.fromkeys(THREAD_COUNTS, str(math.ceil(cpus)))
    for layer in layers:
        env |= layer
    return env


def for_kernel(env: Mapping[str, str]) -> dict[str, str]:
    """Those of `env` that a kernel, which was started before its lease was known, does not have yet."""
    return {name: value for name, value in env.items() if _WARM.get(name) != value}
