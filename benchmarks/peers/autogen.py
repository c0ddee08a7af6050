"""autogen-ext's DockerCommandLineCodeExecutor: one container, `docker exec` for each block of code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock
from autogen_ext.code_executors.docker import DockerCommandLineCodeExecutor
from docker.models.containers import ContainerCollection
from stopwatch import PANDAS, PRINT, Stopwatch, task


async def main() -> None:
    given, watch = task(), Stopwatch()
    for number in range(given["sessions"]):
        with TemporaryDirectory() as directory:
            executor = DockerCommandLineCodeExecutor(image=given["image"], work_dir=Path(directory))
            await timed(watch, "start", executor.start())
            if number == 0:
                await run(watch, executor, "first", PRINT, "1")
                for _ in range(given["prints"]):
                    await run(watch, executor, "print", PRINT, "1")
                for _ in range(given["pandas"]):
                    await run(watch, executor, "pandas", PANDAS, "3")
            await timed(watch, "stop", executor.stop())
    watch.report()


async def run(
    watch: Stopwatch, executor: DockerCommandLineCodeExecutor, name: str, code: str, wanted: str
) -> None:
    block = CodeBlock(code=code, language="python")
    result = await timed(watch, name, executor.execute_code_blocks([block], CancellationToken()))
    assert result.output.strip() == wanted, result


async def timed(watch: Stopwatch, name: str, awaitable: Awaitable[Any]) -> Any:
    start = time.perf_counter()
    result = await awaitable
    watch.times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
    return result


def without_network(create: Callable[..., Any]) -> Callable[..., Any]:
    """It cannot be told: without a network device it starts faster, and none is needed here."""
    return lambda self, *args, **more: create(self, *args, **more, network_mode="none")


ContainerCollection.create = without_network(ContainerCollection.create)
asyncio.run(main())
