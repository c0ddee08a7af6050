"""What this room asks of a sandbox's guest, as protocols; `Guest` is the real thing.

Tests give fakes of these; nothing else in this room opens a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from executor_service.egress.policy import Grant
from executor_service.errors import SandboxFailed
from executor_service.events import Event
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.files import Files
from executor_service.sandboxes.guest import Ended, Program, ProgramSpec, ask, attach_program, start_program
from executor_service.sandboxes.kernel import Kernel, KernelDone, Times
from executor_service.sandboxes.kernel_start import WARM, KernelStart

ENV_TIME = 30.0  # seconds that a kernel has to take its variables


class ProgramPort(Protocol):
    """A program in a sandbox; see :class:`executor_service.sandboxes.guest.Program`."""

    ended: Ended | None

    @property
    def state(self) -> Mapping[str, Any]: ...

    @property
    def stdin_open(self) -> bool: ...

    async def mark(self, state: Callable[[], Mapping[str, Any]]) -> None: ...

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

    @property
    def caught_up(self) -> asyncio.Event: ...

    @property
    def waits(self) -> bool: ...

    @property
    def times(self) -> Times: ...

    @property
    def skipped(self) -> int: ...

    def execute(
        self,
        code: str,
        *,
        allow_input: bool = False,
        output_bytes: int,
        silent: bool = False,
        keep: str | None = None,
    ) -> AsyncGenerator[Event | KernelDone, None]: ...

    def resume(self) -> AsyncGenerator[Event | KernelDone, None]: ...

    async def forget(self) -> None: ...

    async def answer(self, text: str) -> None: ...

    async def interrupt(self) -> None: ...

    async def limit_open_files(self, number: int) -> None: ...

    async def close(self) -> None: ...


class GuestPort(Protocol):
    """What a guest does for a session or a run."""

    def program(self, sandbox: Sandbox, spec: ProgramSpec, *, keep: str | None = None) -> ProgramPort:
        """A program, to be entered; with `keep`, its name, it outlives this object."""

    def attach_program(self, sandbox: Sandbox, spec: ProgramSpec, name: str) -> ProgramPort:
        """The one that is kept as `name`; entering it raises NotKept."""

    async def kernel(
        self,
        sandbox: Sandbox,
        *,
        fresh: bool,
        env: Mapping[str, str],
        keep: str | None = None,
        start: KernelStart | None = None,
    ) -> KernelPort:
        """A kernel of its, or a fresh one; with `keep` that can keep executions. Raises SandboxFailed.

        `env` is what the warm interpreter's is given; any other has its variables from `start`.
        """

    async def end_kernel(self, sandbox: Sandbox, name: str) -> None:
        """Kill a kernel and what it started; nothing if it is not there. Raises SandboxFailed."""

    async def attach_kernel(
        self,
        sandbox: Sandbox,
        name: str,
        operation: str,
        output_bytes: int,
        start: KernelStart | None = None,
    ) -> KernelPort:
        """The kernel kept as `name`, with the execution that goes on in it; raises NotKept, SandboxFailed."""

    def files(self, sandbox: Sandbox) -> Files:
        """The workspace."""


class WayOut(Protocol):
    """A sandbox's way to the egress proxy; see :class:`executor_service.egress.keeper.Keeper`."""

    async def close(self) -> None: ...


class EgressPort(Protocol):
    """What gives sandboxes their ways out; see :class:`executor_service.egress.keeper.Egress`."""

    async def open(self, sandbox: Sandbox, grant: Grant, fields: Mapping[str, str]) -> WayOut: ...


class Guest:
    """The guest behind a sandbox's socket."""

    def program(self, sandbox: Sandbox, spec: ProgramSpec, *, keep: str | None = None) -> Program:
        return start_program(sandbox, spec, keep=keep)

    def attach_program(self, sandbox: Sandbox, spec: ProgramSpec, name: str) -> Program:
        return attach_program(sandbox, spec, name)

    async def attach_kernel(
        self,
        sandbox: Sandbox,
        name: str,
        operation: str,
        output_bytes: int,
        start: KernelStart | None = None,
    ) -> Kernel:
        return await Kernel.attach(sandbox, name, operation, output_bytes=output_bytes, start=start)

    async def end_kernel(self, sandbox: Sandbox, name: str) -> None:
        await ask(sandbox, {"op": "kernel_end", "name": name})

    async def kernel(
        self,
        sandbox: Sandbox,
        *,
        fresh: bool,
        env: Mapping[str, str],
        keep: str | None = None,
        start: KernelStart | None = None,
    ) -> Kernel:
        kernel = await Kernel.connect(sandbox, start, fresh=fresh, keep=keep)
        try:
            if env and (start is None or start.name == WARM):
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
