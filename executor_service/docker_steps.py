"""What a build asks of an engine: to connect, to run a Dockerfile's steps, to look an image over.

Nothing here knows of definitions and keys; :mod:`executor_service.docker_build` decides what is built.
"""

from __future__ import annotations

import io
import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor_service.image_build import ImageBuildError, milestone
from executor_service.images import ENV_PATH

if TYPE_CHECKING:
    from docker import APIClient

Progress = Callable[[str], None]
_STEP = re.compile(r"Step (\d+/\d+) : (.*)")
_SHOWN_LINES = 40
_CHECK_SECONDS = 120
_QUIET_SECONDS = 1800
"""How long a step of a build may say nothing."""


def connect(host: str | None, *, seconds: float = _QUIET_SECONDS) -> APIClient:
    """A client of the engine at `host`, else of the one that the environment names.

    `seconds` is how long it has for one answer.

    Raises:
        docker.errors.DockerException: it does not answer.
    """
    import docker

    given = docker.utils.kwargs_from_env()
    client = docker.APIClient(**{**given, **({"base_url": host} if host else {})}, timeout=seconds)
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


def run(
    client: APIClient,
    name: str,
    context: bytes,
    tag: str,
    progress: Progress,
    *,
    network: str | None = None,
    rebuild: bool = False,
    arguments: Mapping[str, str] | None = None,
) -> None:
    """Build a context; tell its steps as they come, and what else it said only if it fails.

    Raises:
        ImageBuildError: with what it said last.
        docker.errors.DockerException: the engine does not answer.
    """
    said: deque[str] = deque(maxlen=_SHOWN_LINES)
    events = client.build(
        fileobj=io.BytesIO(context),
        custom_context=True,
        tag=tag,
        buildargs=dict(arguments or {}),
        network_mode=network,
        nocache=rebuild,
        rm=True,
        forcerm=True,
        decode=True,
    )
    failed = None
    for event in events:  # to its end, failed or not: then the connection is closed
        failed = failed or event.get("error")
        for line in event.get("stream", "").splitlines():
            if line.strip():
                said.append(line.rstrip())
            if words := told(line):
                progress(f"image {name}: {words}")
    if failed is not None:
        raise ImageBuildError(f"image {name}: {explained(failed)}\n" + "\n".join(said))


def explained(error: str) -> str:
    """An engine's error, with what to do where its base image cannot be fetched."""
    unreachable = re.search(r"pull access denied|manifest|registry|/v2/|no such host|i/o timeout", error)
    hint = "; without an image registry, build with --bootstrap" if unreachable else ""
    return error.strip() + hint


def told(line: str) -> str | None:
    """What a line of a build's output is worth telling; None for most."""
    step = _STEP.match(line)
    if step is None:
        return milestone(line)
    command = " ".join(step[2].split())
    return None if command.startswith("LABEL") else f"{step[1]} {command[:100]}"


def check(client: APIClient, name: str, reference: str) -> str:
    """Look an image over from inside; its Python's version. Raises ImageBuildError."""
    program = Path(__file__).with_name("image_check.py").read_text(encoding="utf-8")
    said = _output(client, reference, [f"{ENV_PATH}/bin/python3", "-I", "-c", program])
    try:
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        raise ImageBuildError(f"image {name}: its Python does not run: {said.strip()[-500:]}") from None
    if found["problems"]:
        raise ImageBuildError(f"image {name}: {'; '.join(found['problems'])} (codecell-finish repairs bits)")
    return str(found["python_version"])


def _output(client: APIClient, reference: str, argv: list[str]) -> str:
    from docker.errors import APIError

    made = client.create_container(reference, argv, entrypoint=[], user="0", network_disabled=True)
    try:
        client.start(made)
        client.wait(made, timeout=_CHECK_SECONDS)
        return str(client.logs(made).decode(errors="replace"))
    except APIError as error:
        return str(error.explanation)
    finally:
        client.remove_container(made, force=True)
