"""What is remembered of closed sessions: whose they were and why they ended, for a while."""

from __future__ import annotations


class Tombstones:
    """Bounded in time and number; the oldest goes first."""

    def __init__(self, *, seconds: float, count: int) -> None:
        self._seconds = seconds
        self._count = count
        self._stones: dict[str, tuple[str, str, float]] = {}

    def __len__(self) -> int:
        return len(self._stones)

    def add(self, session_id: str, owner: str, reason: str, now: float) -> None:
        """Remember that a session of `owner` ended at `now`."""
        self._stones[session_id] = (owner, reason, now + self._seconds)
        self._trim(now)

    def get(self, session_id: str, owner: str, now: float) -> str | None:
        """Why the session ended; None for another owner's and for what is forgotten."""
        self._trim(now)
        whose, reason, _ = self._stones.get(session_id, (None, "", 0.0))
        return reason if whose == owner else None

    def _trim(self, now: float) -> None:
        for session_id, (_, _, until) in list(self._stones.items()):
            if until > now and len(self._stones) <= self._count:
                return
            del self._stones[session_id]
