"""What a sandbox's container may do: the whole policy of the Docker backend, as one pure function.

Source of the names: the Engine API, `POST /containers/create`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor_service.guest.container import CONFIG, HOME
from executor_service.guest.template import USER
from executor_service.sandboxes import seccomp
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.docker_guest import HOSTS

LIB = "/opt/codecell/lib"
PYTHON = "/opt/codecell/env/bin/python3"
SCRIPT = f"{LIB}/executor_service/guest/container.py"
CA_FILE = "/run/codecell-ca/ca.crt"
CAPABILITIES = ("SETUID", "SETGID", "KILL")  # to become user code, and to end it
MEET, CONFIG_FILE, CPUS_FILE = "meet", "config.json", "cpus"
CPU_FILES = ("online", "possible", "present")
GUEST_MEMORY = 16 << 20  # for process 1, its handlers and helpers, on top of the caller's limit
GUEST_PROCESSES = 16
COMPILE_MEMORY = 256 << 20
OPEN_FILES = 4096  # the hard limit; operations set theirs below it
MASKED = (
    # As engines do by default, and what /sys tells of the host's devices and kernel; its /sys/fs is needed.
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/key-users"),
    *("/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/firmware", "/sys/hypervisor", "/sys/kernel"),
    *(
        "/sys/module",
        "/sys/power",
        "/proc/fs",
        "/sys/fs/ext4",
        "/sys/fs/xfs",
        "/sys/fs/btrfs",
        "/sys/fs/f2fs",
    ),
    *("/sys/fs/fuse", "/sys/fs/bpf", "/sys/fs/pstore"),
    "/dev/mqueue",  # queues are reached without it
)
KERNEL_ROOM = "size=1m,nr_inodes=64"
PERIOD = 100_000  # microseconds


@dataclass(frozen=True, kw_only=True)
class Room:
    """What lies on the host for one container; paths as the engine sees them."""

    sandbox_id: str
    instance: str
    directory: Path
    """The service's: `CONFIG_FILE` and `CPUS_FILE`, and in `MEET` what process 1 alone may write."""
    guest: Path
    """The guest's code; mounted read-only."""
    group: int
    """Group id of process 1, inside: the service's, which so reaches the socket; 0 where ids are mapped."""
    ca_bundle: Path | None = None
    auto_remove: bool = True


@dataclass(frozen=True, kw_only=True)
class Share:
    """What the engine is told of a lease: bytes, processes and microseconds of CPU in each `PERIOD`."""

    memory: int
    pids: int
    quota: int


def share(lease: Lease, warm_bytes: int) -> Share:
    """The share of a sandbox; `warm_bytes` is what its warm interpreter holds before any user code runs."""
    return Share(
        memory=lease.memory_bytes + GUEST_MEMORY + warm_bytes,
        pids=lease.processes + GUEST_PROCESSES,
        quota=max(1000, int(lease.cpus * PERIOD)),
    )


def container_options(
    spec: SandboxSpec, reference: str, room: Room, share: Share, *, runtime: str | None = None
) -> dict[str, Any]:
    """The body of the request that creates the container.

    No network, no capability but three of process 1's, a read-only root, memory-backed places with limits,
    an allow-list of system calls. Of the host are mounted, read-only: the guest's code and configuration, a
    hosts file, the number of processors, and CA certificates where there is a way out; and, writable, the
    directory of the guest's socket.
    """
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "AutoRemove": room.auto_remove,
        "CapDrop": ["ALL"],
        "CapAdd": list(CAPABILITIES),
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={json.dumps(seccomp.docker_profile())}"],
        "ReadonlyRootfs": True,
        "Privileged": False,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "MaskedPaths": list(MASKED),
        "Tmpfs": _places(spec.disk_bytes),
        "Mounts": _mounts(spec, room),
        "Memory": share.memory,
        "MemorySwap": share.memory,  # memory and swap together: no swap
        "PidsLimit": share.pids,
        "CpuPeriod": PERIOD,
        "CpuQuota": share.quota,
        "Ulimits": [
            {"Name": "nofile", "Soft": 1024, "Hard": OPEN_FILES},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "LogConfig": {"Type": "none", "Config": {}},
        "Init": False,  # process 1 is the guest
        "RestartPolicy": {"Name": "no"},
    }
    if runtime is not None:
        host["Runtime"] = runtime
    return {
        "Image": reference,
        "Entrypoint": [PYTHON, "-I", "-S", SCRIPT],
        "Cmd": [],
        "User": f"0:{room.group}",
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"],
        "Labels": {"codecell.instance": room.instance, "codecell.sandbox": room.sandbox_id},
        "NetworkDisabled": True,  # beside the mode: halves the time that a start takes
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": host,
    }


def compile_options(reference: str, guest: Path, instance: str, *, user: int, group: int) -> dict[str, Any]:
    """The body of the request for the container that compiles the guest's code with an image's interpreter.

    Nothing of any caller runs in it.
    """
    return {
        "Image": reference,
        "Entrypoint": [PYTHON, "-I", "-S", "-m", "compileall"],
        "Cmd": ["-q", "--invalidation-mode", "unchecked-hash", LIB],
        "User": f"{user}:{group}",
        "Labels": {"codecell.instance": instance},
        "NetworkDisabled": True,
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": True,
            "Memory": COMPILE_MEMORY,
            "MemorySwap": COMPILE_MEMORY,
            "PidsLimit": GUEST_PROCESSES,
            "Mounts": [{"Type": "bind", "Source": str(guest), "Target": LIB, "ReadOnly": False}],
            "LogConfig": {"Type": "none", "Config": {}},
        },
    }


def update(share: Share) -> dict[str, Any]:
    """The body of the request that gives a live container another share."""
    return {
        "Memory": share.memory,
        "MemorySwap": share.memory,
        "PidsLimit": share.pids,
        "CpuPeriod": PERIOD,
        "CpuQuota": share.quota,
    }


def _places(disk_bytes: int) -> Mapping[str, str]:
    # An inode costs about 1 KiB of kernel memory: one for each 8 KiB of disk, at least 4096.
    size = f"size={disk_bytes},nr_inodes={max(4096, disk_bytes // 8192)}"
    owned = f"rw,nosuid,nodev,uid={USER},gid={USER}"
    return {
        "/workspace": f"{owned},exec,{size},mode=755",
        "/tmp": f"{owned},exec,{size},mode=1777",  # noqa: S108 - the sandbox's
        "/dev/shm": f"{owned},noexec,{size},mode=1777",  # noqa: S108
        "/run/kernel": f"{owned},noexec,{KERNEL_ROOM},mode=711",
        # In place of the host's devices; the number of processors is mounted below it.
        "/sys/devices": "rw,nosuid,nodev,noexec,size=64k,nr_inodes=64,mode=755",
    }


def _mounts(spec: SandboxSpec, room: Room) -> list[dict[str, Any]]:
    def bind(source: Path, target: str, *, writable: bool = False) -> dict[str, Any]:
        # A mount, not a "bind": a source that is missing is refused, not made.
        return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": not writable}

    mounts = [bind(room.directory / MEET, HOME, writable=True), bind(room.guest, LIB)]
    mounts.append(bind(room.directory / CONFIG_FILE, CONFIG))
    mounts.append(bind(room.guest / HOSTS, "/etc/hosts"))
    mounts += [bind(room.directory / CPUS_FILE, f"/sys/devices/system/cpu/{name}") for name in CPU_FILES]
    if spec.network and room.ca_bundle is not None:
        mounts.append(bind(room.ca_bundle, CA_FILE))
    return mounts
