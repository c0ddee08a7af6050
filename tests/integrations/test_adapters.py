"""The adapters, each with the real package in an environment of its own, and a real service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import RealService

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAMS = {
    "autogen02": "autogen_classic",
    "ag2": "autogen_classic",
    "autogen04": "autogen_04",
    "tools": "tools",
    "smolagents": "smol",
}
ENVIRONMENTS = {"smolagents": "tools"}  # where it is not of the same name
_REPORTS: dict[str, dict[str, Any]] = {}


def cases() -> Iterator[tuple[str, str]]:
    """Every case of every program, under the name of what it is about."""
    for framework, program in PROGRAMS.items():
        text = (HERE / "programs" / f"{program}.py").read_text(encoding="utf-8")
        for name in re.findall(r"^def (case_\w+)", text, re.MULTILINE):
            yield framework, name


def python_of(environment: str) -> str:
    """The environment's interpreter; without one the test is skipped, or fails where none may be missing."""
    script = str(ROOT / "scripts" / "integration_envs.py")
    required = os.environ.get("CODECELL_REQUIRE_INTEGRATIONS") == "1"
    found = subprocess.run(
        [sys.executable, script, *([] if required else ["--find"]), environment],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode == 0:
        return found.stdout.strip()
    if required:
        pytest.fail(f"CODECELL_REQUIRE_INTEGRATIONS=1, and {found.stderr}")
    pytest.skip(f"needs the real packages: scripts/integration_envs {environment}")


@pytest.fixture(scope="module")
def own_service(python_image: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """A service that nobody else opens sessions in."""
    service = RealService(tmp_path_factory.mktemp("service") / "state", "--warm", "2")
    yield service
    assert service.stop() == 0


def reports_of(framework: str, url: str, directory: Path) -> dict[str, Any]:
    """What came of each case; the program runs once."""
    if framework not in _REPORTS:
        python = python_of(ENVIRONMENTS.get(framework, framework))
        env = {
            key: value for key, value in os.environ.items() if not key.startswith(("CODECELL_", "OPENAI_"))
        }
        env |= {
            "CODECELL_URL": url,
            "PYTHONPATH": str(ROOT),
            "HOME": str(directory),
        }
        env |= {"OPENAI_API_KEY": "none", "OPENAI_AGENTS_DISABLE_TRACING": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [python, str(HERE / "programs" / f"{PROGRAMS[framework]}.py")],
            env=env,
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=240,
            check=False,
        )
        lines = re.findall(r"^REPORT (.*)$", done.stdout, re.MULTILINE)
        found = {report["case"]: report for report in map(json.loads, lines)}
        _REPORTS[framework] = {"": done.stdout[-2000:] + done.stderr[-4000:], **found}
    return _REPORTS[framework]


@pytest.mark.parametrize(("framework", "case"), list(cases()))
def test_the_real_package(framework: str, case: str, own_service: RealService, tmp_path: Path) -> None:
    """The case went well in the package's own environment, and left no session open."""
    reports = reports_of(framework, own_service.url, tmp_path)
    assert case in reports, f"the program did not get there:\n{reports['']}"
    assert reports[case]["problem"] is None, reports[case]["problem"]
