"""Every backend, entered once; `make` gives configured sandboxes and closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from executor_service.sandboxes.base import Backend, Lease, Sandbox, SandboxSpec, Warm
from executor_service.sandboxes.docker import DockerBackend
from executor_service.sandboxes.local import LocalBackend

MiB = 1 << 20
LEASE = Lease(memory_bytes=512 * MiB, processes=128, cpus=1.0)
Make = Callable[..., Awaitable[Sandbox]]


@pytest_asyncio.fixture(
    scope="session", loop_scope="session", params=["local", pytest.param("docker", marks=pytest.mark.docker)]
)
async def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Backend]:
    """A backend that is ready for work; a later one is another parameter here."""
    state_dir: Path = tmp_path_factory.mktemp("state")
    made: Backend
    if request.param == "local":
        made = LocalBackend([request.getfixturevalue("python_image")], state_dir, instance="conformance")
    else:
        made = DockerBackend([request.getfixturevalue("docker_image")], state_dir, instance="conformance")
    async with made as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="session")
async def make(backend: Backend) -> AsyncIterator[Make]:
    """Make a sandbox that is leased and closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def _make(warm: Warm = "none", lease: Lease = LEASE, disk_bytes: int = 64 * MiB) -> Sandbox:
            sandbox = await backend.create(SandboxSpec(image="python", warm=warm, disk_bytes=disk_bytes))
            stack.push_async_callback(sandbox.close)
            await sandbox.configure(lease)
            return sandbox

        yield _make
