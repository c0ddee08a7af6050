"""The processes of this sandbox, as /proc shows them: who is whose, what they use, and ending them.

Process 1 and its own children never call setsid; whatever user code starts lies in another session.
So a process is the user's exactly if its session is not the guest's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

GUEST_SESSION = 1
KILL_DEADLINE = 2.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat; `cpu_time` counts the children that it waited for."""

    pid: int
    parent: int
    session: int
    zombie: bool
    cpu_time: float


def snapshot() -> dict[int, Process]:
    """Every process of this pid namespace."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(name)] = _read(int(name))
    return found


def _read(pid: int) -> Process:
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    fields = text[text.rindex(b")") + 2 :].split()
    ticks = sum(int(fields[i]) for i in (11, 12, 13, 14))
    return Process(pid, int(fields[1]), int(fields[3]), fields[0] in b"ZX", ticks / _TICKS)


def user_processes(processes: Mapping[int, Process]) -> list[Process]:
    """Those that are user code's and alive."""
    return [p for p in processes.values() if p.session != GUEST_SESSION and not p.zombie]


def below(processes: Mapping[int, Process], roots: Collection[int]) -> set[int]:
    """The ids of all descendants of `roots`, which are not included."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    queue = list(roots)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in found:
                found.add(child)
                queue.append(child)
    return found


def operation_processes(handler: int) -> list[Process]:
    """User processes below one operation's handler, a sub-reaper, so that orphans are included."""
    processes = snapshot()
    inside = below(processes, [handler])
    return [p for p in user_processes(processes) if p.pid in inside]


def loose_processes(handlers: Collection[int]) -> list[Process]:
    """User processes below no handler: the armed program's or the kernel's, orphans included."""
    processes = snapshot()
    inside = below(processes, handlers)
    return [p for p in user_processes(processes) if p.pid not in inside]


def kill_all(find: Callable[[], list[Process]]) -> bool:
    """SIGKILL what `find` gives until it gives nothing; False if that did not happen in 2 s."""
    deadline = time.monotonic() + KILL_DEADLINE
    pause = 0.0005
    while victims := find():
        for victim in victims:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(victim.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True


def memory_bytes(processes: Collection[Process], limit: int) -> int:
    """Own memory of user processes, shared memory and temporary files, in bytes.

    First the cheap overestimate (pages shared with the warm interpreter counted in full); only where
    that passes `limit`, the proportional share of each process.
    """
    files = sum(_used(path) for path in ("/workspace", "/tmp", "/dev/shm"))
    rough = files + sum(_status_sum(p.pid) for p in processes)
    if rough <= limit:
        return rough
    return files + sum(_proportional(p.pid) for p in processes)


def _used(path: str) -> int:
    try:
        stat = os.statvfs(path)
    except OSError:
        return 0
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def _status_sum(pid: int) -> int:
    return _kib_fields(f"/proc/{pid}/status", (b"RssAnon:", b"VmSwap:"))


def _proportional(pid: int) -> int:
    return _kib_fields(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"SwapPss:")) or _status_sum(pid)


def _kib_fields(path: str, names: tuple[bytes, ...]) -> int:
    total = 0
    with contextlib.suppress(OSError, ValueError):
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(names):
                    total += int(line.split()[1]) * 1024
    return total
