"""A kernel in a real sandbox of the local backend: what only the whole can show."""

from __future__ import annotations

from pathlib import Path

from executor_service.events import Stdout
from executor_service.images import BuiltImage
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.kernel import Kernel
from executor_service.sandboxes.local import LocalBackend


async def test_open_files_of_a_kernel_follow_each_execution(python_image: BuiltImage, tmp_path: Path) -> None:
    """Lowered and raised again, up to the ceiling; code reads the number that was asked for."""
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    async with LocalBackend([python_image], tmp_path / "state", instance="live-kernel") as backend:
        sandbox = await backend.create(SandboxSpec(image="python", warm="kernel"))
        await sandbox.configure(Lease(memory_bytes=512 << 20, processes=64, cpus=1.0))
        async with await Kernel.connect(sandbox) as kernel:
            for number in (1024, 64, 4096):
                await kernel.limit_open_files(number)
                events = [event async for event in kernel.execute(code, output_bytes=1000)]
                assert events[0] == Stdout(text=f"{number}\n")
        await sandbox.close()
