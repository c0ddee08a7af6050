"""What every test may use: the image, and a real service with real sandboxes on a free port of loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import engine
import pytest

from executor_service import images
from executor_service.docker_images import DockerImage
from executor_service.image_build import build
from executor_service.images import BuiltImage

START_TIMEOUT = 180.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out, loudly, what another user must run; `scripts/test` runs both."""
    root = os.geteuid() == 0
    for item in items:
        if root and item.get_closest_marker("ordinary_user"):
            item.add_marker(pytest.mark.skip(reason="for an ordinary user; scripts/test runs it as one"))
        if not root and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def _python_image() -> BuiltImage:
    return build(images.definitions()["python"], progress=lambda line: print(line, file=sys.stderr))


def pytest_configure() -> None:
    """Tests of what runs inside a sandbox start the image's packages outside, with this interpreter."""
    os.environ.setdefault("CODECELL_TEST_PYTHON", str(_python_image().host_python))


@pytest.fixture(scope="session")
def docker_image() -> DockerImage:
    """The real image in this machine's container engine, built if it is missing."""
    try:
        return engine.image()
    except engine.NoEngine as error:
        if os.environ.get("CODECELL_REQUIRE_DOCKER") == "1":
            pytest.fail(f"CODECELL_REQUIRE_DOCKER=1, and {error}")
        pytest.skip(f"needs a container engine: {error}")


@pytest.fixture(scope="session")
def python_image() -> BuiltImage:
    """The real image, built once and kept in the cache directory."""
    return _python_image()


@pytest.fixture(scope="session", params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def backend_name(request: pytest.FixtureRequest) -> str:
    """Each backend in turn; its image is there."""
    name = str(request.param)
    request.getfixturevalue({"local": "python_image", "docker": "docker_image"}[name])
    return name


class RealService:
    """A `codecell-executor serve` of our own."""

    def __init__(
        self, state_dir: Path, *arguments: str, backend: str = "local", env: dict[str, str] | None = None
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "executor_service",
            "serve",
            "--port",
            "0",
            "--state-dir",
            str(state_dir),
            "--backend",
            backend,
        ]
        self.state_dir = state_dir
        self.backend = backend
        self.log = (state_dir.parent / f"{state_dir.name}.log").open("w")
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.url = self._wait()

    def _wait(self) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        for line in self.process.stdout:
            if found := re.search(r"http://\S+", line):
                return found[0]
            if time.monotonic() > deadline:
                break
        self.stop()
        raise RuntimeError(f"the service did not start: {Path(self.log.name).read_text()[-2000:]}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        if self.process.stdout:
            self.process.stdout.close()
        self.log.close()
        return status


@pytest.fixture(scope="session")
def real_service(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """The service that most tests share, over each backend."""
    state = tmp_path_factory.mktemp("service") / "state"
    service = RealService(state, "--warm", "2", backend=backend_name)
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="session")
def service(real_service: RealService) -> tuple[str, str | None]:
    """Address and key of the shared service."""
    return real_service.url, None
