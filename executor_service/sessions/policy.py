"""The numbers that bound sessions and runs, as one frozen value; defaults fit one machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from executor_service.egress.policy import Ceiling
from executor_service.limits import Limits, MiB, default_ceiling


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What callers may ask for and how long things are kept. Times are seconds, sizes bytes."""

    limits: Limits = field(default_factory=Limits)
    ceiling: Limits = field(default_factory=default_ceiling)
    egress: Ceiling = field(default_factory=Ceiling)
    ca_bundle: bool = False
    """Whether sandboxes with a network find certificate authorities of the operator's."""

    ttl: float = 3600.0
    max_ttl: float = 86400.0
    idle_ttl: float = 600.0
    max_idle_ttl: float = 86400.0
    closed_for: float = 3600.0
    """How long a closed session answers `session_closed` rather than not found."""
    max_tombstones: int = 10_000

    keep_for: float = 600.0
    """How long a finished detached operation can be asked for."""
    keep_count: int = 1000
    keep_bytes: int = 256 * MiB
    session_keep_count: int = 100
    session_keep_bytes: int = 64 * MiB

    max_detached: int = 256
    """Detached runs that may run at the same time."""
    max_commands: int = 32
    """Commands and terminals that may run at the same time in one session."""
    interrupt_grace: float = 2.0
    """How long interrupted code has before its kernel is killed."""

    max_files_in: int = 1000
    max_files_in_bytes: int = 64 * MiB
    collect_files: int = 100
    collect_bytes: int = 10 * MiB
    max_changed: int = 1000
