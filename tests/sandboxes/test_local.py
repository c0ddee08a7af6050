"""The local backend when its own processes fail."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from conformance.programs import shell

from executor_service.images import BuiltImage
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.local import LocalBackend


async def test_a_nursery_that_dies_is_replaced_once(python_image: BuiltImage, tmp_path: Path) -> None:
    """Its sandboxes are gone; of many who ask afterwards one starts another, and all are served by it."""
    spec = SandboxSpec(image="python")
    async with LocalBackend([python_image], tmp_path / "state", instance="nursery") as backend:
        old = await backend.create(spec)
        process = backend._nurseries["python"]._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            await old.died.wait()
        made = await asyncio.gather(*(backend.create(spec) for _ in range(8)))
        assert len({id(sandbox.nursery) for sandbox in made}) == 1
        await backend.ping()
        await made[0].configure(Lease(memory_bytes=64 << 20, processes=16, cpus=1.0))
        assert (await shell(made[0], "echo up")).stdout == "up\n"
        await asyncio.gather(old.close(), *(sandbox.close() for sandbox in made))
        assert await backend.sweep() == 0
