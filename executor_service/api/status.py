"""What the service says about itself: languages, images, what is enforced, whether it can work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from executor_service import __version__
from executor_service.errors import BackendUnavailable
from executor_service.limits import Limits
from executor_service.sandboxes.base import Backend
from executor_service.sandboxes.pool import Pool

PING_TIMEOUT = 5.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """Answers the questions of `GET /v1/info`, `/v1/languages`, `/v1/images` and `/readyz`."""

    backend: Backend
    pool: Pool
    default: Limits
    ceiling: Limits
    language_items: Sequence[Mapping[str, Any]]
    image_items: Sequence[Mapping[str, Any]]
    draining: Callable[[], bool]
    backend_reason: str = ""
    network: Mapping[str, object] = field(default_factory=dict)

    def languages(self) -> list[dict[str, Any]]:
        """The languages whose smoke program ran."""
        return [dict(each) for each in self.language_items]

    def images(self) -> list[dict[str, Any]]:
        """The images that can be used."""
        return [dict(each) for each in self.image_items]

    def info(self) -> dict[str, Any]:
        """Version, backend and why it is this one, what is enforced by what, limits, and networks."""
        return {
            "version": __version__,
            "backend": self.backend.name,
            "backend_reason": self.backend_reason,
            "isolation": {name: dict(how) for name, how in self.backend.isolation().items()},
            "limits": {"default": asdict(self.default), "ceiling": asdict(self.ceiling)},
            "network": dict(self.network),
        }

    async def ready(self) -> dict[str, Any]:
        """The pool's state.

        Raises:
            BackendUnavailable: the service is shutting down, or the backend does not answer.
        """
        if self.draining():
            raise BackendUnavailable("the service is shutting down")
        try:
            await asyncio.wait_for(self.backend.ping(), PING_TIMEOUT)
        except TimeoutError:
            raise BackendUnavailable(f"the backend did not answer in {PING_TIMEOUT:g} s") from None
        return {"pool": pool_numbers(self.pool)}


def pool_numbers(pool: Pool) -> dict[str, float]:
    """The pool's state as numbers, for readiness and metrics."""
    now = pool.stats()
    return {
        "capacity": now.capacity,
        "ready": sum(now.ready.values()),
        "making": now.making,
        "leased": now.leased,
        "closing": now.closing,
        "waiting": now.waiting,
    }
