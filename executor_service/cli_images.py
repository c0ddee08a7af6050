"""`codecell-executor images`: build images for a backend, list them, remove what is stale."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from executor_service import backend_choice, options
from executor_service.complaints import Failure
from executor_service.settings import SettingsError

if TYPE_CHECKING:
    from docker import APIClient

    from executor_service.images import ImageDefinition


def add_parser(commands: options.Commands, environ: Mapping[str, str]) -> None:
    """The command and its own commands."""
    images = commands.add_parser("images", help="build and list images").add_subparsers(required=True)
    build = images.add_parser(
        "build", help="build images and what they stand on, each once; print where they are"
    )
    build.add_argument("names", nargs="+", metavar="NAME")
    options.add_images_build(build, environ)
    build.set_defaults(command=_build)
    bootstrap = images.add_parser(
        "bootstrap", help="make the base of Docker images from Debian packages; print it"
    )
    options.add_docker_host(bootstrap, environ)
    bootstrap.set_defaults(command=_bootstrap)
    for name, run, help_text in (
        ("list", _list, "what is defined and what is built"),
        ("prune", _prune, "remove builds that no definition asks for any longer"),
    ):
        each = images.add_parser(name, help=help_text)
        options.add_docker_host(each, environ)
        each.set_defaults(command=run)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _engine(host: str | None, *, needed: bool) -> Iterator[APIClient | None]:
    """A client of the engine; None where none answers and none is needed. Raises Failure."""
    from docker.errors import DockerException

    from executor_service.docker_steps import connect

    try:
        client = connect(host)
    except (DockerException, OSError) as error:
        if needed:
            raise Failure(backend_choice.unanswered(host, error, needed=True)) from None
        yield None
        return
    with closing(client):
        yield client


def definitions(names: Sequence[str]) -> dict[str, ImageDefinition]:
    """All that there are. Raises Failure, and SettingsError where one of `names` is not among them."""
    from executor_service import images

    for directory in images.own_directories():
        _warn_of(directory)
    try:
        known = images.definitions()
    except images.ImageDefinitionError as error:
        raise Failure(str(error)) from None
    for name in names:
        if name not in known:
            why = images.why_unknown(name) or f"there are {', '.join(known) or 'none'}"
            raise SettingsError(f"there is no image {name!r}; {why}")
    return known


@functools.cache
def _warn_of(directory: Path) -> None:
    """Say that a directory of images is not there: once, whoever asks for definitions."""
    if not directory.is_dir():
        _say(f"codecell-executor: CODECELL_IMAGES_PATH: there is no directory {directory}")


def build(names: Sequence[str], backend: str, docker_host: str | None, environ: Mapping[str, str]) -> int:
    """As the command `images build` with these; how to build, the environment's variables say."""
    parser = argparse.ArgumentParser()
    options.add_images_build(parser, environ)
    found = parser.parse_args(["--backend", backend])
    found.names, found.docker_host = list(names), docker_host
    with redirect_stdout(sys.stderr):
        return _build(found, environ)


def _build(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from docker.errors import DockerException

    from executor_service.image_build import ImageBuildError
    from executor_service.images import ImageDefinitionError

    known = definitions(found.names)
    try:
        with _engine(found.docker_host, needed=found.backend == "docker") as client:
            if client is None or found.backend == "local":
                return _build_local(found.names, known)
            return _build_docker(client, found, known)
    except (ImageBuildError, ImageDefinitionError) as error:
        _say(f"codecell-executor: {error}")  # with the build's last lines
    except (DockerException, OSError) as error:
        _say(f"codecell-executor: the container engine failed: {error}")
    return 1


def _build_local(names: list[str], known: Mapping[str, ImageDefinition]) -> int:
    from executor_service.image_build import build

    for name in names:
        print(build(known[name], progress=_say).directory)
    return 0


def _build_docker(client: APIClient, found: argparse.Namespace, known: Mapping[str, ImageDefinition]) -> int:
    from executor_service import docker_build
    from executor_service.docker_context import host_context
    from executor_service.image_build import pip_options

    base_image = found.base_image or None
    if found.bootstrap:
        base_image = _bootstrapped(client)
    how = docker_build.Options(
        context=host_context(Path(found.ca_bundle) if found.ca_bundle else None, pip_options()),
        base_image=base_image,
        network=found.build_network or None,
        rebuild=found.rebuild,
    )
    for name in found.names:
        print(docker_build.build(client, known[name], known, how, _say).reference)
    return 0


def _bootstrapped(client: APIClient) -> str:
    from executor_service.docker_bootstrap import bootstrap

    definition = definitions(["base"])["base"]
    return bootstrap(client, definition.directory / "root/etc/dpkg/dpkg.cfg.d/90codecell", _say)


def _bootstrap(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from executor_service.image_build import ImageBuildError

    with _engine(found.docker_host, needed=True) as client:
        assert client is not None
        try:
            print(_bootstrapped(client))
        except ImageBuildError as error:
            _say(f"codecell-executor: {error}")
            return 1
    return 0


def _list(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from executor_service.docker_images import find_image
    from executor_service.errors import CodecellError
    from executor_service.images import find_built

    known = definitions([])
    with _engine(found.docker_host, needed=False) as client:
        for name, definition in known.items():
            places = []
            try:
                places.append(f"local {find_built(definition).directory}")
            except CodecellError:
                pass
            try:
                if client is not None:
                    places.append(f"docker {find_image(client, definition, known).reference}")
            except CodecellError:
                pass
            print("\t".join([name, *(places or ["not built"])]))
    return 0


def _prune(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from executor_service import docker_build, image_build

    known = definitions([])
    for directory in image_build.prune(known):
        print(directory)
    with _engine(found.docker_host, needed=False) as client:
        for reference in docker_build.prune(client, known) if client is not None else ():
            print(reference)
    return 0
