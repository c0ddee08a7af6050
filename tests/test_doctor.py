"""The doctor: what it says of an engine, and of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from executor_service.doctor_report import Check, Report, as_json, as_text
from executor_service.engine_checks import judge

VERSION = {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41"}
INFO: dict[str, Any] = {
    "OSType": "linux",
    "OperatingSystem": "Debian GNU/Linux 12",
    "Driver": "overlay2",
    "CgroupVersion": "2",
    "CgroupDriver": "systemd",
    "LiveRestoreEnabled": True,
    "MemoryLimit": True,
    "PidsLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "Runtimes": {
        "runc": {"path": "runc"},
        "runsc": {"path": "runsc", "runtimeArgs": ["--host-uds=create"]},
        "runsc-plain": {"path": "runsc"},
        "kata": {"path": "kata-runtime"},
    },
    "DefaultRuntime": "runc",
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
}


def words(checks: list[Check]) -> dict[str, str]:
    """Of checks those that are not simply ok."""
    return {check.name: check.word for check in checks if check.word != "ok"}


def test_an_engine_as_it_should_be() -> None:
    """Nothing to change, and each check says what it found."""
    checks = judge(INFO, VERSION, "runsc")
    assert words(checks) == {}
    assert all(check.detail for check in checks)


@pytest.mark.parametrize(
    ("info", "version", "runtime", "expected"),
    [
        ({"LiveRestoreEnabled": False}, {}, None, {"live-restore": "WARNING"}),
        ({"SwapLimit": False}, {}, None, {"limits": "WARNING"}),
        ({"CpuCfsQuota": False}, {}, None, {"limits": "WARNING"}),
        ({"MemoryLimit": False}, {}, None, {"limits": "PROBLEM"}),
        ({"PidsLimit": None}, {}, None, {"limits": "PROBLEM"}),
        ({"SecurityOptions": []}, {}, None, {"system calls": "PROBLEM"}),
        ({"SecurityOptions": None}, {}, None, {"system calls": "PROBLEM"}),
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}, {}, None, {}),
        ({"SecurityOptions": ["name=seccomp", "name=userns"]}, {}, None, {"users": "PROBLEM"}),
        ({"Driver": "vfs"}, {}, None, {"storage": "WARNING"}),
        ({"OSType": "windows"}, {}, None, {"engine": "PROBLEM"}),
        ({}, {"Version": "19.03.15"}, None, {"engine": "PROBLEM"}),
        ({}, {"Version": "5.4.2"}, None, {"engine": "PROBLEM"}),
        ({}, {"Version": "dev"}, None, {}),
        ({}, {}, "youki", {"runtime": "PROBLEM"}),
        ({}, {}, "runsc-plain", {"runtime": "WARNING"}),
        ({}, {}, "kata", {"runtime": "WARNING"}),
        ({"DefaultRuntime": "kata"}, {}, None, {"runtime": "WARNING"}),
        ({"Runtimes": None}, {}, None, {}),
    ],
)
def test_engines(
    info: dict[str, Any], version: dict[str, Any], runtime: str | None, expected: dict[str, str]
) -> None:
    """What cannot hold a sandbox is a problem, what is less than it might be a warning; each has a cure."""
    checks = judge(INFO | info, VERSION | version, runtime)
    assert words(checks) == expected
    assert all(check.change for check in checks if check.word != "ok")


def test_a_warning_does_not_make_a_machine_unfit() -> None:
    """It is shown with what to do about it, and the machine can run sandboxes all the same."""
    checks = judge(INFO | {"LiveRestoreEnabled": False}, VERSION, None)
    report = Report(backend="docker", checks=tuple(checks))
    assert report.healthy
    text = as_text(report)
    assert "WARNING  live-restore: off" in text
    assert 'to change: "live-restore": true' in text
    assert text.endswith("This machine can run sandboxes.")
    assert json.loads(as_json(report))["healthy"] is True


@pytest.mark.docker
def test_doctor_over_a_real_engine(docker_image: object) -> None:
    """It makes a container and tells what holds it."""
    argv = [sys.executable, "-m", "executor_service", "doctor", "--backend", "docker", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["backend"] == "docker"
    names = [check["name"] for check in report["checks"]]
    assert {"engine", "live-restore", "image python", "sandbox"} <= {*names}
    assert report["isolation"]["memory"]["enforced"] == "exact"
