"""What each backend is to reach, on two cores; docs/performance.md says what was reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Milliseconds but where the name says otherwise; None where nothing was promised."""

    run_ratio: float | None = None
    """A run of `print(1)` against the bare interpreter."""
    pandas_ratio: float | None = None
    run: float | None = None
    pandas: float | None = None
    create: float
    create_cold: float
    execution_ratio: float
    """Against a bare kernel with jupyter_client."""
    close: float | None = None
    rate: float | None = None
    """Runs a second, each in a fresh sandbox."""
    idle_mb: float


TARGETS = {
    "local": Targets(
        run_ratio=1.5,
        pandas_ratio=0.1,
        create=10,
        create_cold=150,
        execution_ratio=1.5,
        rate=120,
        idle_mb=30,
    ),
    "docker": Targets(
        run=20, pandas=30, create=10, create_cold=700, execution_ratio=1.5, close=200, idle_mb=80
    ),
}
