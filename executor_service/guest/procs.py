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
_PLACES = ("/workspace", "/tmp", "/dev/shm")  # where user code's files lie in memory
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


def kill_all(find: Callable[[], list[Process]], seconds: float = KILL_DEADLINE) -> bool:
    """SIGKILL what `find` gives until it gives nothing; False if that did not happen in time."""
    deadline = time.monotonic() + seconds
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


def rough_memory(processes: Collection[Process]) -> int:
    """Bytes that user processes and files in memory take at most: pages that several share count for each."""
    return _stored() + sum(_status_sum(p.pid) for p in processes)


def proportional_memory(processes: Collection[Process]) -> int:
    """The same with a page that n processes share counted as 1/n for each: dearer to read."""
    stored = _stored()
    total = stored + sum(_proportional(p.pid) for p in processes)
    if stored:  # what is both stored and mapped was counted twice
        devices = {os.stat(place).st_dev for place in _PLACES}
        total -= sum(_mapped(p.pid, devices) for p in processes)
    return total


def _stored() -> int:
    """Files in memory and System V segments, mapped or not."""
    return sum(_used(place) for place in _PLACES) + _segments()


def _used(path: str) -> int:
    try:
        stat = os.statvfs(path)
    except OSError:
        return 0
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def _segments() -> int:
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/sysvipc/shm", "rb") as file:
        next(file)
        for line in file:
            total += sum(map(int, line.split()[14:16]))  # resident and swapped
    return total


def _status_sum(pid: int) -> int:
    return _kib_fields(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:", b"VmSwap:"))


def _proportional(pid: int) -> int:
    fields = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
    return _kib_fields(f"/proc/{pid}/smaps_rollup", fields) or _status_sum(pid)


def _mapped(pid: int, devices: Collection[int]) -> int:
    """Bytes of a process's proportional share that lie in files of `devices` or in System V segments."""
    total, stored = 0, False
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            words = line.split()
            if b"-" in words[0]:  # a mapping: addresses, rights, offset, device, inode, path
                major, minor = (int(number, 16) for number in words[3].split(b":"))
                stored = os.makedev(major, minor) in devices or b"".join(words[5:6]).startswith(b"/SYSV")
            elif stored and words[0] == b"Pss:":
                total += int(words[1]) * 1024
    return total


def _kib_fields(path: str, names: tuple[bytes, ...]) -> int:
    total = 0
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        for line in file:
            if line.startswith(names):
                total += int(line.split()[1]) * 1024
    return total
