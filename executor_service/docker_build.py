"""Builds the Docker images of definitions: parents first, once a key, checked before it counts.

An image gets its name only once it was built, looked over from inside and labelled, so what an
interrupted build left is never taken for an image. All of it goes through the engine's API: the engine
may be elsewhere, and needs none of our files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from executor_service import docker_context, docker_steps
from executor_service.docker_images import (
    LABEL_KEY,
    LABEL_META,
    LABEL_NAME,
    REPOSITORY,
    STAGE_LABEL,
    DockerImage,
    build_key,
    dockerfile_of,
    find_image,
    marked,
    parents,
    pinned,
    reference_of,
    stale_tags,
)
from executor_service.docker_steps import Progress
from executor_service.errors import ImageNotFound
from executor_service.images import ImageDefinition, cache_dir

if TYPE_CHECKING:
    from docker import APIClient

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to build. `base_image` is what `base` stands on; `network` that of the build's steps."""

    context: docker_context.Context
    base_image: str | None = None
    network: str | None = None
    rebuild: bool = False
    proxies: Mapping[str, str] = field(
        default_factory=lambda: {name: os.environ[name] for name in _PROXIES if name in os.environ}
    )


def build(
    client: APIClient,
    definition: ImageDefinition,
    known: Mapping[str, ImageDefinition],
    options: Options,
    progress: Progress,
) -> DockerImage:
    """The built image, and its parents before it, each made now unless it was before. Blocks.

    Raises:
        ImageBuildError: with what the build said last.
        ImageDefinitionError: a Dockerfile is missing, or a parent.
        ImageNotFound: the definition names an image that the engine does not have.
        WrongImage: and one that no sandbox can be made of.
        docker.errors.DockerException: the engine does not answer.
    """
    if definition.docker is not None:
        return find_image(client, definition, known)
    build_key(definition, known)  # a definition that cannot be built is refused before its parents are
    for name in parents(dockerfile_of(definition)):
        if name in known:
            build(client, known[name], known, replace(options, rebuild=False), progress)
    with _lock(definition.name, progress):
        if not options.rebuild:
            with contextlib.suppress(ImageNotFound):
                return find_image(client, definition, known)
        _make(client, definition, known, options, progress)
    return find_image(client, definition, known)


@contextlib.contextmanager
def _lock(name: str, progress: Progress) -> Iterator[None]:
    """One build of an image at a time on this machine; its build stages are the next one's cache."""
    directory = cache_dir()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        file = (directory / f".docker-{name}.lock").open("w")
    except OSError:  # a read-only machine: two builds at once cost time and nothing else
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"image {name}: waiting for another build of it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(
    client: APIClient,
    definition: ImageDefinition,
    known: Mapping[str, ImageDefinition],
    options: Options,
    progress: Progress,
) -> None:
    name, key = definition.name, build_key(definition, known)
    unchecked = reference_of(name, f"unchecked-{key}")
    text = dockerfile_of(definition)
    references = {
        each: reference_of(each, build_key(known[each], known)) for each in parents(text) if each in known
    }
    progress(f"image {name}: building {reference_of(name, key)}")
    context = docker_context.archive(
        definition.directory, marked(pinned(text, references), name), options.context
    )
    arguments = {"BASE_IMAGE": options.base_image} if options.base_image else {}
    try:
        docker_steps.run(
            client, name, context, unchecked, progress,
            network=options.network, rebuild=options.rebuild, arguments={**options.proxies, **arguments},
        )  # fmt: skip
        version = docker_steps.check(client, name, unchecked)
        labels = _labelled(unchecked, _labels(definition, key, version))
        docker_steps.run(client, name, labels, reference_of(name, key), progress)
        client.tag(reference_of(name, key), f"{REPOSITORY}/{name}", "latest")
    finally:
        _forget(client, unchecked)
    _remove_stages(client, name)
    progress(f"image {name}: built")


def _labels(definition: ImageDefinition, key: str, python_version: str) -> dict[str, str]:
    meta = {
        "name": definition.name,
        "description": definition.description,
        "languages": list(definition.docker_languages),
        "kernels": list(definition.kernels),
        "preload": list(definition.preload),
        "limits": dict(definition.limits),
        "python_version": python_version,
    }
    return {
        LABEL_NAME: definition.name,
        LABEL_KEY: key,
        LABEL_META: json.dumps(meta, sort_keys=True),
        STAGE_LABEL: "",
    }


def _labelled(reference: str, labels: Mapping[str, str]) -> bytes:
    lines = [f"FROM {reference}", *(f"LABEL {name}={_quoted(value)}" for name, value in labels.items())]
    return docker_context.tar({"Dockerfile": ("\n".join(lines).encode(), 0o644)})


def _quoted(value: str) -> str:
    escaped = re.sub(r'(["\\$])', r"\\\1", value.replace("\n", " "))
    return f'"{escaped}"'


def _forget(client: APIClient, reference: str) -> None:
    """Remove a tag; what it named stays as long as something stands on it."""
    from docker.errors import APIError

    with contextlib.suppress(APIError):
        client.remove_image(reference)


def _remove_stages(client: APIClient, name: str) -> None:
    """What build stages left: the host's certificate authorities, and every package a second time."""
    from docker.errors import APIError

    for image in client.images(filters={"dangling": True, "label": f"{STAGE_LABEL}={name}"}):
        with contextlib.suppress(APIError):  # something else stands on it
            client.remove_image(image["Id"])


def prune(client: APIClient, known: Mapping[str, ImageDefinition]) -> list[str]:
    """Remove builds of these definitions that are not what they ask for now; which they were.

    What containers are made from stays, and goes the next time.
    """
    from docker.errors import APIError

    tags = [tag for image in client.images(name=f"{REPOSITORY}/*") for tag in image["RepoTags"] or ()]
    removed = []
    for tag in stale_tags(tags, known):
        with contextlib.suppress(APIError):
            client.remove_image(tag)
            removed.append(tag)
    for name in known:
        with _lock(name, lambda _: None):  # a build of it that runs now needs its stages
            _remove_stages(client, name)
    return removed
