"""The kernel of one session: which one is there now, and how a fresh one takes its place.

Restarts are single-flight: whoever needs a kernel meanwhile waits for the one that is coming.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from executor_service.errors import SandboxFailed
from executor_service.sandboxes.base import Sandbox
from executor_service.sessions.ports import GuestPort, KernelPort
from executor_service.tasks import Tasks

log = logging.getLogger(__name__)


class KernelHolder:
    """Holds the connection; `close` lets go of it."""

    def __init__(self, sandbox: Sandbox, *, guest: GuestPort, env: Mapping[str, str], tasks: Tasks) -> None:
        self._sandbox = sandbox
        self._guest = guest
        self._env = env
        self._tasks = tasks
        self._kernel: KernelPort | None = None
        self._coming: asyncio.Task[None] | None = None
        self._lost = False
        self._closed = False

    @property
    def kernel(self) -> KernelPort | None:
        """The present one; it may have died."""
        return self._kernel

    @property
    def restarting(self) -> bool:
        return self._coming is not None

    async def start(self) -> None:
        """Connect to the kernel that stands ready. Raises SandboxFailed."""
        self._kernel = await self._guest.kernel(self._sandbox, fresh=False, env=self._env)

    async def ready(self) -> KernelPort:
        """A living kernel: the present one, the one that is coming, or a fresh one for one that died.

        Raises:
            SandboxFailed: the sandbox is gone, or a fresh kernel does not start.
        """
        if self._coming is None and (self._kernel is None or self._kernel.died.is_set()):
            self._lost = True
            self.restart()
        if self._coming is not None:
            await asyncio.wait([self._coming])
        if self._kernel is None:
            raise SandboxFailed("the kernel does not start")
        return self._kernel

    def restart(self) -> None:
        """Begin to replace the kernel and all that it left running; see `ready`."""
        if self._coming is None and not self._closed:
            self._coming = self._tasks.start(self._replace(), name=f"restart kernel {self._sandbox.id}")

    def take_lost(self) -> bool:
        """Whether state was lost that no execution has told of yet; told now."""
        lost, self._lost = self._lost, False
        return lost

    async def close(self) -> None:
        """Let go; the kernel ends with its sandbox."""
        self._closed = True
        if self._coming is not None:
            self._coming.cancel()
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            await kernel.close()

    async def _replace(self) -> None:
        try:
            old, self._kernel = self._kernel, None
            if old is not None:
                await old.close()
            self._kernel = await self._guest.kernel(self._sandbox, fresh=True, env=self._env)
        except SandboxFailed as error:
            log.warning("no fresh kernel in sandbox %s: %s", self._sandbox.id, error.detail)
        finally:
            self._coming = None
