"""A container engine as tests look at it: the image, a service's containers, their processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException

from executor_service import images
from executor_service.docker_images import DockerImage, find_image
from executor_service.docker_steps import connect
from executor_service.errors import ImageNotFound

ANSWER_SECONDS = 60.0


class NoEngine(Exception):
    """No container engine answers, or the image cannot be built there."""


@contextlib.contextmanager
def client(host: str | None = None) -> Iterator[docker.APIClient]:
    """The engine's API. Raises NoEngine."""
    try:
        found = connect(host, seconds=ANSWER_SECONDS)
    except (DockerException, requests.RequestException, OSError) as error:
        raise NoEngine(f"no container engine answers: {error}") from error
    with contextlib.closing(found):
        yield found


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Do something to a container that may have ended or been removed by now."""
    with contextlib.suppress(APIError):
        yield


def find(name: str = "python") -> DockerImage | None:
    """The image as it is defined now, if the engine has it. Raises NoEngine."""
    known = images.definitions()
    with client() as engine, contextlib.suppress(ImageNotFound):
        return find_image(engine, known[name], known)
    return None


def image(name: str = "python") -> DockerImage:
    """The image, built if it is missing: on an image registry's base, else on one of Debian packages.

    Raises:
        NoEngine: there is none, or the build failed.
    """
    if (found := find(name)) is None and not (_build(name) or _build(name, CODECELL_BOOTSTRAP="1")):
        raise NoEngine(f"the image {name!r} could not be built; see above")
    found = found or find(name)
    assert found is not None
    return found


def _build(name: str, **env: str) -> bool:
    command = [sys.executable, "-m", "executor_service", "images", "build", name, "--backend", "docker"]
    return subprocess.run(command, env={**os.environ, **env}, stdout=sys.stderr, check=False).returncode == 0


def containers(state_dir: Path, host: str | None = None) -> set[str]:
    """Names of the containers of a service with that state directory, those that have ended too."""
    label = f"codecell.instance={(state_dir / 'instance').read_text().strip()}"
    with client(host) as engine:
        found = engine.containers(all=True, filters={"label": label})
    return {name.removeprefix("/") for each in found for name in each["Names"]}


def guests(state_dir: Path, host: str | None = None) -> dict[int, str]:
    """The first process of each of its containers, as this host counts; and the container's name."""
    found = {}
    names = containers(state_dir, host)
    with client(host) as engine:
        for name in names:
            with gone_is_fine():
                if pid := engine.inspect_container(name)["State"]["Pid"]:
                    found[pid] = name
    return found


def directories(state_dir: Path) -> list[str]:
    """The directories through which the service and its containers speak."""
    return sorted(path.name for path in (state_dir / "run").glob("sb_*"))
