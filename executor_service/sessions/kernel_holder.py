"""The kernel of one session: which one is there now, and how a fresh one takes its place.

Restarts are single-flight: whoever needs a kernel meanwhile waits for the one that is coming.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from executor_service.errors import SandboxFailed
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.kernel_start import KernelStart
from executor_service.sessions.ports import GuestPort, KernelPort
from executor_service.tasks import Tasks

log = logging.getLogger(__name__)

RECONNECT_TIME = 10.0  # seconds that a kernel has to answer a service that took it over


class KernelHolder:
    """Holds the connection; `close` lets go of it."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        guest: GuestPort,
        env: Mapping[str, str],
        tasks: Tasks,
        keep: str | None = None,
        start: KernelStart | None = None,
        named: bool = True,
        inherited: bool = False,
    ) -> None:
        """`keep`: the name under which a later service finds what the kernel executes.

        `start` says which kernel it is, the warm interpreter's by default; `named` whether it names
        interrupts `KeyboardInterrupt`. `inherited`: a service before us may have started it.
        """
        self._sandbox = sandbox
        self._start = start or KernelStart()
        self.named = named
        self._inherited = inherited
        self.begun = False  # whether there ever was a kernel, as far as is known
        self._keep = keep
        self._guest = guest
        self._env = env
        self._tasks = tasks
        self._kernel: KernelPort | None = None
        self._coming: asyncio.Task[None] | None = None
        self._lost = False
        self._closed = False

    @property
    def name(self) -> str:
        """The kernel's in its sandbox."""
        return self._start.name

    @property
    def how(self) -> KernelStart:
        """Which kernel it is, and how it is started."""
        return self._start

    @property
    def kernel(self) -> KernelPort | None:
        """The present one; it may have died."""
        return self._kernel

    @property
    def restarting(self) -> bool:
        return self._coming is not None

    async def start(self) -> None:
        """Connect to the kernel that stands ready. Raises SandboxFailed."""
        self._kernel = await self._connect(fresh=False, env=self._env)
        self.begun = True

    def take(self, kernel: KernelPort) -> None:
        """It goes on where a service before us left it."""
        self._kernel = kernel
        self.begun = True

    def reconnect(self) -> None:
        """Begin to connect to the kernel that a service before us left idle; see `ready`."""
        self.begun = True
        self._coming = self._tasks.start(self._reconnect(), name=f"connect to kernel {self._sandbox.id}")

    async def ready(self) -> KernelPort:
        """A living kernel: the present one, the one that is coming, or a fresh one for one that died.

        Raises:
            SandboxFailed: the sandbox is gone, or a fresh kernel does not start.
        """
        if self._coming is None and (self._kernel is None or self._kernel.died.is_set()):
            self._lost = self.begun
            if self.begun or self._closed:
                self.restart()
            else:
                self._coming = self._tasks.start(self._begin(), name=f"start {self.name} {self._sandbox.id}")
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

    async def _connect(self, *, fresh: bool, env: Mapping[str, str]) -> KernelPort:
        return await self._guest.kernel(
            self._sandbox, fresh=fresh, env=env, keep=self._keep, start=self._start
        )

    async def _fresh(self) -> KernelPort:
        return await self._connect(fresh=True, env=self._env)

    async def _begin(self) -> None:
        """The first time; one that a service before us started may have ended since."""
        try:
            try:
                self._kernel = await self._connect(fresh=False, env=self._env)
            except SandboxFailed:
                if not self._inherited:
                    raise
                self._kernel = await self._fresh()
                self._lost = True
            self.begun = True
        except SandboxFailed as error:
            log.warning("no %s kernel in sandbox %s: %s", self.name, self._sandbox.id, error.detail)
        finally:
            self._coming = None

    async def _reconnect(self) -> None:
        """It has its variables; one that does not answer soon, or has ended, is replaced."""
        try:
            try:
                async with asyncio.timeout(RECONNECT_TIME):
                    self._kernel = await self._connect(fresh=False, env={})
            except (SandboxFailed, TimeoutError) as error:
                log.warning("kernel of sandbox %s is lost: %r", self._sandbox.id, error)
                self._lost = True
                self._kernel = await self._fresh()
        except SandboxFailed as error:
            log.warning("no fresh kernel in sandbox %s: %s", self._sandbox.id, error.detail)
        finally:
            self._coming = None

    async def _replace(self) -> None:
        try:
            old, self._kernel = self._kernel, None
            if old is not None:
                await old.close()
            self._kernel = await self._fresh()
        except SandboxFailed as error:
            log.warning("no fresh kernel in sandbox %s: %s", self._sandbox.id, error.detail)
        finally:
            self._coming = None
