"""What this room asks of a sandbox's guest, as protocols; `Guest` is the real thing.

Tests give fakes of these; nothing else in this room opens a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Protocol, Self

from executor_service.errors import SandboxFailed
from executor_service.events import Event
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.files import Files
from executor_service.sandboxes.guest import Ended, Program, ProgramSpec, start_program
from executor_service.sandboxes.kernel import Kernel, KernelDone

ENV_TIME = 30.0  # seconds that a kernel has to take its variables


class ProgramPort(Protocol):
    """A program in a sandbox; see :class:`executor_service.sandboxes.guest.Program`."""

    ended: Ended | None

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]: ...

    async def write_stdin(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def signal(self, name: str) -> None: ...

    async def resize(self, rows: int, cols: int) -> None: ...

    async def kill(self) -> None: ...


class KernelPort(Protocol):
    """A started kernel; see :class:`executor_service.sandboxes.kernel.Kernel`."""

    @property
    def died(self) -> asyncio.Event: ...

    @property
    def over_limit(self) -> asyncio.Event: ...

    def execute(
        self, code: str, *, allow_input: bool = False, output_bytes: int, silent: bool = False
    ) -> AsyncGenerator[Event | KernelDone, None]: ...

    async def answer(self, text: str) -> None: ...

    async def interrupt(self) -> None: ...

    async def limit_open_files(self, number: int) -> None: ...

    async def close(self) -> None: ...


class GuestPort(Protocol):
    """The three things that a guest does."""

    def program(self, sandbox: Sandbox, spec: ProgramSpec) -> ProgramPort:
        """A program, to be entered."""

    async def kernel(self, sandbox: Sandbox, *, fresh: bool, env: Mapping[str, str]) -> KernelPort:
        """The kernel of the sandbox, or a fresh one; raises SandboxFailed."""

    def files(self, sandbox: Sandbox) -> Files:
        """The workspace."""


class Guest:
    """The guest behind a sandbox's socket."""

    def program(self, sandbox: Sandbox, spec: ProgramSpec) -> Program:
        return start_program(sandbox, spec)

    async def kernel(self, sandbox: Sandbox, *, fresh: bool, env: Mapping[str, str]) -> Kernel:
        kernel = await Kernel.connect(sandbox, fresh=fresh)
        try:
            if env:
                await _set_env(kernel, env)
        except BaseException:
            await kernel.close()
            raise
        return kernel

    def files(self, sandbox: Sandbox) -> Files:
        return Files(sandbox)


async def _set_env(kernel: KernelPort, env: Mapping[str, str]) -> None:
    """Raises SandboxFailed: the kernel does not take the variables."""
    code = f"import os as _os; _os.environ.update({dict(env)!r}); del _os"
    if "TZ" in env:
        code += "; import time as _time; _time.tzset(); del _time"
    done: Event | KernelDone | None = None
    try:
        async with (
            asyncio.timeout(ENV_TIME),
            contextlib.aclosing(kernel.execute(code, output_bytes=65536, silent=True)) as events,
        ):
            async for event in events:
                done = event
    except TimeoutError:
        raise SandboxFailed("the kernel did not take its environment variables in time") from None
    if not isinstance(done, KernelDone) or done.status != "ok":
        raise SandboxFailed("the kernel could not take its environment variables")
