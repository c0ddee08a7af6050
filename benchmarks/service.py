"""A service of its own for a measurement, and what its processes hold."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service: where it listens, its process, its state directory."""

    port: int
    pid: int
    state: str


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[Service]:
    """Start `codecell-executor serve` on a free port of loopback; end it afterwards."""
    state = tempfile.mkdtemp(prefix="codecell-benchmark-")
    command = [
        sys.executable,
        "-m",
        "executor_service",
        "serve",
        "--port",
        "0",
        "--state-dir",
        state,
        "--log-level",
        "warning",
        *arguments,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield Service(port=int(found[1]), pid=process.pid, state=state)
                break
        else:
            raise RuntimeError("the service did not start; its message is above")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(state, ignore_errors=True)


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{name}/stat").read_text()
                parents[int(name)] = int(text[text.rindex(")") + 2 :].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def pss(pids: list[int]) -> int:
    """Proportional set size of these processes together, in bytes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def holdings(pid: int) -> dict[str, float]:
    """What the service holds: its own memory and descriptors, its processes, their mounts, cgroups."""
    pids = tree(pid)
    mounts = 0
    for each in pids:
        with contextlib.suppress(OSError):
            mounts = max(mounts, len(Path(f"/proc/{each}/mountinfo").read_text().splitlines()))
    cgroups = sum(1 for _ in Path("/sys/fs/cgroup").rglob("sb_*"))
    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "memory of the service (MB)": rss / 1e6,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "processes": len(pids),
        "mounts": mounts,
        "cgroups": cgroups,
    }
