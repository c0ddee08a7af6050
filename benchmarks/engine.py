"""What a container engine and its containers cost: processor time and memory, read from this host's /proc.

For the host that the engine runs on, as root; elsewhere the numbers are what can be seen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.service import pss, tree

DAEMONS = ("dockerd", "containerd")
TICKS = os.sysconf("SC_CLK_TCK")
# Where an engine puts its containers' control groups: version 1, version 2, and version 2 under systemd.
GROUPS = (
    ("/sys/fs/cgroup/cpuacct/docker/cpuacct.usage", 1e-6),
    ("/sys/fs/cgroup/docker/cpu.stat", 1e-3),
)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Milliseconds of processor time since some beginning."""

    service: float
    engine: float
    """dockerd and containerd."""
    containers: float | None
    """All that ran in containers, the runtime's first process there included; None where it is not told."""
    clients: float
    """This process."""
    all: float
    """The whole machine."""

    @classmethod
    def now(cls, service_pid: int) -> Spent:
        return cls(
            service=sum(_time_of(pid) for pid in tree(service_pid)),
            engine=sum(_time_of(pid) for pid in daemons()),
            containers=_containers(),
            clients=sum(os.times()[:2]) * 1e3,
            all=_machine(),
        )

    def since(self, before: Spent, runs: int) -> Spent:
        """For each of so many runs."""
        values: dict[str, float | None] = {}
        for field in fields(self):
            now, then = getattr(self, field.name), getattr(before, field.name)
            values[field.name] = None if now is None or then is None else (now - then) / runs
        return Spent(**values)  # type: ignore[arg-type]

    @property
    def rest(self) -> float:
        """Shims, runc and the Linux kernel's own threads; and whatever else this machine did."""
        return self.all - self.service - self.engine - (self.containers or 0.0) - self.clients


def daemons() -> list[int]:
    """The engine's processes on this host."""
    return [pid for pid in _pids() if _name(pid) in DAEMONS]


def containers_of(instance_file: Path) -> list[int]:
    """Process 1 of each container of the instance whose state directory holds this file."""
    import docker

    client = docker.APIClient(**docker.utils.kwargs_from_env())
    with contextlib.closing(client):
        label = f"codecell.instance={instance_file.read_text().strip()}"
        found = client.containers(filters={"label": label})
        return [client.inspect_container(each["Id"])["State"]["Pid"] for each in found]


def memory(firsts: Iterable[int]) -> dict[str, int]:
    """PSS by part of the containers whose processes 1 these are, in bytes, and of the engine."""
    total = {"guest": 0, "interpreters": 0, "shim": 0}
    for first in firsts:
        inside = tree(first)
        total["guest"] += pss([first])
        total["interpreters"] += pss([pid for pid in inside if pid != first])
        total["shim"] += pss([_parent(first)])
    return {**total, "engine": pss(daemons())}


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(_stat(pid)[1])
    return 0


def _time_of(pid: int) -> float:
    """Its own and that of children it has waited for."""
    with contextlib.suppress(OSError):
        return sum(int(word) for word in _stat(pid)[11:15]) * 1e3 / TICKS
    return 0.0


def _containers() -> float | None:
    for path, unit in GROUPS:
        with contextlib.suppress(OSError):
            words = Path(path).read_text().split()
            return int(words[1] if words[0] == "usage_usec" else words[0]) * unit
    return None


def _machine() -> float:
    """All but idle time and time spent waiting for a disk."""
    words = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(words) - words[3] - words[4]) * 1e3 / TICKS
