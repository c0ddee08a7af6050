"""`codecell-executor doctor`: what works on this machine, what is enforced by what, what to change.

It decides as `serve` would with the same options, looks closely at that backend, and makes one sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from executor_service import backend_choice
from executor_service.doctor_report import Check, Isolation, Report
from executor_service.errors import CodecellError

if TYPE_CHECKING:
    from executor_service.images import ImageDefinition
    from executor_service.sandboxes.base import Backend


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `serve` would be told."""

    image: str = "python"
    backend: str = "auto"
    docker_host: str | None = None
    runtime: str | None = None
    state_dir: Path


def examine(asked: Asked) -> Report:
    """Look at the machine, and make one sandbox."""
    from executor_service.images import ImageDefinitionError, definitions

    checks = [_system(), _python()]
    try:
        known = definitions()
        definition = known[asked.image]
    except (KeyError, ImageDefinitionError) as error:
        return Report(checks=(*checks, _image(asked.image, f"not defined: {error}")))
    with _directory(asked.state_dir) as directory:
        found, told = _look(asked, definition, known, directory)
        checks += told
        if asked.backend == "docker" or (asked.backend == "auto" and found.problem is None):
            made, isolation = _docker(asked, found, directory)
            return Report(backend="docker", checks=(*checks, *made), isolation=isolation)
        made, isolation = _local(definition, directory)
        return Report(backend="local", checks=(*checks, *made), isolation=isolation)


@contextlib.contextmanager
def _directory(state: Path) -> Iterator[Path]:
    """A place to try in: below the state directory, which an engine should see, where that is there."""
    below = state if os.access(state, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=below) as made:
        yield Path(made)


def _system() -> Check:
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    detail = f"{platform.system()} {platform.release()}, {platform.machine()}, as {user}"
    return Check(name="system", ok=sys.platform == "linux", detail=detail, change="sandboxes need Linux")


def _python() -> Check:
    return Check(name="python", ok=sys.version_info >= (3, 11), detail=platform.python_version())


def _image(name: str, problem: str | None, found: str = "") -> Check:
    return Check(name=f"image {name}", ok=problem is None, detail=problem or found)


def _look(
    asked: Asked, definition: ImageDefinition, known: Mapping[str, ImageDefinition], directory: Path
) -> tuple[backend_choice.Found, list[Check]]:
    """What Docker has, and what is to be said of the engine; for auto one that is not used is no problem."""
    if asked.backend == "local":
        return backend_choice.Found(), []
    found = backend_choice.look(asked.docker_host, [definition], known, directory, runtime=asked.runtime)
    if found.problem is None or asked.backend == "docker":
        return found, list(found.checks)
    detail = f"auto takes the local backend: {found.problem.detail}"
    return found, [Check(name="docker", ok=True, detail=detail)]


def _docker(asked: Asked, found: backend_choice.Found, directory: Path) -> tuple[list[Check], Isolation]:
    from executor_service.sandboxes.docker import DockerBackend

    if found.problem is not None:
        told = any(not check.ok for check in found.checks)
        return ([] if told else [Check(name="docker", ok=False, detail=found.problem.detail)]), {}
    (image,) = found.images
    backend = DockerBackend(
        [image],
        directory,
        f"doctor-{os.getpid()}",
        docker_host=asked.docker_host,
        runtime=asked.runtime,
    )
    made, isolation = _try(backend, image.name)
    return [_image(image.name, None, image.reference), made], isolation


def _local(definition: ImageDefinition, directory: Path) -> tuple[list[Check], Isolation]:
    from executor_service.images import find_built
    from executor_service.sandboxes.local import LocalBackend

    if sys.platform != "linux":
        return [], {}
    try:
        image = find_built(definition)
    except CodecellError as error:
        return [_image(definition.name, error.detail)], {}
    backend = LocalBackend([image], directory, f"doctor-{os.getpid()}", may_move=False)
    made, isolation = _try(backend, image.name)
    return [_image(image.name, None, str(image.directory)), made], isolation


def _try(backend: Backend, image: str) -> tuple[Check, Isolation]:
    """Make a sandbox and remove it."""
    from executor_service.sandboxes.base import SandboxSpec

    async def attempt() -> Isolation:
        async with backend:
            sandbox = await backend.create(SandboxSpec(image=image))
            await sandbox.close()
            return {aspect: dict(how) for aspect, how in backend.isolation().items()}

    try:
        isolation = asyncio.run(attempt())
    except (CodecellError, OSError) as error:
        detail = error.detail if isinstance(error, CodecellError) else str(error)
        return Check(name="sandbox", ok=False, detail=detail, change="see the detail"), {}
    return Check(name="sandbox", ok=True, detail="one was made and removed"), isolation
