"""Sandboxes that end behind the service's back: their guests killed, their containers removed or frozen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import engine
import pytest
from chaos.conftest import House, making, until

from executor_service.docker_images import DockerImage

pytestmark = [pytest.mark.docker, pytest.mark.root]

PROMPT = 20.0
SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(300)"


def container_of(house: House, session: str) -> str:
    """The container in which a session's code runs."""
    house.execute(session, "open('/tmp/mark', 'w').write('')")
    before = house.execute(session, "import socket; print(open('/proc/self/cgroup').read())")
    assert before["outcome"] == "ok"
    marked = [name for pid, name in engine.guests(house.state_dir).items() if _has_mark(pid)]
    assert len(marked) == 1
    house.execute(session, "import os; os.unlink('/tmp/mark')")
    return marked[0]


def _has_mark(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/root/tmp/mark")


def kill_guest(name: str, house: House) -> None:
    """As the kernel's out-of-memory killer might."""
    pid = next(pid for pid, each in engine.guests(house.state_dir).items() if each == name)
    os.kill(pid, signal.SIGKILL)


def remove(name: str, house: House) -> None:
    """As an operator who cleans up: `docker rm --force`."""
    with engine.client() as client:
        client.remove_container(name, force=True)


def stop(name: str, house: House) -> None:
    """As an operator: `docker stop`."""
    with engine.client() as client:
        client.stop(name, timeout=1)


ENDS = [kill_guest, remove, stop]
End = Callable[[str, House], None]


@pytest.fixture(scope="module")
def shared(docker_image: DockerImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service with one sandbox of each kind ready."""
    with making(tmp_path_factory.mktemp("guests")) as make:
        yield make("state", "--warm", "1")


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    """The same, without any session before, and afterwards as it was."""
    yield shared
    for item in shared.http.get("/v1/sessions").json()["items"]:
        shared.http.delete(f"/v1/sessions/{item['id']}")
    shared.in_order()


@pytest.mark.parametrize("end", ENDS)
def test_a_sandbox_ends_while_its_code_runs(house: House, end: End) -> None:
    """Executions, commands and the session end at once and say why; the next session works."""
    session, other = house.session(), house.session()
    house.execute(other, "kept = 7")
    name = container_of(house, session)
    with ThreadPoolExecutor(2) as pool:
        execution = pool.submit(house.execute, session, SLEEP, limits={"wall_time": 300})
        command = pool.submit(
            house.http.post,
            f"{session}/commands",
            json={"command": "echo up; sleep 300", "limits": {"wall_time": 300}},
        )
        until(lambda: house.http.get(session).json()["state"] == "busy", "the execution")
        time.sleep(0.5)  # until both have printed
        began = time.monotonic()
        end(name, house)
        assert execution.result()["outcome"] == "sandbox_died"
        assert command.result().json()["outcome"] == "sandbox_died"
        assert time.monotonic() - began < PROMPT
    until(lambda: house.http.get(session).status_code == 410, "the session's end")
    assert house.http.get(session).json()["code"] == "session_closed"
    assert "sandbox" in house.http.get(session).json()["detail"]
    assert house.execute(other, "kept")["result"] == {"text/plain": "7"}
    assert house.execute(house.session(), "1 + 1")["result"] == {"text/plain": "2"}
    house.in_order(leased=2)


@pytest.mark.parametrize("end", ENDS)
def test_an_idle_session_whose_sandbox_ends(house: House, end: End) -> None:
    """It is closed without anybody asking, and then answers 410 with the reason."""
    session = house.session()
    end(container_of(house, session), house)
    until(lambda: house.http.get(session).status_code == 410, "the session's end")
    refused = house.http.post(f"{session}/executions", json={"code": "1"})
    assert (refused.status_code, refused.json()["code"]) == (410, "session_closed")


@pytest.mark.parametrize("end", ENDS)
def test_sandboxes_that_end_while_they_stand_ready(house: House, end: End) -> None:
    """None of them is handed out: they are replaced, and every caller is served."""
    house.stocked()
    for name in house.containers():
        end(name, house)
    assert house.run()["stdout"] == "42\n"
    assert house.execute(house.session(), "1 + 1")["result"] == {"text/plain": "2"}
    house.in_order(leased=1)


def test_a_container_that_an_operator_freezes(house: House) -> None:
    """`docker pause`: nothing of it answers, others are served, and its caller can delete it at once."""
    session = house.session()
    name = container_of(house, session)
    with engine.client() as client:
        client.pause(name)
    assert house.run()["stdout"] == "42\n"
    began = time.monotonic()
    assert house.http.delete(session).status_code == 204
    until(lambda: name not in house.containers(), "the container's end")
    assert time.monotonic() - began < PROMPT
