"""Control groups of the local backend, version 1 and 2, where this process may write them.

One group a sandbox, below one group of this instance. Version 1 has a directory in each controller's
hierarchy, version 2 one directory in all. Sources: cgroups(7), the kernel's documents on both versions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from executor_service.result import Reading, Usage
from executor_service.sandboxes.base import Lease

V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
V2_CONTROLLERS = ("memory", "pids", "cpu")
_OOM = {1: "memory.oom_control", 2: "memory.events"}
_USED = {1: "memory.usage_in_bytes", 2: "memory.current"}
PERIOD = 100_000  # microseconds; the kernel's default for the cpu quota
GUEST_PROCESSES = 32  # process 1, its handlers and helpers; user code is held by RLIMIT_NPROC besides
SOCKET_MEMORY = 64 << 20  # of socket buffers, on top of the limit
NAME = "codecell-"  # what the name of an instance's group begins with
LEAF = "codecell-service"  # where the service itself goes, if it must make room in its own group (version 2)
GUEST_MEMORY = 16 << 20  # what our own processes in the group may take, on top of the caller's limit


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Where this instance's groups live: one directory for each controller (v1), or the same for all (v2)."""

    version: int
    parents: Mapping[str, Path]

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(self.parents)


def find(
    instance: str,
    root: Path = Path("/sys/fs/cgroup"),
    proc: Path = Path("/proc"),
    *,
    may_move: bool = True,
) -> Hierarchy | None:
    """The writable hierarchy for `instance`, its parent groups made; None where there is none.

    Version 2 gives controllers only to children of a group without processes: if `may_move`, and this is the
    only process of its group, it moves itself into a child. Nobody else's process is ever moved.
    """
    own = _own_groups((proc / "self/cgroup").read_text())
    name = NAME + instance
    return _find_v1(own, root, name) or _find_v2(own, root, name, may_move)


def _own_groups(text: str) -> dict[str, str]:
    """Controller (or "" for version 2) to the path of our own group."""
    groups = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _find_v1(own: Mapping[str, str], root: Path, name: str) -> Hierarchy | None:
    parents = {}
    for controller in V1_CONTROLLERS:
        if controller not in own:
            continue
        directory = root / controller / own[controller].lstrip("/") / name
        with contextlib.suppress(OSError):
            directory.mkdir(exist_ok=True)
            if os.access(directory / "tasks", os.W_OK):
                parents[controller] = directory
    if "memory" in parents:
        return Hierarchy(version=1, parents=parents)
    _remove_empty(parents.values())
    return None


def _find_v2(own: Mapping[str, str], root: Path, name: str, may_move: bool) -> Hierarchy | None:
    if "" not in own or not (root / "cgroup.controllers").exists():
        return None
    path = own[""]
    while path.endswith("/" + LEAF):  # a service moved there, which started us or was this very process
        path = path.removesuffix("/" + LEAF)
    base = root / path.lstrip("/")
    directory = base / name
    try:
        passed_on = _pass_on(base, may_move)
        directory.mkdir(exist_ok=True)
        enabled = passed_on & _pass_on(directory, may_move=False)
    except OSError:
        enabled = set()
    if "memory" in enabled:
        parents = {controller: directory for controller in V2_CONTROLLERS if controller in enabled}
        return Hierarchy(version=2, parents=parents)
    _remove_empty([directory])
    return None


def _pass_on(directory: Path, may_move: bool) -> set[str]:
    """Give the controllers to children; which they get.

    Raises:
        OSError: the kernel refuses; because of the group's processes (EBUSY), unless it is only ours.
    """
    available = set((directory / "cgroup.controllers").read_text().split()) & set(V2_CONTROLLERS)
    control = directory / "cgroup.subtree_control"
    wanted = " ".join(f"+{controller}" for controller in sorted(available))
    try:
        control.write_text(wanted)
    except OSError as error:
        pid = str(os.getpid())
        alone = (directory / "cgroup.procs").read_text().split() == [pid]
        if error.errno != errno.EBUSY or not may_move or not alone:
            raise
        leaf = directory / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(pid)
        control.write_text(wanted)
    return {word.lstrip("+") for word in control.read_text().split()}


