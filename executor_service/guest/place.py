"""What differs for process 1 between a local sandbox and a container: `Place`, and the local one.

In a local sandbox the nursery beside it forks warm interpreters into it, and cgroups are the service's
business. A container has nobody beside it: see `container`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from executor_service.guest import channel, template
from executor_service.guest.protocol import recv_json
from executor_service.guest.state import Armed

ARM_TIMEOUT = 20.0


class Place(Protocol):
    """How process 1 gets a warm interpreter, and how it limits what it did not start itself."""

    def ready(self) -> Mapping[str, Any]:
        """What the service is told when it begins to watch."""

    def arm(self) -> Armed:
        """A fresh warm interpreter. Raises TimeoutError, EOFError, OSError: it did not come."""

    def process_limit(self, processes: int) -> int | None:
        """The RLIMIT_NPROC of user code; None where another wall counts processes."""

    def limit_processes(self, armed: Armed, processes: int) -> None:
        """The same for an interpreter that is there already."""

    def limit_open_files(self, pid: int, number: int) -> None:
        """A process's soft limit of descriptors from now on, as far as its hard limit allows."""

    def set_cpus(self, count: int) -> None:
        """Tell the C library how many processors there are."""

    def reaped(self, pid: int, status: int, cpu_time: float) -> None:
        """A child of process 1 has ended."""

    def stats(self) -> Mapping[str, Any] | None:
        """`kills`, `peak_memory_bytes` and `cpu_time`, where the kernel counts them for this place."""


class Nested:
    """A sandbox of the local backend; `boot` leads to its nursery."""

    def __init__(self, boot: socket.socket, cpus_fd: int) -> None:
        self._boot = boot
        self._cpus_fd = cpus_fd

    def ready(self) -> Mapping[str, Any]:
        return {}

    def arm(self) -> Armed:
        """Have the nursery fork a warm interpreter into this sandbox."""
        ours, theirs = socket.socketpair()
        status, status_write = os.pipe2(os.O_CLOEXEC)
        channel.send(self._boot, {"word": "arm"}, [theirs.fileno(), status_write])
        theirs.close()
        os.close(status_write)
        ours.settimeout(ARM_TIMEOUT)
        pid = int(recv_json(ours)["pid"])
        ours.settimeout(None)
        return Armed(control=ours, status=status, pid=pid, pidfd=os.pidfd_open(pid))

    def process_limit(self, processes: int) -> int | None:
        return processes

    def limit_processes(self, armed: Armed, processes: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(armed.pid, resource.RLIMIT_NPROC, (processes, processes))

    def limit_open_files(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(number, hard), hard))

    def set_cpus(self, count: int) -> None:
        template.set_cpus(self._cpus_fd, count)

    def reaped(self, pid: int, status: int, cpu_time: float) -> None:
        """The zygote, not process 1, is the parent of what matters."""

    def stats(self) -> Mapping[str, Any] | None:
        return None
