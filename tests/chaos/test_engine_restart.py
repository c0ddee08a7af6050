"""The engine goes away under load and comes back: what is said meanwhile, and what is there afterwards."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from chaos.conftest import House, Houses, until
from chaos.own_engine import OwnEngine

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

COUNT = (
    "import time\nfor n in range(1000):\n    print(n, flush=True); time.sleep(0.2)\n    if done(): break\n"
)
DONE = "import os\ndef done(): return os.path.exists('/tmp/done')\n"
TROUBLE = {"backend_unavailable", "capacity", "sandbox_failed"}  # what callers may be told meanwhile


@contextmanager
def load(house: House) -> Iterator[Counter[str]]:
    """Callers who go on asking for runs and sessions; how they were answered."""
    told: Counter[str] = Counter()
    over = threading.Event()

    def ask(path: str, body: dict[str, str]) -> None:
        with httpx2.Client(base_url=house.service.url, timeout=120.0) as http:
            while not over.wait(0.05):
                answer = http.post(path, json=body)
                told[answer.json().get("code") or answer.json().get("outcome") or "made"] += 1
                if path == "/v1/sessions" and answer.status_code == 201:
                    http.delete(f"/v1/sessions/{answer.json()['id']}")

    run = {"language": "python", "code": "print(1)"}
    callers = [("/v1/runs", run), ("/v1/runs", run), ("/v1/sessions", {"language": "python"})]
    threads = [threading.Thread(target=ask, args=each) for each in callers]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "crashed"])
def test_the_engine_restarts_under_load(houses: Houses, own_engine: OwnEngine, how: signal.Signals) -> None:
    """With `live-restore` sessions keep their state and work goes on; without it (or after a crash, at the
    engine's choice) they are closed and say why. `/readyz` tells, and the service recovers by itself.
    """
    house = houses("state", "--warm", "1", docker_host=own_engine.address)
    session = house.session()
    house.execute(session, DONE + "kept = 7")
    answer = house.http.post(f"{session}/executions", json={"code": COUNT, "detach": True})
    execution = f"{session}/executions/{answer.raise_for_status().json()['id']}"
    other = house.session()
    house.execute(other, "kept = 8")
    with load(house) as told:
        until(lambda: told["ok"] > 2 and told["made"], "runs and sessions under load")
        own_engine.stop(how)
        until(lambda: not house.ready(), "an answer that it cannot work")
        assert house.http.get("/healthz").status_code == 200
        if own_engine.live_restore:
            assert house.execute(other, "kept")["result"] == {"text/plain": "8"}
        until(lambda: told["backend_unavailable"], lambda: f"an error that says it: {told}")
        own_engine.start()
        until(house.ready, "an answer that it can work again")
        before = told["ok"]
        until(lambda: told["ok"] > before + 2, lambda: f"runs that work again: {told}")
    assert set(told) <= {"ok", "made", "sandbox_died"} | TROUBLE, told
    if own_engine.live_restore:
        _goes_on(house, session, execution)
        assert house.execute(other, "kept")["result"] == {"text/plain": "8"}
    else:
        _is_closed(house, session)
        _is_closed(house, other)
    assert house.execute(house.session(), "1 + 1")["result"] == {"text/plain": "2"}
    house.in_order(leased=3 if own_engine.live_restore else 1)


def _goes_on(house: House, session: str, execution: str) -> None:
    """It counted all the while, and nothing was lost."""
    house.http.post(f"{session}/commands", json={"command": "touch /tmp/done"}).raise_for_status()
    until(lambda: house.http.get(execution).json()["state"] == "done", "the execution's end")
    ended = house.http.get(execution).json()
    assert ended["outcome"] == "ok", ended
    numbers = [int(line) for line in ended["stdout"].split()]
    assert numbers == list(range(len(numbers)))
    assert house.execute(session, "kept")["result"] == {"text/plain": "7"}


def _is_closed(house: House, session: str) -> None:
    until(lambda: house.http.get(session).status_code == 410, "the session's end")
    refused = house.http.get(session).json()
    assert refused["code"] == "session_closed"
    assert "sandbox" in refused["detail"], refused


def test_an_engine_that_is_not_there_at_the_start(houses: Houses, own_engine: OwnEngine) -> None:
    """Who asked for Docker is told at once; when it is there, the same command works."""
    own_engine.stop()
    try:
        began = time.monotonic()
        with pytest.raises(RuntimeError, match=r"no container engine answers"):
            houses("state", "--warm", "0", docker_host=own_engine.address)
        assert time.monotonic() - began < 30
    finally:
        own_engine.start()
    assert houses("state", "--warm", "0", docker_host=own_engine.address).run()["stdout"] == "42\n"
