"""Writes down what the programs come to: expected.json by AutoGen 0.2, differences.json by us, for those that
README.md lists. Needs a service (`CODECELL_URL`, or one of its own is started).

    scripts/integration_envs autogen02
    PYTHONPATH=tests .venv/bin/python -m tests.parity.record
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.integrations.test_adapters import python_of
from tests.parity.comparing import CODE, DIFFERENCES, EXPECTED, TEXTS, run, told


def main() -> int:
    """Exit status: 1 if a program differs that README.md does not list."""
    kept = {key: value for key, value in os.environ.items() if key.startswith("CODECELL_")}
    expected = {file: run(python_of("autogen02"), "autogen", file) for file in (TEXTS, CODE)}
    ours = {file: run(sys.executable, "agent_client", file, **kept) for file in (TEXTS, CODE)}
    differing = {file: _different(expected[file], ours[file]) for file in ours}
    _write(EXPECTED, expected)
    _write(
        DIFFERENCES, {f: {n: r for n, r in found.items() if n in told()} for f, found in differing.items()}
    )
    unexplained = [name for found in differing.values() for name in found if name not in told()]
    print("different, and not in README.md:", ", ".join(unexplained) or "none")
    return bool(unexplained)


def _different(expected: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    return {name: result for name, result in ours.items() if result != expected[name]}


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
