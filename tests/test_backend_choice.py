"""Which backend it is, and why: the decision, and real services that take it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import RealService

from executor_service import images
from executor_service.backend_choice import Choice, Found, choose, engine, look
from executor_service.docker_images import DockerImage
from executor_service.errors import BackendUnavailable, ImageNotFound

PYTHON = DockerImage(name="python", reference="codecell/python:1", id="sha256:1", python_version="3.13.5")
THERE = Found(engine="the engine 28.2.2 at unix:///x", images=(PYTHON,))
GONE = Found(problem=BackendUnavailable("no container engine answers at unix:///x: No such file"))
NOT_BUILT = Found(problem=ImageNotFound("the image 'python' is not built"))
NOWHERE = "unix:///nonexistent/docker.sock"


@pytest.mark.parametrize(
    ("wanted", "found", "backend", "reason"),
    [
        ("auto", THERE, "docker", "the engine 28.2.2 at unix:///x answers and has python"),
        ("auto", GONE, "local", "no container engine answers at unix:///x"),
        ("auto", NOT_BUILT, "local", "the image 'python' is not built"),
        ("docker", THERE, "docker", "it was asked for, and the engine"),
        ("local", THERE, "local", "it was asked for"),
        ("local", GONE, "local", "it was asked for"),
    ],
)
def test_choice(wanted: str, found: Found, backend: str, reason: str) -> None:
    """Auto takes Docker where it can be used, else this host; either way it says why."""
    choice = choose(wanted, found)
    assert choice.backend == backend
    assert reason in choice.reason
    assert isinstance(choice, Choice)


@pytest.mark.parametrize("found", [GONE, NOT_BUILT])
def test_docker_that_was_demanded_is_never_replaced(found: Found) -> None:
    """Whoever says docker gets docker, or the reason why not."""
    assert found.problem is not None
    with pytest.raises(type(found.problem)):
        choose("docker", found)


def command(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`codecell-executor` with these arguments, to its end."""
    argv = [sys.executable, "-m", "executor_service", *arguments]
    return subprocess.run(
        argv, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--backend", "docker", "--docker-host", NOWHERE], 1, f"no container engine answers at {NOWHERE}"),
        (["--backend", "docker", "--docker-host", NOWHERE], 1, "; start it, name another with --docker-host"),
        (["--runtime", "runsc", "--docker-host", NOWHERE], 1, f"no container engine answers at {NOWHERE}"),
        (["--runtime", "runsc", "--backend", "local"], 2, "--runtime runsc is for containers"),
        (["--docker-host", "ssh://nobody@127.0.0.1"], 1, "no container engine answers"),
    ],
)
def test_what_was_demanded_and_cannot_be_had(
    tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    """One line says why the service does not start: no engine, and for a runtime no other backend."""
    if arguments[0] == "--docker-host":
        arguments = [*arguments, "--backend", "docker"]
    done = command("serve", "--port", "0", "--state-dir", str(tmp_path), *arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_backend_that_is_none_is_refused_from_the_environment_too(tmp_path: Path) -> None:
    """A misspelt variable is no auto."""
    done = command("serve", env={"CODECELL_BACKEND": "dokcer", "CODECELL_STATE_DIR": str(tmp_path)})
    assert done.returncode == 2
    assert "CODECELL_BACKEND=dokcer: there are auto, local, docker" in done.stderr


def test_a_machine_without_an_engine(python_image: object, tmp_path: Path) -> None:
    """Auto serves from this host, and says so in its log and to callers."""
    service = RealService(tmp_path / "state", "--warm", "1", "--docker-host", NOWHERE, backend="auto")
    try:
        info = httpx2.get(f"{service.url}/v1/info").json()
    finally:
        service.stop()
    assert info["backend"] == "local"
    assert info["backend_reason"].startswith(
        f"Docker cannot be used: no container engine answers at {NOWHERE}"
    )
    log = Path(service.log.name).read_text()
    assert "the backend is local: Docker cannot be used" in log


@pytest.mark.docker
def test_a_machine_with_an_engine_and_the_image(docker_image: DockerImage, tmp_path: Path) -> None:
    """Auto serves from containers, and says so; the runtime is told too."""
    service = RealService(tmp_path / "state", "--warm", "1", backend="auto")
    try:
        info = httpx2.get(f"{service.url}/v1/info").json()
    finally:
        service.stop()
    assert info["backend"] == "docker"
    assert info["backend_reason"].startswith("the engine ")
    assert info["isolation"]["container"]["by"].startswith("runtime ")


@pytest.mark.docker
def test_an_engine_without_the_image(docker_image: DockerImage, tmp_path: Path) -> None:
    """What is missing is named with the command that builds it."""
    definition = images.ImageDefinition(
        name="missing", description="", directory=tmp_path, docker="codecell/none:1"
    )
    found = look(None, [definition], {"missing": definition}, tmp_path)
    assert isinstance(found.problem, ImageNotFound)
    assert "docker pull codecell/none:1" in found.problem.detail
    assert found.checks


@pytest.mark.docker
def test_an_engine_that_refuses_is_there(docker_image: DockerImage) -> None:
    """A call that it refuses is told in its words, not as an engine that does not answer."""
    with pytest.raises(BackendUnavailable, match="refuses: No such container: nosuch"), engine(None) as found:
        found.inspect_container("nosuch")


@pytest.mark.docker
def test_a_runtime_that_the_engine_does_not_have(docker_image: DockerImage, tmp_path: Path) -> None:
    """It is refused at start, and never replaced by another."""
    done = command("serve", "--port", "0", "--state-dir", str(tmp_path), "--runtime", "nosuch")
    assert done.returncode == 1
    assert "runtime: nosuch; the engine has " in done.stderr


@pytest.mark.docker
@pytest.mark.root
def test_an_engine_that_does_not_see_our_directories(docker_image: DockerImage, tmp_path: Path) -> None:
    """An engine elsewhere could not reach the guests: told at once, and auto takes this host."""
    report = doctor_elsewhere(tmp_path, "docker")
    assert not report["healthy"]
    assert any("does not see the directory" in check["detail"] for check in report["checks"])
    report = doctor_elsewhere(tmp_path, "auto")
    assert report["backend"] == "local"


def doctor_elsewhere(state: Path, backend: str) -> dict[str, Any]:
    """The doctor's report where the state directory is on a file system that the engine does not have."""
    doctor = [sys.executable, "-m", "executor_service", "doctor", "--json", "--backend", backend]
    script = 'mount -t tmpfs none "$0" && exec "$@" --state-dir "$0"'
    argv = ["unshare", "--mount", "sh", "-c", script, str(state), *doctor]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
