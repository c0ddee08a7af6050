"""A durable session's network: it waits while the service is away, and is there again as it was granted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from conftest import RealService

from executor_service.docker_images import DockerImage
from tests.egress.conftest import Caller, Web
from tests.egress.test_way_out import TUNNEL

pytestmark = [pytest.mark.docker, pytest.mark.slow]

ASK = TUNNEL + "print(tunnel('localhost:%d')[1], tunnel('127.0.0.5:%d')[1])\n"
LATE = TUNNEL + (
    "import pathlib, threading, time\n"
    "def ask():\n"
    "    while not pathlib.Path('go').exists(): time.sleep(0.05)\n"
    "    pathlib.Path('answer').write_text(tunnel('localhost:%d', timeout=120)[1])\n"
    "threading.Thread(target=ask).start()\n"
)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What the test opens."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_killed_service_comes_back(
    docker_image: DockerImage, stack: contextlib.ExitStack, tmp_path: Path, web: Web, trap: Web
) -> None:
    """After `kill -9` an adopted session reaches what it was granted; one that is offered less is closed."""
    options = [f"--egress-allow=localhost:{web.server_port}", "--egress-allow-cidr=127.0.0.0/30"]
    rules = {"allow": [f"localhost:{web.server_port}"]}
    ask = ASK % (web.server_port, web.server_port)

    def start(*options: str) -> tuple[RealService, Caller]:
        service = RealService(
            tmp_path / "state", "--warm", "0", "--acquire-timeout", "60", *options, backend="docker"
        )
        stack.callback(service.stop, signal.SIGKILL)
        return service, Caller(stack.enter_context(httpx2.Client(base_url=service.url, timeout=120)))

    service, caller = start(*options)
    session = caller.session(network=rules)
    assert caller.execute(session, ask).count("200 Connection established") == 1
    caller.execute(session, LATE % web.server_port)
    service.stop(signal.SIGKILL)
    service, caller = start(*options)
    assert caller.http.get(session).json()["network"] == rules
    printed = caller.execute(session, ask)
    assert "200 Connection established" in printed
    assert "403 Forbidden" in printed
    wait = (
        "import time\npathlib.Path('go').touch()\n"
        "while not pathlib.Path('answer').exists(): time.sleep(0.05)\n"
    )
    printed = caller.execute(session, wait + "print(pathlib.Path('answer').read_text())")
    assert "200 Connection established" in printed
    service.stop(signal.SIGKILL)
    service, caller = start()
    assert caller.http.get(session).status_code == 410  # never silently less than was asked
    assert service.stop() == 0
