"""How long code has run, not counting the time in which it waited for its caller."""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Runs from the start; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], *, already: float = 0.0) -> None:
        """`already`: seconds that count before the start."""
        self._clock = clock
        self._before = already
        self._since: float | None = clock()

    @property
    def seconds(self) -> float:
        """What has been counted so far."""
        return self._before + (0.0 if self._since is None else self._clock() - self._since)

    @property
    def paused(self) -> bool:
        return self._since is None

    def pause(self) -> None:
        """Stop counting."""
        self._before, self._since = self.seconds, None

    def resume(self) -> None:
        """Count again; nothing if it does."""
        if self._since is None:
            self._since = self._clock()
