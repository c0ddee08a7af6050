"""What process 1 hands to the handlers that it forks: the armed interpreter and the lease's limits."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from executor_service.guest import channel


@dataclass(kw_only=True)
class Armed:
    """The warm interpreter of this sandbox: how to tell it what to be, and where its end is told."""

    control: socket.socket
    status: int  # a pipe: JSON when it has ended
    pid: int
    pidfd: int
    cpu_time: float = 0.0  # seconds that it had used when it was ready
    child: bool = False  # of process 1, which must reap it: that is what fills `status`

    def close(self) -> None:
        self.control.close()
        channel.close([self.status, self.pidfd])


@dataclass(kw_only=True)
class Lease:
    """What holds for user code; `sampled` means that no cgroup enforces memory."""

    memory_bytes: int = 1 << 62
    processes: int | None = 1024  # RLIMIT_NPROC; None where another wall counts
    sampled: bool = False
