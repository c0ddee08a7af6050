"""The written contract of a backend; tests/conformance/ is the same contract as tests.

A backend only builds the isolation and starts the guest. Everything that happens afterwards goes
over connections to the guest and is the same for every backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from executor_service.result import Reading

Warm = Literal["none", "light", "program", "kernel"]


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """What cannot change on a live sandbox; it is the pool's key too.

    `warm` says which interpreter stands ready inside: an armed Python that will become the
    program, with the image's packages imported (`program`) or without (`light`, which is forked in
    half the time), a started Python kernel, or none. With `network` it has a way to the egress proxy,
    never a network device.
    """

    image: str
    warm: Warm = "none"
    disk_bytes: int = 256 * 1024 * 1024
    network: bool = False


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What is set when a ready sandbox is handed out.

    `durable`: it outlives the service, where its backend can do that, until `expires_in` seconds from now
    (see `Sandbox.renew`); the guest ends itself then.
    """

    memory_bytes: int
    processes: int
    cpus: float
    durable: bool = False
    expires_in: float | None = None


class Sandbox(Protocol):
    """One isolated place with a guest and a workspace."""

    @property
    def id(self) -> str: ...

    @property
    def spec(self) -> SandboxSpec: ...

    @property
    def died(self) -> asyncio.Event:
        """Set once the guest is gone, for whatever reason, close included."""

    async def configure(self, lease: Lease) -> None:
        """Apply memory, processes and cpus. Raises SandboxFailed if the sandbox is gone."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection to the guest. Raises SandboxFailed if the sandbox is gone."""

    async def renew(self, expires_in: float) -> None:
        """Live until so many seconds from now at the latest. Raises SandboxFailed if the sandbox is gone."""

    async def meters(self) -> Reading:
        """What it has used. Raises SandboxFailed, OSError if the sandbox is gone."""

    async def close(self) -> None:
        """Kill everything inside and leave nothing behind. Idempotent; never raises."""


class Backend(Protocol):
    """How sandboxes are made. An async context manager: entered before use, closed after."""

    @property
    def name(self) -> str: ...

    @property
    def durable(self) -> bool:
        """Whether a sandbox can outlive the service, so that `adopt` finds it again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A ready sandbox, or nothing left behind.

        Raises:
            ImageNotFound: `spec.image` is not there; the detail names the command that builds it.
            SandboxFailed: it could not be made.
            BackendUnavailable: the backend itself does not answer.
        """

    async def adopt(self, ids: Collection[str]) -> Sequence[Sandbox]:
        """Those of `ids`, sandboxes that a predecessor of this instance left on purpose, which still live."""

    async def sweep(self) -> int:
        """Remove what a dead predecessor of this instance left and was not adopted; how many things."""

    async def ping(self) -> None:
        """Raises BackendUnavailable if the backend cannot take work now."""

    def isolation(self) -> Mapping[str, Mapping[str, str]]:
        """What is enforced, by what, and whether exactly or by sampling.

        Keys are aspects (`filesystem`, `processes`, `memory`, ...); each value has `by` and
        `enforced` (`exact`, `sampled` or `none`), and `detail` where there is more to say.
        """
