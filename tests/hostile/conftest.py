"""A service under attack: every program here goes over HTTP, and afterwards the house must be in order.

`attack` runs a program (or works with a session) and, at the end of the test, checks what every hostile
program must leave alone: the service answers, a neighbour's session keeps its state, nothing is left behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine
import httpx2
import pytest
from conftest import RealService

SETTLE = 30.0


@pytest.fixture(scope="session")
def house(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """The service that is attacked, over each backend; its own secret is in its environment."""
    state = tmp_path_factory.mktemp("hostile") / "state"
    secret = {"CODECELL_TEST_SECRET": "house-secret"}
    service = RealService(state, "--warm", "1", "--capacity", "16", backend=backend_name, env=secret)
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="session")
def http(house: RealService) -> Iterator[httpx2.Client]:
    """Plain HTTP to the house."""
    with httpx2.Client(base_url=house.url, timeout=120.0) as client:
        yield client


@pytest.fixture(scope="session")
def neighbour(http: httpx2.Client) -> Iterator[str]:
    """Somebody else's session, with a variable that must survive everything."""
    session = (
        http.post("/v1/sessions", json={"language": "python", "ttl": 3600, "idle_ttl": 3600})
        .raise_for_status()
        .json()["id"]
    )
    http.post(f"/v1/sessions/{session}/executions", json={"code": "treasure = 42"}).raise_for_status()
    yield session
    http.delete(f"/v1/sessions/{session}")


class Attack:
    """What a hostile caller does."""

    def __init__(self, http: httpx2.Client, backend: str) -> None:
        self.http = http
        self.backend = backend
        self.sessions: list[Session] = []
        # As an ordinary user the local backend has one uid for the guest and user code.
        self.own_uids = backend == "docker" or os.geteuid() == 0

    def run(self, code: str, language: str = "python", **fields: Any) -> dict[str, Any]:
        """One run to its end; the JSON answer."""
        response = self.http.post("/v1/runs", json={"language": language, "code": code, **fields})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def session(self, **fields: Any) -> Session:
        """A session of the attacker's; it is deleted at the end of the test."""
        response = self.http.post("/v1/sessions", json={"language": "python", **fields})
        assert response.status_code == 201, response.text
        made = Session(self.http, response.json()["id"])
        self.sessions.append(made)
        return made


class Session:
    """One session of the attacker's."""

    def __init__(self, http: httpx2.Client, session_id: str) -> None:
        self.http = http
        self.id = session_id
        self.path = f"/v1/sessions/{session_id}"

    def execute(self, code: str, **fields: Any) -> dict[str, Any]:
        """One execution to its end."""
        response = self.http.post(f"{self.path}/executions", json={"code": code, **fields})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """One shell command to its end."""
        response = self.http.post(f"{self.path}/commands", json={"command": command, **fields})
        assert response.status_code == 200, response.text
        return dict(response.json())


@pytest.fixture
def attack(http: httpx2.Client, house: RealService, neighbour: str) -> Iterator[Attack]:
    """The attacker; afterwards everything must be as before."""
    attacker = Attack(http, house.backend)
    yield attacker
    for session in attacker.sessions:
        http.delete(session.path)
    assert http.get("/readyz").status_code == 200
    kept = (
        http.post(f"/v1/sessions/{neighbour}/executions", json={"code": "treasure"}).raise_for_status().json()
    )
    assert kept["result"]["text/plain"] == "42"
    deadline = time.monotonic() + SETTLE
    while (disorder := _disorder(http, house)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not disorder


def _disorder(http: httpx2.Client, house: RealService) -> str:
    """What is not as it should be when only the neighbour's session is open."""
    pool = http.get("/readyz").json()["pool"]
    alive = pool["ready"] + pool["making"] + pool["leased"] + pool["closing"]
    left = _containers(house) if house.backend == "docker" else _groups(house)
    if pool["leased"] != 1 or pool["closing"] or pool["waiting"]:
        return f"the pool still holds what was given out: {pool}"
    if any(number > alive for number in left.values()):
        return f"left behind: {left} for {alive} sandboxes"
    return ""


def _containers(house: RealService) -> dict[str, int]:
    names = engine.containers(house.state_dir)
    return {"containers": len(names), "directories": len(engine.directories(house.state_dir))}


def _groups(house: RealService) -> dict[str, int]:
    instance = (house.state_dir / "instance").read_text().strip()
    groups = {  # by os.walk, which bears that other services' groups come and go meanwhile
        name
        for top, names, _ in os.walk("/sys/fs/cgroup")
        if Path(top).name.startswith(f"codecell-{instance}")
        for name in names
        if name.startswith("sb_")
    }
    sockets = len(list((house.state_dir / "run").glob("*.sock")))
    return {"sockets": sockets, "control groups": len(groups)}


def processes_below(pid: int) -> list[int]:
    """All descendants of a process, by /proc."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            parents[int(name)] = int(text[text.rindex(")") + 2 :].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})
