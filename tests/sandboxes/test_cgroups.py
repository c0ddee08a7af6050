"""Control groups, versions 1 and 2, over directory trees that look like the kernel's."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from executor_service.sandboxes import cgroups
from executor_service.sandboxes.base import Lease

LEASE = Lease(memory_bytes=100 << 20, processes=50, cpus=0.5)


def make_v2(root: Path, own: str = "user.slice") -> tuple[Path, Path]:
    """A unified hierarchy whose own group `own` is ours to write; (cgroup root, proc)."""
    cgroup, proc = root / "cgroup", root / "proc"
    (cgroup / own).mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(f"0::/{own}\n")
    (cgroup / "cgroup.controllers").write_text("cpu memory pids\n")
    for directory in (cgroup / own, cgroup / own / "codecell-x"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
        (directory / "cgroup.subtree_control").write_text("")
        (directory / "cgroup.procs").write_text("")
    return cgroup, proc


def test_version_2_is_found_and_its_controllers_passed_on(tmp_path: Path):
    """All three controllers live in one directory, and children get them."""
    cgroup, proc = make_v2(tmp_path)
    hierarchy = cgroups.find("x", cgroup, proc)
    assert (cgroup / "user.slice/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert hierarchy is not None
    assert (hierarchy.version, hierarchy.controllers) == (2, {"cpu", "memory", "pids"})


def make_busy(monkeypatch: pytest.MonkeyPatch, *pids: int) -> dict[Path, list[int]]:
    """Children of `user.slice` get no controllers while it has processes; who was moved where."""
    moved: dict[Path, list[int]] = {}
    write = Path.write_text

    def write_text(file: Path, text: str, **options: str) -> int:
        if file.name == "cgroup.subtree_control" and file.parent.name == "user.slice":
            gone = {pid for into in moved.values() for pid in into}
            if set(pids) - gone:
                raise OSError(errno.EBUSY, "busy")
        if file.name == "cgroup.procs":
            moved.setdefault(file.parent, []).append(int(text))
        return write(file, text, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    return moved


def test_version_2_moves_this_process_where_it_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It makes room for controllers in its own group."""
    cgroup, proc = make_v2(tmp_path)
    (cgroup / "user.slice/cgroup.procs").write_text(f"{os.getpid()}\n")
    moved = make_busy(monkeypatch, os.getpid())
    assert cgroups.find("x", cgroup, proc) is not None
    assert moved == {cgroup / "user.slice/codecell-service": [os.getpid()]}


