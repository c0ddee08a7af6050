"""Whether a container engine can hold sandboxes, and what an operator should change about it.

`judge` is the policy, as a function of what the engine says of itself (the Engine API's `/info` and
`/version`). Nothing is started here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from executor_service.doctor_report import Check

OLDEST = (20, 10)
"""The oldest engine that the tests have seen."""
_DAEMON = "in the engine's daemon.json, and reload it"


def judge(info: Mapping[str, Any], version: Mapping[str, Any], runtime: str | None) -> list[Check]:
    """What an engine says of itself, as checks. `runtime` is the one that sandboxes shall have."""
    return [
        _engine(info, version),
        _runtime(info, runtime),
        _limits(info),
        _filter(info),
        _live_restore(info),
        _storage(info),
        _users(info),
    ]


def _engine(info: Mapping[str, Any], version: Mapping[str, Any]) -> Check:
    found = str(version.get("Version", "?"))
    system = str(info.get("OSType", "?"))
    detail = f"{found}, API {version.get('ApiVersion', '?')}, on {info.get('OperatingSystem', '?')}"
    if system != "linux":
        return Check(
            name="engine", ok=False, detail=f"{detail}: {system} containers", change="use Linux containers"
        )
    old = (parsed := _numbers(found)) is not None and parsed < OLDEST
    oldest = ".".join(str(number) for number in OLDEST)
    return Check(name="engine", ok=not old, detail=detail, change=f"Docker {oldest} or later")


def _numbers(version: str) -> tuple[int, int] | None:
    """`20.10.24+dfsg1` as (20, 10); None for what another engine calls its versions."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _runtime(info: Mapping[str, Any], runtime: str | None) -> Check:
    """The runtime must carry the guest's Unix socket out to the host; not all of them do."""
    known = info.get("Runtimes") or {}
    used = runtime or str(info.get("DefaultRuntime", "?"))
    detail = f"{used}; the engine has {', '.join(sorted(known))}"
    if runtime is not None and runtime not in known:
        change = f'install {runtime} and name it under "runtimes" {_DAEMON}'
        return Check(name="runtime", ok=False, detail=detail, change=change)
    change = _carries_sockets(used, known.get(used) or {})
    return Check(name="runtime", ok=True, warning=bool(change), detail=detail, change=change)


def _carries_sockets(name: str, runtime: Mapping[str, Any]) -> str:
    """What to change where sandboxes of a runtime may not be reached; nothing of one that is not known."""
    arguments = runtime.get("runtimeArgs") or ()
    if "runsc" in name and not {"--host-uds=create", "--host-uds=all"} & {*arguments}:
        return f'"runtimeArgs": ["--host-uds=create"] of {name} {_DAEMON}: guests make sockets for us'
    if "kata" in name:
        return "another runtime: Unix sockets do not reach out of a virtual machine, so no sandbox will start"
    return ""


def _limits(info: Mapping[str, Any]) -> Check:
    """Memory and processes must hold: one program could take the host down. The others may be missing."""
    needed = {"MemoryLimit": "memory", "PidsLimit": "processes"}
    wished = {"SwapLimit": "swap", "CpuCfsQuota": "CPU share"}
    missing = [word for name, word in needed.items() if not info.get(name)]
    lesser = [word for name, word in wished.items() if not info.get(name)]
    group = f"control groups version {info.get('CgroupVersion', '1')} by {info.get('CgroupDriver', '?')}"
    lacks = [*missing, *lesser]
    return Check(
        name="limits",
        ok=not missing,
        warning=bool(lesser),
        detail=f"{group}" + (f"; not limited: {', '.join(lacks)}" if lacks else "; all can be held"),
        change="enable these controllers in the kernel (swap: swapaccount=1); a rootless engine needs "
        "version 2 with systemd, and the controllers delegated to its user",
    )


def _filter(info: Mapping[str, Any]) -> Check:
    names = _security(info)
    return Check(
        name="system calls",
        ok="seccomp" in names,
        detail="the engine applies seccomp filters"
        if "seccomp" in names
        else "the engine knows no seccomp filter",
        change="an engine and a kernel with seccomp",
    )


def _live_restore(info: Mapping[str, Any]) -> Check:
    on = bool(info.get("LiveRestoreEnabled"))
    return Check(
        name="live-restore",
        ok=True,
        warning=not on,
        detail="on: sandboxes outlive a restart of the engine"
        if on
        else "off: a restart of the engine ends them all",
        change=f'"live-restore": true {_DAEMON}',
    )


def _storage(info: Mapping[str, Any]) -> Check:
    driver = str(info.get("Driver", "?"))
    slow = driver in {"vfs", "devicemapper"}
    return Check(
        name="storage",
        ok=True,
        warning=slow,
        detail=driver + (": copies the image for every sandbox" if driver == "vfs" else ""),
        change=f'"storage-driver": "overlay2" {_DAEMON}',
    )


def _users(info: Mapping[str, Any]) -> Check:
    """Who container root is on the host. With userns-remap it could not write in the state directory."""
    names = _security(info)
    if "userns" in names:
        return Check(
            name="users",
            ok=False,
            detail="userns-remap: root in a container is a user who may not use the service's directories",
            change="an engine without userns-remap; a rootless one if its root should be nobody on the host",
        )
    rootless = "rootless" in names
    return Check(
        name="users",
        ok=True,
        detail="rootless: root in a container is an ordinary user of the host"
        if rootless
        else "the engine is root: whoever may use its socket is root on this host",
    )


def _security(info: Mapping[str, Any]) -> set[str]:
    """``name=seccomp,profile=default`` as ``seccomp``."""
    parts = (
        dict(part.partition("=")[::2] for part in each.split(","))
        for each in info.get("SecurityOptions") or ()
    )
    return {part.get("name", "") for part in parts}
