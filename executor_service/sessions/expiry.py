"""When a session's time is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """Instants are seconds since 1970; `active` says that something runs or is being used."""

    expires_at: float
    last_used_at: float
    idle_ttl: float
    active: bool = False


def expired(life: Lifetime, now: float) -> str | None:
    """Why the session must end now, or None. The end of `ttl` counts even for an active one."""
    if now >= life.expires_at:
        return "its time to live (ttl) is over"
    if not life.active and now >= life.last_used_at + life.idle_ttl:
        return f"it was not used for {life.idle_ttl:g} seconds (idle_ttl)"
    return None


def instant(seconds: float) -> str:
    """An instant as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
