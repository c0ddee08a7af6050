"""Services over containers, and what the tests do to the ground they stand on."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import engine
import httpx2
import pytest
from chaos.own_engine import OwnEngine, usable
from conftest import RealService

from executor_service.docker_images import DockerImage

WITHIN = 60.0  # seconds in which something that takes a few must have happened, on a busy machine


class House:
    """One service, a caller of it, and how to look behind it."""

    def __init__(self, state_dir: Path, *arguments: str, docker_host: str | None = None) -> None:
        self.state_dir = state_dir
        self.docker_host = docker_host
        self._arguments = arguments + (("--docker-host", docker_host) if docker_host else ())
        self.start()

    def start(self) -> None:
        """Also again, in the same state directory."""
        self.service = RealService(self.state_dir, *self._arguments, backend="docker")
        self.http = httpx2.Client(base_url=self.service.url, timeout=120.0)

    def stop(self, number: int = 15) -> int:
        """The service's exit status."""
        self.http.close()
        return self.service.stop(number)

    def session(self, **fields: Any) -> str:
        """The path of a new session."""
        answer = self.http.post("/v1/sessions", json={"language": "python", **fields})
        assert answer.status_code == 201, answer.text
        return f"/v1/sessions/{answer.json()['id']}"

    def execute(self, session: str, code: str, **fields: Any) -> dict[str, Any]:
        """One execution to its end."""
        answer = self.http.post(f"{session}/executions", json={"code": code, **fields})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def run(self, code: str = "print(6 * 7)", **fields: Any) -> dict[str, Any]:
        """One run to its end."""
        answer = self.http.post("/v1/runs", json={"language": "python", "code": code, **fields})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ready(self) -> bool:
        """Whether it says that it can work."""
        return self.http.get("/readyz").status_code == 200

    def containers(self) -> set[str]:
        """Names of all that are its."""
        return engine.containers(self.state_dir, self.docker_host)

    def disorder(self, leased: int = 0) -> str:
        """What is not as it should be when only so many sandboxes are given out; empty if all is well."""
        pool = self.http.get("/readyz").json().get("pool")
        if pool is None:
            return "it is not ready"
        alive = pool["ready"] + pool["making"] + pool["leased"] + pool["closing"]
        left = {"containers": len(self.containers()), "directories": len(engine.directories(self.state_dir))}
        if pool["leased"] != leased or pool["closing"] or pool["waiting"]:
            return f"the pool: {pool}"
        return f"{left} for {alive} sandboxes" if any(each > alive for each in left.values()) else ""

    def in_order(self, leased: int = 0) -> None:
        """Wait until it is."""
        until(lambda: not self.disorder(leased), lambda: self.disorder(leased))

    def stocked(self) -> None:
        """Wait until it makes no more sandboxes."""
        until(lambda: not self.http.get("/readyz").json()["pool"]["making"], "the sandboxes that stand ready")


def until(condition: Callable[[], object], what: str | Callable[[], str], seconds: float = WITHIN) -> None:
    """Wait for a condition; fail with `what` if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        said = what if isinstance(what, str) else what()
        assert time.monotonic() < deadline, f"it did not come in {seconds:g} s: {said}"
        time.sleep(0.05)


Houses = Callable[..., House]


@pytest.fixture
def houses(docker_image: DockerImage, tmp_path: Path) -> Iterator[Houses]:
    """Make services; those that still run at the end are stopped, and must have left nothing."""
    with making(tmp_path) as make:
        yield make


@contextlib.contextmanager
def making(directory: Path) -> Iterator[Houses]:
    """What makes services whose state is below a directory, and ends them afterwards."""
    with contextlib.ExitStack() as stack:

        def make(name: str = "state", *arguments: str, docker_host: str | None = None) -> House:
            house = House(directory / name, *arguments, docker_host=docker_host)
            stack.callback(_leave, house)
            return house

        yield make


def _leave(house: House) -> None:
    """Close its sessions, stop it, and see that nothing is left."""
    if house.service.process.poll() is not None:
        return
    try:
        _leave_in_order(house)
    finally:
        if house.service.process.poll() is None:
            house.stop(signal.SIGKILL)


def _leave_in_order(house: House) -> None:
    for item in house.http.get("/v1/sessions", params={"limit": 1000}).json()["items"]:
        house.http.delete(f"/v1/sessions/{item['id']}")
    house.in_order()
    assert house.stop() == 0
    assert house.containers() == set()
    assert engine.directories(house.state_dir) == []


@pytest.fixture(scope="module", params=[True, False], ids=["live-restore", "no-live-restore"])
def own_engine(request: pytest.FixtureRequest, docker_image: DockerImage) -> Iterator[OwnEngine]:
    """An engine of our own, once with and once without `live-restore`, that has the image."""
    if not usable():
        pytest.skip("needs root and dockerd, to start an engine of its own")
    with OwnEngine(live_restore=request.param) as own:
        own.take(docker_image.reference)
        yield own
