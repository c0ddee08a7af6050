"""Everything that an operator can set, as one frozen value. Only the app and the commands see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from executor_service.egress.policy import Ceiling
from executor_service.keys import Key
from executor_service.limits import Limits, MiB, default_ceiling

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8700
BACKENDS = ("auto", "local", "docker")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Times are seconds, sizes bytes. `port` 0 takes any free port."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    backend: str = "auto"
    docker_host: str | None = None
    """The container engine's address; None takes what the environment says, or the usual socket."""
    runtime: str | None = None
    """The runtime of the containers (`runsc`, `kata`); None takes the engine's own."""
    state_dir: Path
    images: tuple[str, ...] = ("python",)

    keys: tuple[Key, ...] = field(default=(), repr=False)
    """Keys from the environment."""
    key_files: tuple[Path, ...] = ()
    """Files whose keys count while they stand there."""
    public_metrics: bool = False
    public_docs: bool = False

    capacity: int = 128
    warm: int = 8
    queue: int = 256
    acquire_timeout: float = 10.0

    limits: Limits = field(default_factory=Limits)
    ceiling: Limits = field(default_factory=default_ceiling)
    egress: Ceiling = field(default_factory=Ceiling)
    """The networks that callers may ask for; by default none."""
    ca_bundle: Path | None = None
    """Certificate authorities for sandboxes that have a network."""
    durable: bool = True
    """Whether sessions outlive the service, where the backend can do that."""
    ttl: float = 3600.0
    max_ttl: float = 86400.0
    idle_ttl: float = 600.0

    json_bytes: int = 32 * MiB
    upload_bytes: int = 2048 * MiB
    grace: float = 10.0
    """How long running work may go on after SIGTERM."""
    log_level: str = "info"
    access_log: bool = False


class SettingsError(Exception):
    """A setting makes no sense; the message says which and what to change."""


def parse_limits(pairs: Mapping[str, str], *, base: Limits, what: str) -> Limits:
    """`base` with the values of ``{name: number}`` in place.

    Raises:
        SettingsError: no such limit, or no finite positive number.
    """
    values: dict[str, float | int | None] = {}
    for name, text in pairs.items():
        kind = _KINDS.get(name)
        if kind is None:
            raise SettingsError(f"{what} {name}: there is no such limit; there are {', '.join(_KINDS)}")
        try:
            value = kind(float(text))
        except (ValueError, OverflowError):
            value = kind(0)
        if not 0 < value < float("inf"):
            raise SettingsError(f"{what} {name}={text}: must be a finite number above zero")
        values[name] = value
    merged = {name: values.get(name, getattr(base, name)) for name in _KINDS}
    return Limits(**merged)


_KINDS: Mapping[str, type[float | int]] = {
    "wall_time": float,
    "cpu_time": float,
    "compile_time": float,
    "output_bytes": int,
    "open_files": int,
    "memory_bytes": int,
    "processes": int,
    "cpus": float,
    "disk_bytes": int,
}
