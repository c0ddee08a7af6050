"""The kernels of one session: that of its language, and those of its image's others once they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from executor_service.languages import Language
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.kernel_start import WARM, KernelStart
from executor_service.sessions.environment import for_kernel
from executor_service.sessions.kernel_holder import KernelHolder
from executor_service.sessions.ports import GuestPort
from executor_service.tasks import Tasks

KEPT = "kernel/"  # begins the names under which the guest keeps what kernels execute


def kept_as(kernel: str) -> str:
    """The name under which the guest keeps what the kernel of that name executes."""
    return f"{KEPT}{kernel}"


def kernel_start(language: Language, env: Mapping[str, str], memory_bytes: int) -> KernelStart:
    """How the kernel of `language` is started, with all of `env`; the warm one is there already. Pure."""
    spec = language.kernel
    assert spec is not None
    if not spec.argv:
        return KernelStart(name=WARM)
    return KernelStart(
        name=language.name,
        argv=spec.start_argv(memory_bytes),
        env={**env, **language.env, **spec.env},
        interrupt=spec.interrupt,
        start_time=spec.start_time,
        rest=spec.rest,
    )


class Kernels:
    """One holder for each kernel that was asked for. `main` is that of the session's own language."""

    def __init__(
        self,
        sandbox: Sandbox,
        main: Language,
        *,
        guest: GuestPort,
        env: Mapping[str, str],
        memory_bytes: int,
        tasks: Tasks,
        keep: bool,
        inherited: bool,
    ) -> None:
        """`keep`: a later service finds what they execute; `inherited`: there was an earlier one."""
        self._sandbox = sandbox
        self._guest = guest
        self._env = env
        self._memory_bytes = memory_bytes
        self._tasks = tasks
        self._keep = keep
        self._inherited = inherited
        self._holders: dict[str, KernelHolder] = {}
        self._perhaps: set[str] = set()  # kernels that a service before us may have started
        self.main = self.of(main)

    def of(self, language: Language) -> KernelHolder:
        """The holder of that language's kernel, which starts when it is first asked to be ready."""
        start = kernel_start(language, self._env, self._memory_bytes)
        if start.name not in self._holders:
            self._holders[start.name] = KernelHolder(
                self._sandbox,
                guest=self._guest,
                env=for_kernel(self._env) if start.name == WARM else {},
                tasks=self._tasks,
                keep=kept_as(start.name) if self._keep else None,
                start=start,
                inherited=self._inherited,
                named=language.kernel is not None and language.kernel.names_interrupt,
            )
        return self._holders[start.name]

    async def start(self) -> None:
        """Connect to the main one. The warm interpreter goes where that is another. Raises SandboxFailed."""
        await self.main.start()
        if self.main.name != WARM:
            await self._guest.end_kernel(self._sandbox, WARM)

    def adopt(self, others: Iterable[Language]) -> None:
        """Instead of `start`: all may be there, left by a service before us."""
        self._perhaps = {kernel_start(each, {}, self._memory_bytes).name for each in others}
        if self.main.kernel is None:
            self.main.reconnect()

    def restart(self) -> None:
        """Replace those that were ever started, and all that they left running."""
        for holder in self._holders.values():
            self._perhaps.discard(holder.name)
            if holder.begun:
                holder.restart()
        for name in self._perhaps:
            self._tasks.start(self._guest.end_kernel(self._sandbox, name), name=f"end kernel {name}")
        self._perhaps.clear()

    async def close(self) -> None:
        """Let go of them; they end with their sandbox."""
        await asyncio.gather(*(holder.close() for holder in self._holders.values()))
