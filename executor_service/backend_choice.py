"""Which backend makes the sandboxes: Docker where an engine can, else this host; and why.

`choose` decides, from what `look` has found out; nothing is started here. Not here: what is wrong with a
machine in detail, which is the doctor's part.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from executor_service.docker_images import DockerImage, find_image
from executor_service.doctor_report import Check
from executor_service.engine_checks import judge
from executor_service.errors import BackendUnavailable, CodecellError, ServiceFault
from executor_service.images import ImageDefinition

if TYPE_CHECKING:
    from docker import APIClient
    from docker.errors import APIError

ANSWER_SECONDS = 20
"""How long an engine has for one answer before the service goes on without it."""


_TO_DO = "start it, name another with --docker-host, or take --backend local"


class NoEngine(BackendUnavailable):
    """Nobody answers where the engine is looked for."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What Docker has for us: the images that were asked for, or else the `problem`.

    `checks` is what is to be said of the engine, if one answers.
    """

    engine: str = ""
    images: tuple[DockerImage, ...] = ()
    problem: CodecellError | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`reason` is a clause for people: it goes into the log and into `GET /v1/info`."""

    backend: Literal["docker", "local"]
    reason: str


def choose(wanted: str, found: Found) -> Choice:
    """The backend for `wanted` (auto, docker or local). Only auto may take another than was named.

    Raises:
        CodecellError: Docker was demanded and cannot be used: what `look` found.
    """
    if wanted == "local":
        return Choice(backend="local", reason="it was asked for")
    if found.problem is None:
        asked = "it was asked for, and " if wanted == "docker" else ""
        names = ", ".join(image.name for image in found.images)
        return Choice(backend="docker", reason=f"{asked}{found.engine} answers and has {names}")
    if wanted == "docker":
        if isinstance(found.problem, NoEngine):
            raise NoEngine(f"{found.problem.detail}; {_TO_DO}") from found.problem
        raise found.problem
    return Choice(backend="local", reason=f"Docker cannot be used: {found.problem.detail}")


def look(
    docker_host: str | None,
    wanted: Sequence[ImageDefinition],
    known: Mapping[str, ImageDefinition],
    state_dir: Path,
    *,
    runtime: str | None = None,
) -> Found:
    """Ask the engine. Blocks; raises nothing that the engine could cause."""
    checks: list[Check] = []
    try:
        with engine(docker_host) as client:
            version = client.version()
            checks += judge(client.info(), version, runtime)
            for check in checks:
                if not check.ok:
                    raise ServiceFault(f"{check.name}: {check.detail}; to change: {check.change}")
            images = tuple(find_image(client, each, known) for each in wanted)
            if images:
                check_shared(client, images[0].reference, state_dir)
            where = f"the engine {version['Version']} at {address(docker_host)}"
            return Found(engine=where, images=images, checks=tuple(checks))
    except CodecellError as error:
        return Found(problem=error, checks=tuple(checks))


@contextlib.contextmanager
def engine(docker_host: str | None) -> Iterator[APIClient]:
    """A client of the engine, for as long as the block takes.

    Raises:
        NoEngine: it does not answer, or stops answering within the block.
        BackendUnavailable: it refuses a call there.
    """
    import requests
    from docker.errors import APIError, DockerException

    from executor_service.docker_steps import connect

    try:
        client = connect(docker_host, seconds=ANSWER_SECONDS)
        with contextlib.closing(client):
            yield client
    except APIError as error:
        where = address(docker_host)
        raise BackendUnavailable(f"the container engine at {where} refuses: {said(error)}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise NoEngine(unanswered(docker_host, error)) from error


def unanswered(docker_host: str | None, error: Exception, *, needed: bool = False) -> str:
    """That no engine answers, for people; with what to do where nothing else is taken in its place."""
    to_do = f"; {_TO_DO}" if needed else ""
    return f"no container engine answers at {address(docker_host)}: {plain(error)}{to_do}"


def check_shared(client: APIClient, reference: str, directory: Path) -> None:
    """Make sure that the engine sees our directories under the paths that we see them by.

    A container is created, and not started, with a directory mounted that exists since now: an engine
    elsewhere, or one that sees another file system, refuses that.

    Raises:
        ServiceFault: it does not see them.
        docker.errors.APIError: another refusal.
    """
    from docker.errors import APIError

    with tempfile.TemporaryDirectory(prefix="shared-", dir=directory) as made:
        mount = {"Type": "bind", "Source": made, "Target": "/shared", "ReadOnly": True}
        options = {
            "Image": reference,
            "Cmd": ["true"],
            "NetworkDisabled": True,
            "HostConfig": {"Mounts": [mount], "NetworkMode": "none"},
        }
        try:
            container = client.create_container_from_config(options)["Id"]
        except APIError as error:
            if "source path does not exist" not in str(error.explanation):
                raise
            raise ServiceFault(
                f"the engine does not see the directory {directory}: with an engine on another machine, or "
                "the service in a container, it must be there under the same path on both sides"
            ) from None
        client.remove_container(container, force=True)


def address(docker_host: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Where the engine is looked for."""
    return docker_host or environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def said(error: APIError) -> str:
    """An engine's own words, in one line."""
    return " ".join(str(error.explanation or error).split())[:300]


def plain(error: Exception) -> str:
    """What the system said below the layers that wrap it, else what the outermost one says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split())[:300]
