"""Running the programs of one file, and what is written down of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TEXTS, CODE = "programs.py", "code_programs.py"
EXPECTED = HERE / "expected.json"  # what AutoGen came to
DIFFERENCES = HERE / "differences.json"  # what we come to, where that is meant to differ


def run(python: str, framework: str, file: str, **env: str) -> dict[str, Any]:
    """What came of each program of a file; one process runs them all."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CODECELL_", "OPENAI_", "AUTOGEN_"))
    }
    done = subprocess.run(
        [python, str(HERE / "world.py"), framework, str(HERE / file)],
        env=kept | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def recorded(path: Path, file: str) -> dict[str, Any]:
    """What is written down of a file's programs."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[file]
    return found


def told() -> set[str]:
    """The programs that README.md says come out otherwise."""
    return set(re.findall(r"^\| `(\w+)` \|", (HERE / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
