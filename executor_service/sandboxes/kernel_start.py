"""Which of a sandbox's kernels is meant, and how it is started where it is not there yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from executor_service.guest import protocol

WARM = "python"
"""The name of the kernel that the warm interpreter is."""
OPEN_FILES = 1024  # a kernel starts with the default limit


@dataclass(frozen=True, kw_only=True)
class KernelStart:
    """A kernel by its name in its sandbox; without more it is the warm interpreter's.

    `argv` starts any other, with `{connection_file}` in the place of that file's path; `env` are all of its
    variables. `interrupt` says whether its code is interrupted by SIGINT or by a message. It has `start_time`
    seconds to answer, and skips what it is given in the first `rest` seconds after code that failed.
    """

    name: str = WARM
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    interrupt: Literal["signal", "message"] = "signal"
    start_time: float = 60.0
    rest: float = 0.0

    def order(self, **more: Any) -> dict[str, Any]:
        """The request to the guest."""
        request = {"v": protocol.VERSION, "op": "kernel", "name": self.name, **more}
        if self.name == WARM:
            return request
        return {
            **request,
            "argv": list(self.argv),
            "env": dict(self.env),
            "interrupt": self.interrupt,
            "start_time": self.start_time,
            "open_files": OPEN_FILES,
        }
