"""Finds out whether a language's kernel keeps state: of two cells in a sandbox the second knows the first."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import fields, replace

from executor_service.errors import CodecellError
from executor_service.events import Error, Stdout
from executor_service.images import Image
from executor_service.languages import Language
from executor_service.limits import Limits
from executor_service.sandboxes.base import Sandbox, SandboxSpec
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sandboxes.pool import Pool
from executor_service.sessions.environment import environment
from executor_service.sessions.kernels import kernel_start
from executor_service.sessions.policy import Policy
from executor_service.sessions.run_plan import lease

CELL_TIME = 60.0  # seconds that a cell has
OUTPUT_BYTES = 64 * 1024


async def probe_kernel(
    image: Image, language: Language, *, pool: Pool, policy: Policy, acquire_timeout: float | None = None
) -> str | None:
    """Why the kernel of `language` does not work in `image`; None if it does.

    Raises:
        CodecellError: there was no sandbox for it.
    """
    limits = _limits(image, language, policy)
    spec = SandboxSpec(image=image.name, warm="none", disk_bytes=limits.disk_bytes)
    sandbox = await pool.acquire(spec, lease(limits), timeout=acquire_timeout)
    try:
        return await _try(sandbox, language, limits)
    except TimeoutError:
        return "its kernel does not end a cell"
    except CodecellError as error:
        return f"its kernel does not start: {error.detail}"
    finally:
        await pool.release(sandbox)


def _limits(image: Image, language: Language, policy: Policy) -> Limits:
    own = {**image.limits, **language.limits}
    known = {each.name: own[each.name] for each in fields(Limits) if each.name in own}
    return replace(
        policy.limits, **{name: type(getattr(policy.ceiling, name))(value) for name, value in known.items()}
    )


async def _try(sandbox: Sandbox, language: Language, limits: Limits) -> str | None:
    assert language.kernel is not None
    env = environment(language.env, cpus=limits.cpus)
    said = ""
    async with await Kernel.connect(sandbox, kernel_start(language, env, limits.memory_bytes)) as kernel:
        for cell in language.kernel.smoke:
            said = await _execute(kernel, cell)
    return None if said == language.smoke_output else f"its kernel's smoke cells end with {said[-300:]!r}"


async def _execute(kernel: Kernel, code: str) -> str:
    """What the cell prints, or the error that it ends with."""
    said = ""
    async with (
        asyncio.timeout(CELL_TIME),
        contextlib.aclosing(kernel.execute(code, output_bytes=OUTPUT_BYTES)) as events,
    ):
        async for event in events:
            if isinstance(event, Stdout):
                said += event.text
            elif isinstance(event, Error):
                said += f"{event.name}: {event.value}"
            elif isinstance(event, KernelDone) and event.status == "died":
                said += "the kernel died"
    return said
