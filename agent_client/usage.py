"""What model calls used, and how much a run may use: sums, bounds, and the meter between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What model calls used. `cost` is in the currency of the prices given; 0 where none are known."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost=self.cost + other.cost,
        )


@dataclass(frozen=True, kw_only=True)
class UsageLimits:
    """Bounds on all agents of a run together, checked before each model call. None: no bound."""

    requests: int | None = 200
    tokens: int | None = None
    cost: float | None = None

    def exceeded_by(self, used: Usage) -> str | None:
        """Why no further model call may be made, or None."""
        if self.requests is not None and used.requests >= self.requests:
            return f"the limit of {self.requests} model calls was reached"
        if self.tokens is not None and used.total_tokens >= self.tokens:
            return f"the limit of {self.tokens} tokens was reached ({used.total_tokens} used)"
        if self.cost is not None and used.cost >= self.cost:
            return f"the limit of {self.cost:g} in cost was reached ({used.cost:g} spent)"
        return None


class BudgetSpent(Exception):
    """A run's bound was reached; the conversation ends with this reason."""


class UsageMeter:
    """Counts a run's model calls, by model. One meter per run, shared by its agents; what a run inside a
    run uses counts for both.
    """

    def __init__(self, limits: UsageLimits, parent: UsageMeter | None = None) -> None:
        self.limits = limits
        self.by_model: dict[str, Usage] = {}
        self._parent = parent

    @property
    def total(self) -> Usage:
        return sum(self.by_model.values(), start=Usage())

    def check(self) -> None:
        """Say that a model call is about to be made.

        Raises:
            BudgetSpent: the run may make no further call.
        """
        reason = self.limits.exceeded_by(self.total)
        if reason:
            raise BudgetSpent(reason)
        if self._parent is not None:
            self._parent.check()

    def add(self, model: str, used: Usage) -> None:
        self.by_model[model] = self.by_model.get(model, Usage()) + used
        if self._parent is not None:
            self._parent.add(model, used)

    def cost(self) -> dict[str, Any]:
        """The `cost` of a `ChatResult`, in AutoGen's shape (nothing here is ever cached)."""
        total: dict[str, Any] = {"total_cost": self.total.cost}
        keys = ("cost", "prompt_tokens", "completion_tokens", "total_tokens")
        total |= {m: {key: getattr(used, key) for key in keys} for m, used in self.by_model.items()}
        return {"usage_including_cached_inference": total, "usage_excluding_cached_inference": dict(total)}
