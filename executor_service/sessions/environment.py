"""The environment variables of the programs in a sandbox: the same base for all, the caller's on top."""

from __future__ import annotations

import math
from collections.abc import Mapping

WORKSPACE = "/workspace"
BASE: Mapping[str, str] = {
    "PATH": "/workspace/.local/bin:/opt/codecell/env/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": WORKSPACE,
    "USER": "user",
    "LOGNAME": "user",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "MPLCONFIGDIR": "/tmp/.matplotlib",
}
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(*layers: Mapping[str, str], cpus: float) -> dict[str, str]:
    """All variables; later layers win. The libraries that start threads see `cpus`, rounded up."""
    env = dict(BASE) | dict.fromkeys(THREAD_COUNTS, str(math.ceil(cpus)))
    for layer in layers:
        env |= layer
    return env