class Group:
    """The control group of one sandbox."""

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        self._version = hierarchy.version
        self._dirs = {controller: parent / name for controller, parent in hierarchy.parents.items()}
        for directory in set(self._dirs.values()):
            directory.mkdir()
        self._memory_before = 0

    def open_joins(self) -> list[int]:
        """Descriptors; a process that writes "0" to each is in the group. The caller closes them."""
        # The v1 `tasks` file moves one thread and, unlike cgroup.procs, does not wait for RCU: 12 ms less.
        name = "tasks" if self._version == 1 else "cgroup.procs"
        return [
            os.open(directory / name, os.O_WRONLY | os.O_CLOEXEC)
            for directory in sorted(set(self._dirs.values()))
        ]

    def apply(self, lease: Lease) -> None:
        """Set memory (swap included), processes and cpu quota.

        Raises:
            OSError: the kernel refuses a value.
        """
        memory, pids, cpu = self._dirs.get("memory"), self._dirs.get("pids"), self._dirs.get("cpu")
        limit = lease.memory_bytes + GUEST_MEMORY
        if memory and self._version == 1:
            _write_both(memory / "memory.limit_in_bytes", memory / "memory.memsw.limit_in_bytes", limit)
            # Version 1 counts socket buffers apart; unlimited, they would take the host's, and break its TCP.
            _try(memory / "memory.kmem.tcp.limit_in_bytes", str(min(limit, SOCKET_MEMORY)))
            _try(memory / "memory.max_usage_in_bytes", "0")
            self._memory_before = _number(memory / _USED[1])
        elif memory:
            (memory / "memory.max").write_text(str(limit))
            _try(memory / "memory.swap.max", "0")
            self._memory_before = _number(memory / _USED[2])
        if pids:
            (pids / "pids.max").write_text(str(lease.processes + GUEST_PROCESSES))
        quota = max(1000, round(lease.cpus * PERIOD))
        if cpu and self._version == 1:
            (cpu / "cpu.cfs_quota_us").write_text(str(quota))
        elif cpu:
            (cpu / "cpu.max").write_text(f"{quota} {PERIOD}")

    @classmethod
    def of_process(
        cls, pid: int, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")
    ) -> Self | None:
        """The group that a process is in, made by somebody else: to read its meters from now on.

        None where they cannot be read.
        """
        try:
            own = _own_groups((proc / str(pid) / "cgroup").read_text())
        except OSError:
            return None
        version = 1 if "memory" in own else 2
        names = V1_CONTROLLERS if version == 1 else V2_CONTROLLERS
        paths = {name: own.get(name if version == 1 else "", "").lstrip("/") for name in names}
        dirs = {n: root / n / path if version == 1 else root / path for n, path in paths.items() if path}
        if "memory" not in dirs or not os.access(dirs["memory"] / _OOM[version], os.R_OK):
            return None
        group = cls.__new__(cls)
        group._version, group._dirs = version, dirs
        group._memory_before = _number(dirs["memory"] / _USED[version])
        return group

    def limit_sockets(self) -> None:
        """Bound what version 1 counts apart, where we may: engines have no option for it any more."""
        if self._version == 1:
            _try(self._dirs["memory"] / "memory.kmem.tcp.limit_in_bytes", str(SOCKET_MEMORY))

    def meters(self) -> Reading:
        """What the group's processes have used."""
        usage = Usage(cpu_time=self.cpu_time(), peak_memory_bytes=self.peak_memory())
        return Reading(usage=usage, oom_kills=self.oom_kills())

    def cpu_time(self) -> float | None:
        """Seconds of CPU used by everything in the group."""
        if self._version == 1 and "cpuacct" in self._dirs:
            return _number(self._dirs["cpuacct"] / "cpuacct.usage") / 1e9
        if self._version == 2 and "cpu" in self._dirs:
            return _keyed(self._dirs["cpu"] / "cpu.stat", "usage_usec") / 1e6
        return None

    def peak_memory(self) -> int:
        """Bytes at the peak since `apply`, less what our own processes held then."""
        memory = self._dirs["memory"]
        name = "memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"
        return max(0, _number(memory / name) - self._memory_before)

    def oom_kills(self) -> int:
        """Processes that the memory limit has killed; `failcnt` stays 0, so it is not asked."""
        memory = self._dirs["memory"]
        return _keyed(memory / _OOM[self._version], "oom_kill")

    def remove(self, deadline: float = 2.0) -> bool:
        """Remove the directories of a group whose processes have ended; False if they have not in time."""
        end = time.monotonic() + deadline
        return all(_remove(directory, end) for directory in set(self._dirs.values()))


