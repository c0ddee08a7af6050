"""The environment variables of the programs in a sandbox: the same base for all, the caller's on top.

What Python and the preloaded libraries read while they start (`LANG`, `PYTHON*`, `MPLCONFIGDIR`) must be
as it is in :mod:`executor_service.guest.zygote`, or the armed interpreter is not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from executor_service.images import OFFLINE_ENV, SANDBOX_PATH, SITE_ENV

WORKSPACE = "/workspace"
BASE: Mapping[str, str] = {
    "PATH": SANDBOX_PATH,
    "HOME": WORKSPACE,
    "USER": "user",
    "LOGNAME": "user",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "MPLCONFIGDIR": "/tmp/.matplotlib",  # noqa: S108 - the sandbox's own
    "PYTHONDONTWRITEBYTECODE": "1",
    **SITE_ENV,
    **OFFLINE_ENV,
}
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(*layers: Mapping[str, str], cpus: float) -> dict[str, str]:
    """All variables; later layers win. The libraries that start threads see `cpus`, rounded up."""
    env = dict(BASE) | dict.fromkeys(THREAD_COUNTS, str(math.ceil(cpus)))
    for layer in layers:
        env |= layer
    return env
