"""What the scripts of peers share; imports nothing but the standard library."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

PRINT = "print(1)"
PANDAS = "import pandas as pd; print(pd.Series([1,2]).sum())"


class Stopwatch:
    """Collects milliseconds by name."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        """Call it and note how long it took."""
        start = time.perf_counter()
        result = call()
        self.times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return result

    def expect(self, name: str, call: Callable[[], str], wanted: str) -> None:
        """The same; its text must be `wanted`."""
        text = self.time(name, call)
        if text.strip() != wanted:
            raise SystemExit(f"{name}: {text[:2000]!r} instead of {wanted!r}")

    def report(self) -> None:
        """For `benchmarks.peer_runs`, as the last line."""
        print(json.dumps(self.times), flush=True)


def task() -> dict[str, Any]:
    """What is to be measured: `image`, and how many of `sessions`, `prints` and `pandas`."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found