def remember(hierarchy: Hierarchy, remembered: Path) -> None:
    """Add the instance's parents to the file `remembered`: they depend on where the service was started."""
    _write_paths(remembered, _read_paths(remembered) | set(hierarchy.parents.values()))


def sweep(hierarchy: Hierarchy | None, remembered: Path) -> int:
    """Kill and remove what a predecessor left below the parents, remembered ones too; how many groups."""
    current = set(hierarchy.parents.values()) if hierarchy else set()
    known = _read_paths(remembered) | current
    removed = set()
    for parent in known:
        for directory in _directories(parent):
            with contextlib.suppress(OSError):
                _kill(directory)
                if _remove(directory, time.monotonic() + 5.0):
                    removed.add(directory.name)
    _forget(known - current, remembered)
    return len(removed)


def remove_parents(hierarchy: Hierarchy, remembered: Path) -> None:
    """Remove the instance's own, empty, groups."""
    _forget(hierarchy.parents.values(), remembered)


def _forget(parents: Iterable[Path], remembered: Path) -> None:
    """Remove empty parents, and them from the file."""
    _remove_empty(parents)
    known = _read_paths(remembered)
    if left := {parent for parent in known if parent.is_dir()}:
        _write_paths(remembered, left)
    else:
        remembered.unlink(missing_ok=True)


def _read_paths(remembered: Path) -> set[Path]:
    try:
        paths = {Path(os.fsdecode(line)) for line in remembered.read_bytes().split(b"\n")}
    except OSError:
        return set()
    return {path for path in paths if path.is_absolute() and path.name.startswith(NAME)}


def _write_paths(remembered: Path, paths: Iterable[Path]) -> None:
    temporary = remembered.with_name(f".{remembered.name}-{os.getpid()}")
    temporary.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in sorted(paths)))
    temporary.replace(remembered)


def _directories(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []


def _kill(directory: Path) -> None:
    for word in (directory / "cgroup.procs").read_text().split():
        pid = int(word)
        if (
            pid
        ):  # 0 is a process of a pid namespace that we cannot see; to kill(2) it would mean our own group
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _remove_empty(directories: Iterable[Path]) -> None:
    for directory in set(directories):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _remove(directory: Path, end: float) -> bool:
    pause = 0.001
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # EBUSY until the last task is gone
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        else:
            return True


def _write_both(memory: Path, with_swap: Path, limit: int) -> None:
    """The kernel wants memory <= memory+swap at each step, so the order depends on the direction."""
    files = (memory, with_swap) if limit <= _number(memory) else (with_swap, memory)
    for file in files:
        if file.exists():
            file.write_text(str(limit))


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def _keyed(file: Path, key: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in file.read_text().splitlines():
            if line.startswith(key + " "):
                return int(line.split()[1])
    return 0


def _try(file: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        file.write_text(text)
