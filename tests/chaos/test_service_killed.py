"""`kill -9` of the service while it makes, uses and closes sandboxes; and the one that comes after it."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable

import engine
import httpx2
import pytest
from chaos.conftest import WITHIN, House, Houses, until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

GONE_WITHIN = 10.0
MAKERS = 8  # sandboxes that a pool makes at the same time


def create(http: httpx2.Client, made: set[str], closed: set[str]) -> None:
    """Make a session."""
    made.add(http.post("/v1/sessions", json={"language": "python"}).raise_for_status().json()["id"])


def execute(http: httpx2.Client, made: set[str], closed: set[str]) -> None:
    """Make a session and use it, and run something."""
    session = http.post("/v1/sessions", json={"language": "python"}).raise_for_status().json()["id"]
    made.add(session)
    path = f"/v1/sessions/{session}/executions"
    http.post(path, json={"code": f"kept = {session!r}"}).raise_for_status()
    for _ in range(10):
        http.post(path, json={"code": "import time; time.sleep(0.05)"}).raise_for_status()
        http.post("/v1/runs", json={"language": "bash", "code": "sleep 0.05"}).raise_for_status()


def close(http: httpx2.Client, made: set[str], closed: set[str]) -> None:
    """Make a session and close it."""
    session = http.post("/v1/sessions", json={"language": "python"}).raise_for_status().json()["id"]
    made.add(session)
    closed.add(session)  # from here on it may be either
    http.delete(f"/v1/sessions/{session}").raise_for_status()


Work = Callable[[httpx2.Client, set[str], set[str]], None]


def under(house: House, work: Work, seconds: float) -> tuple[set[str], set[str]]:
    """Kill it while four callers work; the sessions they were given, and those they asked to close."""
    made: set[str] = set()
    closed: set[str] = set()

    def call() -> None:
        with (
            httpx2.Client(base_url=house.service.url, timeout=60.0) as http,
            contextlib.suppress(httpx2.HTTPError),
        ):
            while True:
                work(http, made, closed)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    assert house.stop(signal.SIGKILL) == -signal.SIGKILL
    for thread in threads:
        thread.join()
    return made, closed


@pytest.mark.parametrize("work", [create, execute, close])
def test_nothing_is_left_but_sessions(houses: Houses, work: Work) -> None:
    """Whatever it was doing: every session that a caller was given goes on, and nothing else is left."""
    house = houses("state", "--warm", "1", "--capacity", "32")
    made, closed = under(house, work, 1.5 + random.random())
    house.start()
    items = house.http.get("/v1/sessions", params={"limit": 1000}).raise_for_status().json()["items"]
    there = {item["id"] for item in items}
    assert made - closed <= there
    assert len(there - made) <= 4  # made as the service died, and nobody was told
    for session in there:
        kept = house.execute(f"/v1/sessions/{session}", "globals().get('kept')")
        assert kept["outcome"] == "ok", kept
        if work is execute and session in made - closed:
            assert kept.get("result", {}).get("text/plain") in (repr(session), None), kept
    for session in closed - there:
        assert house.http.get(f"/v1/sessions/{session}").status_code in (404, 410)
    house.in_order(leased=len(there))


@pytest.mark.parametrize("work", [create, execute, close])
def test_nothing_is_left_at_all(houses: Houses, work: Work) -> None:
    """With `--no-durable` containers end by themselves, those that it was making within a minute; the next
    start removes what is left.
    """
    house = houses("state", "--warm", "1", "--capacity", "32", "--no-durable")
    made, _ = under(house, work, 1.5 + random.random())
    until(lambda: len(engine.guests(house.state_dir)) <= MAKERS, "the end of its containers", GONE_WITHIN)
    house.start()
    assert house.http.get("/v1/sessions").json()["items"] == []
    for session in made:
        assert house.http.get(f"/v1/sessions/{session}").status_code == 404
    assert house.run()["stdout"] == "42\n"
    house.in_order()


def test_a_service_that_never_comes_back(houses: Houses) -> None:
    """A durable session ends at its expiry though nobody is there to close it, and leaves no container."""
    house = houses("state", "--warm", "1")
    house.session(ttl=8)
    house.stocked()
    assert house.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: len(engine.guests(house.state_dir)) == 1, "the end of all but the session's", GONE_WITHIN)
    until(lambda: not house.containers(), "the session's end", WITHIN)
    house.start()
    assert house.http.get("/v1/sessions").json()["items"] == []
    house.in_order()


def test_one_that_comes_back_without_durable_sessions(houses: Houses) -> None:
    """`--no-durable` sweeps everything at its start, sessions that waited included."""
    house = houses("state", "--warm", "1")
    session = house.session()
    assert house.stop(signal.SIGKILL) == -signal.SIGKILL
    later = houses("state", "--warm", "0", "--no-durable")
    assert later.http.get(session).status_code in (404, 410)
    later.in_order()
    assert later.containers() == set()
