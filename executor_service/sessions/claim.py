"""What a session is made from, checked and decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from executor_service.egress.policy import Grant
from executor_service.languages import Language
from executor_service.limits import Limits
from executor_service.sessions.catalog import Offer
from executor_service.sessions.requests import Network


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a session was made from: whose, what, and for how long."""

    owner: str
    offer: Offer
    kernels: tuple[Language, ...] = ()
    """Those that the image has kernels for, beside its own."""
    backend: str
    limits: Limits
    env: Mapping[str, str]
    metadata: Mapping[str, str]
    ttl: float
    idle_ttl: float
    network: Network = False
    """As it was asked for; `grant` is what that means here."""
    grant: Grant | None = None
