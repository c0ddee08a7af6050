"""What a container may do, as data: every wall is in the request to the engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from executor_service.sandboxes import seccomp
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.docker_options import (
    CA_FILE,
    GUEST_MEMORY,
    GUEST_PROCESSES,
    Room,
    container_options,
    share,
    update,
)

MiB = 1 << 20
SPEC = SandboxSpec(image="python", disk_bytes=64 * MiB)
ROOM = Room(
    sandbox_id="sb_1",
    instance="i",
    directory=Path("/state/run/sb_1"),
    guest=Path("/state/run/guest-1"),
    group=105,
    ca_bundle=Path("/state/run/ca.crt"),
)
SHARE = share(Lease(memory_bytes=512 * MiB, processes=128, cpus=0.5), warm_bytes=64 * MiB)


@pytest.fixture
def options() -> dict:
    """The request for one container."""
    return container_options(SPEC, "codecell/python:1", ROOM, SHARE)


@pytest.fixture
def host(options) -> dict:
    """Its part about the host."""
    return options["HostConfig"]


def test_there_is_no_network(options, host):
    """Neither mode nor device."""
    assert (host["NetworkMode"], options["NetworkDisabled"]) == ("none", True)


def test_three_capabilities_are_left(host):
    """What process 1 needs to become user code and to end it."""
    assert host["CapDrop"] == ["ALL"]
    assert sorted(host["CapAdd"]) == ["KILL", "SETGID", "SETUID"]
    assert host["Privileged"] is False
    assert "no-new-privileges:true" in host["SecurityOpt"]


def test_nothing_of_the_host_is_shared(host):
    """No namespace of the host's, no device, no writable mount but the guest's own directory."""
    assert not {"Devices", "VolumesFrom", "Binds", "Links", "CgroupParent", "UsernsMode"} & host.keys()
    assert (host["PidMode"], host["UTSMode"], host["IpcMode"]) == ("", "", "private")
    writable = [mount for mount in host["Mounts"] if not mount["ReadOnly"]]
    assert [(mount["Source"], mount["Target"]) for mount in writable] == [
        ("/state/run/sb_1/meet", "/run/codecell/guest")
    ]
    assert {mount["Source"].split("/")[3] for mount in host["Mounts"]} == {"sb_1", "guest-1"}
    assert {mount["Type"] for mount in host["Mounts"]} == {"bind"}


def test_the_root_is_read_only_and_places_have_sizes(host):
    """Bytes and inodes; files cannot be devices nor carry a set-user-id bit."""
    assert host["ReadonlyRootfs"] is True
    for place in ("/workspace", "/tmp", "/dev/shm"):
        words = host["Tmpfs"][place].split(",")
        assert {"size=67108864", "nr_inodes=8192", "nosuid", "nodev"} <= set(words)
    assert "exec" in host["Tmpfs"]["/workspace"].split(",")  # noexec is the engine's default


def test_swap_cannot_dodge_the_memory_limit(host):
    """Memory and swap together are as much as memory."""
    assert host["Memory"] == host["MemorySwap"] == 576 * MiB + GUEST_MEMORY


def test_a_lease_becomes_a_share():
    """Bytes, processes and microseconds, with what is ours on top."""
    assert (SHARE.pids, SHARE.quota) == (128 + GUEST_PROCESSES, 50_000)
    assert update(SHARE)["MemorySwap"] == SHARE.memory


def test_a_ca_bundle_is_mounted_only_where_there_is_a_way_out(host):
    """And read-only."""
    assert CA_FILE not in {mount["Target"] for mount in host["Mounts"]}
    networked = container_options(replace(SPEC, network=True), "x", ROOM, SHARE)["HostConfig"]
    assert {"Type": "bind", "Source": "/state/run/ca.crt", "Target": CA_FILE, "ReadOnly": True} in networked[
        "Mounts"
    ]


def test_nothing_is_logged_or_restarted_by_the_engine(host):
    """Output of a container would fill the host's disk."""
    assert host["LogConfig"]["Type"] == "none"
    assert (host["AutoRemove"], host["RestartPolicy"]["Name"]) == (True, "no")


def test_the_runtime_is_the_operators(host):
    """GVisor or Kata where it was asked for, the engine's default otherwise."""
    assert "Runtime" not in host
    assert container_options(SPEC, "x", ROOM, SHARE, runtime="runsc")["HostConfig"]["Runtime"] == "runsc"


def test_the_seccomp_profile_is_text_and_denies_by_default(host):
    """The engine takes JSON, not a path, and whatever is not named fails with EPERM."""
    text = next(each for each in host["SecurityOpt"] if each.startswith("seccomp="))
    profile = json.loads(text.removeprefix("seccomp="))
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    allowed = {n for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for n in rule["names"]}
    assert allowed - {"ioctl", "clone", "socket", "socketpair", "personality"} == set(seccomp.ALLOWED)
    forbidden = {
        "mount",
        "umount2",
        "pivot_root",
        "setns",
        "unshare",
        "bpf",
        "io_uring_setup",
        "keyctl",
        "add_key",
    }
    assert not allowed & (
        forbidden | {"init_module", "kexec_load", "perf_event_open", "userfaultfd", "swapon"}
    )


def test_the_profile_asks_for_conditions_where_a_call_is_allowed_in_part():
    """Clone without namespaces, sockets of four families, clone3 as a kernel without it."""
    rules = seccomp.docker_profile()["syscalls"]
    clone = [rule for rule in rules if rule["names"] == ["clone"]]
    assert clone[0]["args"][0]["value"] == seccomp.NAMESPACE_FLAGS
    assert [rule["errnoRet"] for rule in rules if rule["names"] == ["clone3"]] == [38]
    assert all(rule["args"] for rule in rules if "socket" in rule["names"])