@pytest.mark.parametrize(("others", "may_move"), [((1,), True), ((0,), True), ((), False)])
def test_version_2_moves_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[int, ...], may_move: bool
):
    """With others in its group, or as doctor, there are no groups, and everything is as before."""
    cgroup, proc = make_v2(tmp_path)
    pids = (os.getpid(), *others)
    (cgroup / "user.slice/cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    moved = make_busy(monkeypatch, *pids)
    assert cgroups.find("y", cgroup, proc, may_move=may_move) is None
    assert moved == {}
    assert [path.name for path in (cgroup / "user.slice").iterdir() if path.is_dir()] == ["codecell-x"]


def test_version_2_does_not_nest_deeper_at_a_later_start(tmp_path: Path):
    """A process that was started from a moved service finds the same groups."""
    cgroup, proc = make_v2(tmp_path)
    (proc / "self/cgroup").write_text("0::/user.slice/codecell-service/codecell-service\n")
    hierarchy = cgroups.find("x", cgroup, proc)
    assert hierarchy is not None
    assert set(hierarchy.parents.values()) == {cgroup / "user.slice/codecell-x"}


def make_group(directory: Path, pids: str) -> None:
    """What a predecessor left; unlike the kernel's, it goes only when its file does."""
    directory.mkdir(parents=True)
    (directory / "cgroup.procs").write_text(pids)


def test_groups_of_a_predecessor_that_was_started_elsewhere_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its parents are remembered. Process 0 is nobody's; one group that resists does not save the others."""
    old, new = tmp_path / "old/codecell-x", tmp_path / "new/codecell-x"
    make_group(old / "sb_1", "0\n7\n")
    (old / "sb_2").mkdir()  # nothing to be read in it
    make_group(new / "sb_3", "8\n")
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(cgroups.os, "kill", lambda pid, number: killed.append((pid, number)))
    rmdir = Path.rmdir

    def kernel_rmdir(directory: Path) -> None:
        (directory / "cgroup.procs").unlink(missing_ok=True)
        rmdir(directory)

    monkeypatch.setattr(Path, "rmdir", kernel_rmdir)
    remembered = tmp_path / "cgroups"
    hierarchies = [cgroups.Hierarchy(version=2, parents={"memory": parent}) for parent in (old, new)]
    for hierarchy in hierarchies:
        cgroups.remember(hierarchy, remembered)
    assert cgroups.sweep(hierarchies[1], remembered) == 2
    assert sorted(killed) == [(7, signal.SIGKILL), (8, signal.SIGKILL)]
    assert remembered.read_text().splitlines() == [str(new), str(old)]  # sb_2 is still there
    (old / "sb_2").rmdir()
    assert cgroups.sweep(None, remembered) == 0
    assert not remembered.exists()
    assert not old.exists()


def test_only_groups_of_ours_are_swept(tmp_path: Path):
    """Whatever else stands in the file is not touched."""
    make_group(tmp_path / "system.slice/ssh", "1\n")
    (tmp_path / "cgroups").write_text(f"{tmp_path / 'system.slice'}\n\ncodecell-x\n")
    assert cgroups.sweep(None, tmp_path / "cgroups") == 0
    assert (tmp_path / "system.slice/ssh").exists()


def test_version_2_limits_are_written_in_its_files(tmp_path: Path):
    """memory.max, memory.swap.max, pids.max and cpu.max, with the guest's own share on top."""
    parent = tmp_path / "parent"
    parent.mkdir()
    hierarchy = cgroups.Hierarchy(version=2, parents=dict.fromkeys(("memory", "pids", "cpu"), parent))
    group = cgroups.Group(hierarchy, "sb_1")
    group.apply(LEASE)
    directory = parent / "sb_1"
    assert (directory / "memory.max").read_text() == str(LEASE.memory_bytes + cgroups.GUEST_MEMORY)
    assert (directory / "memory.swap.max").read_text() == "0"
    assert (directory / "pids.max").read_text() == str(50 + cgroups.GUEST_PROCESSES)
    assert (directory / "cpu.max").read_text() == "50000 100000"
    (directory / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n")
    (directory / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert group.oom_kills() == 3
    assert group.cpu_time() == pytest.approx(1.5)


def test_no_hierarchy_where_nothing_is_writable(tmp_path: Path):
    """The backend then samples instead."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n0::/\n")
    (tmp_path / "cgroup").mkdir()
    assert cgroups.find("x", tmp_path / "cgroup", tmp_path / "proc") is None


def test_own_groups_are_read_from_proc():
    """Version 1 names controllers, version 2 has an empty name."""
    text = "5:cpu,cpuacct:/a/b\n4:memory:/m\n0::/\n"
    assert cgroups._own_groups(text) == {"cpu": "/a/b", "cpuacct": "/a/b", "memory": "/m", "": "/"}


@pytest.mark.parametrize(("before", "first"), [(1 << 40, "memory"), (1 << 20, "memsw")])
def test_version_1_sets_memory_and_swap_in_the_order_that_the_kernel_accepts(
    tmp_path: Path, before: int, first: str
):
    """Lowering starts with memory, raising with memory+swap."""
    memory, memsw = tmp_path / "memory.limit_in_bytes", tmp_path / "memory.memsw.limit_in_bytes"
    for file in (memory, memsw):
        file.write_text(str(before))
    cgroups._write_both(memory, memsw, 100 << 20)
    assert memory.read_text() == memsw.read_text() == str(100 << 20)
    later = memsw if first == "memory" else memory
    assert later.stat().st_mtime_ns >= (memory if later is memsw else memsw).stat().st_mtime_ns
