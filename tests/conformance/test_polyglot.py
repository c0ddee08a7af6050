"""The images of many languages: every smoke program runs, every kernel keeps state and can be interrupted.

With CODECELL_TEST_FULL=1 the largest one too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import engine
import pytest
import pytest_asyncio

from executor_service import images
from executor_service.docker_images import DockerImage
from executor_service.events import Stdout
from executor_service.languages import Language, lookup
from executor_service.probing import find_languages
from executor_service.sandboxes.base import Lease, Sandbox, SandboxSpec
from executor_service.sandboxes.docker import DockerBackend
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sandboxes.pool import Pool, PoolSettings
from executor_service.sessions.catalog import Catalog
from executor_service.sessions.environment import environment
from executor_service.sessions.kernels import kernel_start
from executor_service.sessions.policy import Policy

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.conformance,
    pytest.mark.docker,
    pytest.mark.timeout(900),  # the first test waits for every smoke program
]

NAMES = ["polyglot", *(["polyglot-full"] if os.environ.get("CODECELL_TEST_FULL") == "1" else [])]
DEFINITIONS = images.definitions()
LANGUAGES = [(image, name) for image in NAMES for name in DEFINITIONS[image].docker_languages]
KERNELS = [(image, name) for image in NAMES for name in DEFINITIONS[image].kernels if name != "python"]
each_language = pytest.mark.parametrize(("image", "name"), LANGUAGES)
each_kernel = pytest.mark.parametrize(("image", "name"), KERNELS)
MEMORY = 1 << 30
DEADLINE = 120.0
ENDLESS = {
    "bash": "sleep 1000",
    "java": "while (true) {}",
    "javascript": "for (;;) {}",
    "lua": "while true do end",
    "octave": "while true, end",
    "r": "while (TRUE) {}",
    "typescript": "for (;;) {}",
}


@pytest.fixture(scope="session")
def built() -> list[DockerImage]:
    """In this machine's engine, built if they are missing."""
    try:
        return [engine.image(name) for name in NAMES]
    except engine.NoEngine as error:
        if os.environ.get("CODECELL_REQUIRE_DOCKER") == "1":
            pytest.fail(f"CODECELL_REQUIRE_DOCKER=1, and {error}")
        pytest.skip(f"needs a container engine: {error}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend(
    built: list[DockerImage], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DockerBackend]:
    """A backend with these images alone."""
    directory: Path = tmp_path_factory.mktemp("polyglot")
    async with DockerBackend(built, directory, instance="polyglot") as made:
        yield made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def found(
    backend: DockerBackend, built: list[DockerImage], tmp_path_factory: pytest.TempPathFactory
) -> Catalog:
    """What the service finds out when it starts."""
    memory = tmp_path_factory.mktemp("probing") / "languages.json"
    async with Pool(backend, PoolSettings(warm=0, acquire_timeout=60.0)) as pool:
        return await find_languages(built, pool=pool, policy=Policy(), memory=memory, on_host=False)


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(backend: DockerBackend, image: str) -> AsyncIterator[Sandbox]:
    """One that a kernel finds room in."""
    made = await backend.create(SandboxSpec(image=image))
    try:
        await made.configure(Lease(memory_bytes=MEMORY, processes=256, cpus=2.0))
        yield made
    finally:
        await made.close()


@each_language
async def test_each_language_runs(found: Catalog, image: str, name: str) -> None:
    """Its smoke program printed what it should, and its version could be read."""
    offer = found.find(name, image)
    assert offer.version


@each_kernel
async def test_each_kernel_keeps_state(found: Catalog, image: str, name: str) -> None:
    """Its second smoke cell knew the first."""
    assert found.find(name, image).stateful


@each_kernel
async def test_each_kernel_can_be_interrupted(sandbox: Sandbox, name: str) -> None:
    """What runs for ever ends soon, as an error, and the state from before is there."""
    language = lookup(name)
    assert language.kernel is not None
    first, second = language.kernel.smoke
    start = kernel_start(language, environment(cpus=2.0), MEMORY)
    async with asyncio.timeout(DEADLINE), await Kernel.connect(sandbox, start) as kernel:
        await execute(kernel, first)
        # JShell compiles first, and an interrupt that comes meanwhile is lost on it.
        _, done = await execute(kernel, ENDLESS[name], interrupt_after=5.0 if name == "java" else 0.5)
        assert done.status == "error"
        said, _ = await execute(kernel, second)
    assert said == language.smoke_output


@each_kernel
async def test_each_kernel_has_the_sessions_variables(sandbox: Sandbox, name: str) -> None:
    """As every program has them."""
    code = {
        "bash": 'echo "$MINE"',
        "java": 'System.out.println(System.getenv("MINE"));',
        "javascript": "console.log(process.env.MINE)",
        "lua": 'print(os.getenv("MINE"))',
        "octave": 'disp(getenv("MINE"))',
        "r": 'cat(Sys.getenv("MINE"), "\\n", sep = "")',
        "typescript": "console.log(process.env.MINE)",
    }
    start = kernel_start(lookup(name), environment({"MINE": "yes"}, cpus=2.0), MEMORY)
    async with asyncio.timeout(DEADLINE), await Kernel.connect(sandbox, start) as kernel:
        said, done = await execute(kernel, code[name])
    assert (said, done.status) == ("yes\n", "ok")


async def execute(
    kernel: Kernel, code: str, *, interrupt_after: float | None = None
) -> tuple[str, KernelDone]:
    """What it printed, and how it ended."""
    said, done = "", None
    async with contextlib.AsyncExitStack() as stack:
        if interrupt_after is not None:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            tasks.create_task(_interrupt(kernel, interrupt_after))
        async for event in kernel.execute(code, output_bytes=65536):
            if isinstance(event, Stdout):
                said += event.text
            elif isinstance(event, KernelDone):
                done = event
    assert done is not None
    return said, done


async def _interrupt(kernel: Kernel, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await kernel.interrupt()


async def test_every_endless_program_is_of_a_kernel_that_there_is() -> None:
    """And each kernel of the definition has one here."""
    assert {name for _, name in KERNELS} <= set(ENDLESS)
    every: list[Language] = [lookup(name) for name in ENDLESS]
    assert all(each.kernel for each in every)
