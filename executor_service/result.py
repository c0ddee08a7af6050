"""How an operation ended, as data: outcomes and the folded results that callers get.

The program's failure is data here, never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How it ended, in one word; docs/api.md defines each."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    COMPILE_ERROR = "compile_error"
    SANDBOX_DIED = "sandbox_died"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What an operation used: seconds of CPU, and bytes of memory at the peak (its own)."""

    cpu_time: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A sandbox's meters at an instant: CPU seconds since its creation, the peak of its memory since it was
    leased (own pages only), and how many processes the memory limit has killed since its creation.
    """

    usage: Usage = Usage()
    oom_kills: int = 0
