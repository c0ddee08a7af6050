"""What the pool should do next: a pure function from its state to a list of actions.

Policy in one place. First come, first served: nobody who asked later gets what an earlier waiter could
have. Demand comes before stock. Stock is refilled when the pool has settled, or one for each sandbox
that was used up, and never with more than `refills` at a time, so that it does not starve work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from executor_service.sandboxes.base import SandboxSpec


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What there is of one key: sandboxes that are ready, and that are being made."""

    ready: int = 0
    making: int = 0


@dataclass(frozen=True, kw_only=True)
class PoolState:
    """What `plan` decides on.

    `waiting` are the keys that are asked for, in order of arrival; `keep` the keys to keep `warm` of;
    `blocked` the keys whose making failed a moment ago: they get no refill now. `refill_credit` is
    how many refills may start although work goes on; None means as many as wanted.
    """

    capacity: int
    warm: int
    makers: int
    refills: int
    leased: int = 0
    closing: int = 0
    stock: Mapping[SandboxSpec, Stock] = field(default_factory=dict)
    waiting: Sequence[SandboxSpec] = ()
    keep: Sequence[SandboxSpec] = ()
    blocked: frozenset[SandboxSpec] = frozenset()
    refill_credit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Assign:
    """Give a ready sandbox of `spec` to the waiter at `index` of `waiting`."""

    spec: SandboxSpec
    index: int


@dataclass(frozen=True, kw_only=True)
class Make:
    """Start to make a sandbox; `refill` when it is for stock."""

    spec: SandboxSpec
    refill: bool = False


@dataclass(frozen=True, kw_only=True)
class Evict:
    """Close a ready sandbox: too many of its key, or its place is needed for another key."""

    spec: SandboxSpec


Action = Assign | Make | Evict


def plan(state: PoolState) -> list[Action]:
    """The actions to take now, in order."""
    book = _Book(state)
    for index, spec in enumerate(state.waiting):
        book.serve(index, spec)
    book.trim()
    book.refill()
    return book.actions


class _Book:
    """The state as it becomes while actions are decided."""

    def __init__(self, state: PoolState) -> None:
        self.state = state
        self.actions: list[Action] = []
        self.ready = {spec: stock.ready for spec, stock in state.stock.items()}
        self.making = {spec: stock.making for spec, stock in state.stock.items()}
        self.spoken_for: dict[SandboxSpec, int] = {}  # of those being made, for waiters
        self.closing = state.closing
        self.promised = state.closing  # places that become free, not yet promised to a waiter
        self.leased = state.leased

    @property
    def alive(self) -> int:
        return self.leased + self.closing + sum(self.ready.values()) + sum(self.making.values())

    def serve(self, index: int, spec: SandboxSpec) -> None:
        """A ready one, else one that is being made, else a new one, else the place of another key's."""
        if self.ready.get(spec, 0):
            self.ready[spec] -= 1
            self.leased += 1
            self.actions.append(Assign(spec=spec, index=index))
        elif self.making.get(spec, 0) > self.spoken_for.get(spec, 0):
            self.spoken_for[spec] = self.spoken_for.get(spec, 0) + 1
        elif self.alive < self.state.capacity:
            if sum(self.making.values()) < self.state.makers:
                self._make(spec)
                self.spoken_for[spec] = self.spoken_for.get(spec, 0) + 1
        elif self.promised:
            self.promised -= 1
        else:
            self._evict_for(spec)

    def trim(self) -> None:
        """Close what nobody waits for and no target asks for."""
        for spec, ready in list(self.ready.items()):
            target = self.state.warm if spec in self.state.keep else 0
            for _ in range(ready - target):
                self._evict(spec)

    def refill(self) -> None:
        """Bring every kept key to its target, evenly, as far as room and `refill_credit` go."""
        credit = self.state.refill_credit
        if credit is None and any(isinstance(action, Assign) for action in self.actions):
            credit = 0  # a lease unsettles the pool
        started = 0
        while credit is None or started < credit:
            if self.alive >= self.state.capacity or sum(self.making.values()) >= self.state.refills:
                return
            short = [spec for spec in self.state.keep if self._stocked(spec) < self.state.warm]
            short = [spec for spec in short if spec not in self.state.blocked]
            if not short or self._unserved():
                return
            self._make(min(short, key=self._stocked), refill=True)
            started += 1

    def _stocked(self, spec: SandboxSpec) -> int:
        return self.ready.get(spec, 0) + self.making.get(spec, 0) - self.spoken_for.get(spec, 0)

    def _unserved(self) -> bool:
        """Whether a waiter has neither a sandbox nor one that is being made for it."""
        served = sum(isinstance(action, Assign) for action in self.actions) + sum(self.spoken_for.values())
        return served < len(self.state.waiting)

    def _make(self, spec: SandboxSpec, *, refill: bool = False) -> None:
        self.making[spec] = self.making.get(spec, 0) + 1
        self.actions.append(Make(spec=spec, refill=refill))

    def _evict(self, spec: SandboxSpec) -> None:
        self.ready[spec] -= 1
        self.closing += 1
        self.actions.append(Evict(spec=spec))

    def _evict_for(self, wanted: SandboxSpec) -> None:
        """Free the place of a ready sandbox that no waiter asks for, from the fullest key."""
        asked = set(self.state.waiting)
        idle = [spec for spec, ready in self.ready.items() if ready and spec not in asked and spec != wanted]
        if idle:
            self._evict(max(idle, key=lambda spec: self.ready[spec]))
