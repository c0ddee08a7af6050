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


@dataclass(frozen=True, kw_only=True)
class AgentTargets:
    """What the agent client is to reach."""

    import_ratio: float
    """Importing it against importing `openai`."""
    turn: float
    """Milliseconds of the loop's own for a turn."""


AGENTS = AgentTargets(import_ratio=1.2, turn=2)
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
