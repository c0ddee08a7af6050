"""Several services on one engine, and one that makes and closes many sandboxes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import engine
import pytest
from chaos.conftest import Houses, until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

MANY = int(os.environ.get("CODECELL_TEST_SESSIONS", "500"))
AT_ONCE = 4
SWEEP = [sys.executable, "-m", "executor_service", "sweep", "--backend", "docker"]
MIB = 1 << 20


def test_two_services_on_one_engine(houses: Houses) -> None:
    """Neither the start, the end, the death nor the sweep of one touches a container of the other."""
    first, second = houses("first", "--warm", "1"), houses("second", "--warm", "1")
    sessions = {house: house.session() for house in (first, second)}
    for house, session in sessions.items():
        house.execute(session, f"kept = {house.state_dir.name!r}")
    first.in_order(leased=1)
    second.in_order(leased=1)
    before = first.containers()
    assert not before & second.containers()

    assert second.stop(signal.SIGKILL) == -signal.SIGKILL
    swept = subprocess.run(
        [*SWEEP, "--state-dir", str(second.state_dir)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert swept.stdout.startswith("removed ")
    assert second.containers() == set()
    assert first.containers() == before
    second.start()
    assert second.http.get(sessions[second]).status_code in (404, 410)
    second.session()
    assert second.stop() == 0
    assert first.containers() == before
    assert first.execute(sessions[first], "kept")["result"] == {"text/plain": "'first'"}


def resources(pid: int) -> dict[str, int]:
    """What a process holds: descriptors, threads, bytes of memory."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "memory": int(status["VmRSS"].split()[0]) * 1024,
    }


@pytest.mark.timeout(1200)
def test_many_sessions_leave_nothing(houses: Houses) -> None:
    """After hundreds of sessions, each used once, the service is as it was after a few."""
    house = houses("state", "--warm", "2", "--acquire-timeout", "60")

    def one(number: int) -> None:
        session = house.session()
        assert house.execute(session, f"{number} + 1")["result"] == {"text/plain": str(number + 1)}
        assert house.http.delete(session).status_code == 204

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(3 * AT_ONCE)))
        house.in_order()
        before = resources(house.service.process.pid)
        list(pool.map(one, range(MANY - 3 * AT_ONCE)))
    house.in_order()
    pool_now = house.http.get("/readyz").json()["pool"]
    assert len(house.containers()) <= pool_now["ready"] + pool_now["making"]

    def growth() -> dict[str, int]:
        now = resources(house.service.process.pid)
        return {name: now[name] - before[name] for name in now}

    until(lambda: growth()["descriptors"] < 16 and growth()["threads"] < 8, lambda: f"grown by {growth()}")
    assert growth()["memory"] < 48 * MIB
    assert len(list((house.state_dir / "run").iterdir())) <= len(engine.directories(house.state_dir)) + 4
