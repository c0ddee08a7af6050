"""`codecell-executor serve` and `sweep`: the service, and what one that died left behind."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from executor_service import cli_images, keys, logs, options, state_dir
from executor_service.backend_choice import Choice, Found, choose, look
from executor_service.complaints import Failure
from executor_service.errors import CodecellError
from executor_service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from executor_service.docker_images import DockerImage
    from executor_service.images import BuiltImage, Image, ImageDefinition
    from executor_service.sandboxes.base import Backend

log = logging.getLogger(__name__)

FIRST_KEY = "first"
"""What the key is called that `--generate-key` makes."""


def add_parsers(commands: options.Commands, environ: Mapping[str, str]) -> None:
    """The two commands."""
    serve = commands.add_parser("serve", help="run the service")
    options.add_serve(serve, environ)
    serve.set_defaults(command=_serve)
    sweep = commands.add_parser("sweep", help="remove what a service that died left, sessions that wait too")
    options.add_state_dir(sweep, environ)
    options.add_backend(sweep, environ)
    sweep.set_defaults(command=_sweep)


def _serve(found: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from executor_service import server
    from executor_service.api.middleware import current_request
    from executor_service.app import create_app

    settings = options.to_settings(found, environ)
    ring = keys.KeyRing(settings.keys, settings.key_files)
    if not found.generate_key:
        options.check_address(settings.host, ring)
    known = cli_images.definitions(settings.images)
    with contextlib.ExitStack() as stack:
        home = state_dir.prepare(settings.state_dir)
        stack.enter_context(state_dir.locked(home))
        if found.generate_key and not ring.required:
            ring = _first_key(settings, home)
        try:
            listening = server.bind(settings.host, settings.port)
        except OSError as error:
            where, why = f"{settings.host}:{settings.port}", error.strerror or str(error)
            taken = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
            raise Failure(f"cannot listen on {where}: {why}{taken}") from None
        stack.callback(listening.close)
        settings = replace(settings, port=listening.getsockname()[1])  # which no sandbox may reach
        logs.configure(settings.log_level, {"request_id": current_request}, access=settings.access_log)
        if found.build:
            _build_missing(settings, known, home, environ)
        choice, images, backend = _decide(settings, known, home)
        log.info("the backend is %s: %s", choice.backend, choice.reason)
        return server.serve(
            lambda: create_app(settings, backend, images, keys=ring, backend_reason=choice.reason),
            listening,
            grace=settings.grace,
            until_stdin_closes=found.until_stdin_closes,
        )


def _first_key(settings: Settings, home: Path) -> keys.KeyRing:
    """A key where there is none: written hashed, and shown where nobody will show it again."""
    made = keys.add(home / options.KEYS_FILE, FIRST_KEY)
    print(f"There was no key, so one was made. It is shown this once:\n\n    {made}\n", flush=True)
    return keys.KeyRing(settings.keys, settings.key_files)


def _decide(
    settings: Settings, known: Mapping[str, ImageDefinition], home: Path
) -> tuple[Choice, Sequence[Image], Backend]:
    found = _look(settings, known, home)
    choice = choose(settings.backend, found)
    if choice.backend == "docker":
        return choice, found.images, _docker(settings, found.images, home)
    try:
        built = _built(settings, known)
    except CodecellError as error:
        why = error.detail if settings.backend == "local" else f"{error.detail} ({choice.reason})"
        raise Failure(why) from None
    return choice, built, _local(built, home, settings.ca_bundle)


def _look(settings: Settings, known: Mapping[str, ImageDefinition], home: Path) -> Found:
    if settings.backend == "local":
        return Found()
    wanted = [known[name] for name in settings.images]
    return look(settings.docker_host, wanted, known, home, runtime=settings.runtime)


def _build_missing(
    settings: Settings, known: Mapping[str, ImageDefinition], home: Path, environ: Mapping[str, str]
) -> None:
    """The images of the backend that was asked for; for auto, those of this host unless Docker has all."""
    backend = settings.backend
    if backend == "auto":
        if _look(settings, known, home).problem is None:
            return
        backend = "local"
    if cli_images.build(settings.images, backend, settings.docker_host, environ):
        raise Failure("an image could not be built")


def _built(settings: Settings, known: Mapping[str, ImageDefinition]) -> list[BuiltImage]:
    from executor_service.images import find_built

    return [find_built(known[name]) for name in settings.images]


def _docker(settings: Settings, images: Sequence[DockerImage], home: Path) -> Backend:
    from executor_service.sandboxes.base import Lease
    from executor_service.sandboxes.docker import DockerBackend

    return DockerBackend(
        images,
        home,
        state_dir.instance_id(home),
        docker_host=settings.docker_host,
        runtime=settings.runtime,
        usual=Lease(
            memory_bytes=settings.limits.memory_bytes,
            processes=settings.limits.processes,
            cpus=settings.limits.cpus,
        ),
        ca_bundle=settings.ca_bundle,
    )


def _local(images: Sequence[BuiltImage], home: Path, ca_bundle: Path | None = None) -> Backend:
    from executor_service.sandboxes.local import LocalBackend

    if sys.platform != "linux":
        raise SettingsError("--backend local: only Linux has what it needs")
    return LocalBackend(images, home, state_dir.instance_id(home), ca_bundle=ca_bundle)


def _sweep(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    home = state_dir.prepare(found.state_dir)
    settings = Settings(
        state_dir=home,
        backend=options.backend_of(found),
        docker_host=found.docker_host,
        runtime=found.runtime,
        images=(),
    )
    with state_dir.locked(home):
        print(f"removed {sum(asyncio.run(_sweep_one(each)) for each in _all_backends(settings, home))}")
    return 0


def _all_backends(settings: Settings, home: Path) -> list[Backend]:
    """The one that was asked for; for auto both, Docker's only where an engine answers."""
    docker = settings.backend == "docker" or not _look(settings, {}, home).problem
    found = [_local((), home)] if settings.backend != "docker" else []
    return [*found, _docker(settings, (), home)] if docker and settings.backend != "local" else found


async def _sweep_one(backend: Backend) -> int:
    async with backend:
        return int(await backend.sweep())
