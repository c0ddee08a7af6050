"""compose.yaml as tests use it: a copy of what the service's image is built from, started and removed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILT_FROM = ("compose.yaml", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")
MARKER = "# a line of a CA bundle that must be in no image"
START_SECONDS = 600.0
MOST_RESTARTS = 3


def compose_command() -> list[str]:
    """`docker-compose` or `docker compose`, whichever is here; a skip, or a failure, where none is."""
    for command in (["docker-compose"], ["docker", "compose"]):
        try:
            subprocess.run([*command, "version"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    missing = "neither docker-compose nor docker compose is here"
    if os.environ.get("CODECELL_REQUIRE_DOCKER") == "1":
        pytest.fail(f"CODECELL_REQUIRE_DOCKER=1, and {missing}")
    pytest.skip(missing)


def host_bundle() -> str:
    """This host's certificate authorities, which a build behind a TLS-inspecting proxy needs."""
    names = (os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt")
    return next((Path(name).read_text() for name in names if name and Path(name).is_file()), "")


def base_image() -> str:
    """What the service's image stands on: CODECELL_BASE_IMAGE, else a base made from Debian packages where
    this machine can make one, else what the Dockerfile names.
    """
    argv = [sys.executable, "-m", "executor_service", "images", "bootstrap"]
    if given := os.environ.get("CODECELL_BASE_IMAGE"):
        return given
    if shutil.which("mmdebstrap") is None:
        return "debian:trixie-slim"
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Deployment:
    """A copy of the checkout in `directory`, deployed by compose under a name of its own."""

    def __init__(self, command: list[str], directory: Path, definitions: Iterable[Path] = ()) -> None:
        self.name = f"codecell-test-{secrets.token_hex(4)}"
        self.image = f"{self.name}/service"
        self.checkout = directory / "checkout"
        self.state_dir = directory / "state"
        self.url = ""
        self._command = [*command, "-p", self.name, "-f", "compose.yaml", "-f", "image.yaml"]
        self._copy(definitions)
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CODECELL_")},
            "CODECELL_BASE_IMAGE": base_image(),
            "CODECELL_BUILD_NETWORK": os.environ.get("CODECELL_BUILD_NETWORK", "host"),
            "CODECELL_CA_BUNDLE": "./ca-bundle.crt",
            "CODECELL_STATE_DIR": str(self.state_dir),
        }

    def _copy(self, definitions: Iterable[Path]) -> None:
        self.checkout.mkdir(parents=True)
        for name in BUILT_FROM:
            shutil.copy2(ROOT / name, self.checkout)
        (self.checkout / "agent_client").mkdir()
        shutil.copy2(ROOT / "agent_client/__init__.py", self.checkout / "agent_client")
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("executor_service", "sandbox_images"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=ignore)
        for definition in definitions:
            shutil.copytree(definition, self.checkout / "sandbox_images" / definition.name)
        (self.checkout / "ca-bundle.crt").write_text(f"{MARKER}\n{host_bundle()}")
        (self.checkout / "image.yaml").write_text(
            f"services: {{codecell: {{image: {self.image}, environment: {{CODECELL_WARM: 1}}}}}}\n"
        )

    def compose(self, *arguments: str) -> str:
        """Run compose to its end; what it printed, its standard error only in a failure."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=self.checkout,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def up(self, **env: str) -> None:
        """Build, start, and wait until the container is healthy."""
        port = free_port()
        self._env |= {"CODECELL_PORT": str(port), **env}
        self.compose("up", "-d", "--build")
        self.url = f"http://127.0.0.1:{port}"
        self.wait()

    def wait(self) -> None:
        """Until the health check says so."""
        deadline = time.monotonic() + START_SECONDS
        while (found := self.inspect())["State"]["Health"]["Status"] != "healthy":
            assert found["RestartCount"] < MOST_RESTARTS, self.log()[-3000:]
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.5)

    def log(self) -> str:
        """What the service has printed and logged."""
        argv = ["docker", "logs", self.container]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        return done.stdout

    @property
    def container(self) -> str:
        """The id of the service's container."""
        return self.compose("ps", "-q").strip()

    def keys(self) -> list[str]:
        """Every key that was shown."""
        return re.findall(r"cc_[\w-]+", self.log())

    def inspect(self) -> dict[str, Any]:
        """What the engine knows of the service's container."""
        done = subprocess.run(
            ["docker", "inspect", self.container], capture_output=True, text=True, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    def down(self) -> None:
        """Remove the container, its image, and what sandboxes it left on purpose."""
        self.compose("down", "--rmi", "all", "-t", "20")
        sweep = ["sweep", "--backend", "docker", "--state-dir", str(self.state_dir)]
        if self.state_dir.exists():
            subprocess.run(
                [sys.executable, "-m", "executor_service", *sweep], capture_output=True, check=True
            )
