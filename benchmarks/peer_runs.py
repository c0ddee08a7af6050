"""Peers in environments of their own: made once from pinned requirements, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

from benchmarks.load import Times
from benchmarks.table import Table

SCRIPTS = Path(__file__).parent / "peers"
PEERS = {
    "autogen": "autogen-ext, Docker",
    "llmsandbox": "llm-sandbox, Docker",
    "gateway": "kernel gateway, not isolated",
}
WORDS = {"start": "start", "print": "print(1) again", "pandas": "pandas", "stop": "stop"}


def measure(table: Table, image: str, *, quick: bool, ours: str) -> None:
    """A row of each peer for each thing; `ours` is the row that `print(1)` is compared with."""
    table.section("Peers")
    task: dict[str, object] = {"image": image, "sessions": 5, "prints": 100, "pandas": 20}
    if quick:
        task |= {"sessions": 2, "prints": 20, "pandas": 5}
    for name, title in PEERS.items():
        try:
            found = run(name, task)
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            print(f"{title}: left out: {error}", flush=True)
            continue
        for key, word in WORDS.items():
            table.row(f"{title}: {word}", Times(found[key]), _against(table, ours, key, found))


def _against(table: Table, ours: str, key: str, found: Mapping[str, list[float]]) -> str:
    mine = table.p50(ours)
    if key != "print" or mine is None:
        return ""
    return f"an execution of ours is {Times(found[key]).p50 / mine:.1f} x faster (target 10)"


def run(name: str, task: Mapping[str, object]) -> dict[str, list[float]]:
    """What a peer's script measured."""
    command = [str(environment(name)), "-B", f"{SCRIPTS}/{name}.py", json.dumps(task)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        raise ValueError(f"it ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, list[float]] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return result


def environment(name: str) -> Path:
    """The interpreter of a peer's environment; made first if it is not there."""
    pins = SCRIPTS / f"{name}.txt"
    key = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "codecell" / "benchmarks" / f"{name}-{key}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        print(f"installing {pins.name} in {home}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--no-deps", "--requirement", str(pins)]
        subprocess.run(install, check=True)
        (home / "complete").touch()
    return python
