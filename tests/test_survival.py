"""Durable sessions over real containers: the service is killed outright, and what it left is found again."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import docker
import engine
import httpx2
import pytest
from conftest import RealService

from executor_service.docker_images import DockerImage

pytestmark = [pytest.mark.docker, pytest.mark.slow]
DEADLINE = 60.0
CRASHING = Path(__file__).parent / "crashing"
STORE = "executor_service.sessions.store:Store."
Body = dict[str, Any]


def until(condition: Callable[[], Any], *, seconds: float = DEADLINE) -> Any:
    """What `condition` gives once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)
    return found


def parse(text: str) -> list[tuple[int, str, Body]]:
    """Server-sent events: number, type and data of each."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and line[0] != ":")
        if "data" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


class Lives:
    """One state directory, and the services that follow each other on it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._service: RealService | None = None
        self.http = httpx2.Client(timeout=DEADLINE)

    @property
    def service(self) -> RealService:
        """The present one, or the last."""
        assert self._service is not None
        return self._service

    def start(self, *arguments: str, crash: str = "") -> None:
        """Another service; it kills itself where `crash` says, see crashing/sitecustomize.py."""
        env = (
            {"CODECELL_TEST_CRASH": crash, "PYTHONPATH": f"{CRASHING}:{CRASHING.parents[1]}"} if crash else {}
        )
        self._service = RealService(self.state, "--warm", "0", *arguments, backend="docker", env=env)

    def ended(self) -> None:
        """Wait until the service has killed itself."""
        assert self.service.process.wait(DEADLINE) == -signal.SIGKILL
        self.kill()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it so that it can do nothing more; or with another signal."""
        self.service.stop(number)

    def restart(self, number: int = signal.SIGKILL, *arguments: str) -> None:
        """End it, and start another."""
        self.kill(number)
        self.start(*arguments)

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> httpx2.Response:
        """One request."""
        return self.http.request(method, f"{self.service.url}/v1/{path}", json=body, **more)

    def get(self, path: str) -> Body:
        """The body of what is there."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def session(self, **fields: Any) -> str:
        """A new session's id."""
        answer = self.ask("POST", "sessions", fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def run(self, session: str, code: str, **fields: Any) -> Body:
        """An execution, to its end."""
        answer = self.ask("POST", f"sessions/{session}/executions", {"code": code, **fields})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def detach(self, session: str, what: str, **fields: Any) -> str:
        """The path of a detached execution or command."""
        answer = self.ask("POST", f"sessions/{session}/{what}", {"detach": True, **fields})
        assert answer.status_code == 202, answer.text
        return f"sessions/{session}/{what}/{answer.json()['id']}"

    def done(self, path: str) -> Body:
        """A detached operation once it has ended."""

        def look() -> Body | None:
            body = self.get(path)
            return body if body["state"] == "done" else None

        return dict(until(look))

    def events(self, path: str, after: int = 0) -> list[tuple[int, str, Body]]:
        """The events of an operation, to its end."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after else {})
        return parse(self.ask("GET", path, headers=headers).text)

    def containers(self) -> list[Body]:
        """Those of this instance."""
        instance = (self.state / "instance").read_text().strip()
        with engine.client() as found:
            return list(found.containers(filters={"label": f"codecell.instance={instance}"}))

    def close(self) -> None:
        """End the service, and remove what it left on purpose."""
        if self._service is not None and self._service.process.poll() is None:
            self.kill(signal.SIGKILL)
        with engine.client() as found:
            for each in self.containers():
                _remove(found, each["Id"])
        self.http.close()


def _remove(found: docker.APIClient, container: str) -> None:
    try:
        found.remove_container(container, force=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        if "in progress" not in str(error):
            raise


@pytest.fixture(scope="module")
def known_languages(docker_image: DockerImage, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a service finds out about the image's languages, so that the next need not."""
    assert docker_image
    with closing(Lives(tmp_path_factory.mktemp("first") / "state")) as found:
        found.start()
        return (found.state / "languages.json").read_bytes()


@pytest.fixture
def lives(known_languages: bytes, tmp_path: Path) -> Iterator[Lives]:
    """A service that may die and come back."""
    found = Lives(tmp_path / "state")
    found.state.mkdir(mode=0o700)
    (found.state / "languages.json").write_bytes(known_languages)
    with closing(found):
        found.start()
        yield found


def test_a_session_goes_on_after_the_service_was_killed(lives: Lives) -> None:
    """Variables, files, environment, metadata and the times of its life are what they were."""
    session = lives.session(env={"TOKEN": "s3cret"}, metadata={"for": "me"}, ttl=1000)
    lives.run(session, "x = 41; open('kept.txt', 'w').write('here')")
    before = lives.get(f"sessions/{session}")
    lives.restart()
    after = lives.get(f"sessions/{session}")
    assert {k: v for k, v in after.items() if k != "last_used_at"} == {
        k: v for k, v in before.items() if k != "last_used_at"
    }
    code = "import os; print(x + 1, os.environ['TOKEN'], open('kept.txt').read())"
    done = lives.run(session, code)
    assert (done["stdout"], done["state_lost"]) == ("42 s3cret here\n", False)
    done = lives.ask("POST", f"sessions/{session}/commands", {"command": "echo $TOKEN; cat kept.txt"}).json()
    assert done["stdout"] == "s3cret\nhere"
    lives.ask("POST", f"sessions/{session}/restart")
    assert lives.run(session, "import os; print(os.environ['TOKEN'])")["stdout"] == "s3cret\n"
    assert lives.ask("DELETE", f"sessions/{session}").status_code == 204
    until(lambda: not lives.containers())


def test_a_detached_execution_goes_on_and_its_events_keep_their_numbers(lives: Lives) -> None:
    """Events before, across and after the restart are one row without a gap."""
    session = lives.session()
    code = "import time\nfor n in range(40):\n    print(n, flush=True)\n    time.sleep(0.2)\n'end'"
    path = lives.detach(session, "executions", code=code)
    until(lambda: lives.get(path)["stdout"].count("\n") >= 5)
    with lives.http.stream(
        "GET", f"{lives.service.url}/v1/{path}", headers={"Accept": "text/event-stream"}
    ) as stream:
        first = next(stream.iter_text())
        lives.kill()
    lives.start()
    assert lives.get(path)["state"] == "running"
    assert lives.get(f"sessions/{session}")["state"] == "busy"
    events = lives.events(path)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert "".join(data["text"] for _, kind, data in events if kind == "stdout") == "".join(
        f"{n}\n" for n in range(40)
    )
    for each in parse(first):  # what a follower saw before is told again under the same number
        assert events[each[0] - 1] == each
    assert lives.events(path, after=7) == events[7:]
    body = lives.get(path)
    assert (body["outcome"], body["result"]) == ("ok", {"text/plain": "'end'"})
    assert 8.0 <= body["duration"] < 20.0


def test_a_detached_command_goes_on_and_takes_input(lives: Lives) -> None:
    """Its output is whole, its input is still open, its end is told."""
    session = lives.session()
    path = lives.detach(
        session, "commands", command="echo before; read a; echo got $a; read b; echo $b; exit 3"
    )
    until(lambda: "before" in lives.get(path)["stdout"])
    lives.restart()
    assert lives.ask("POST", f"{path}/input", {"text": "one\n"}).status_code == 204
    until(lambda: "one" in lives.get(path)["stdout"])
    lives.restart()
    assert lives.ask("POST", f"{path}/input", {"text": "two\n", "close": True}).status_code == 204
    body = lives.done(path)
    assert (body["outcome"], body["exit_code"], body["stdout"]) == ("error", 3, "before\ngot one\ntwo\n")


def test_what_ended_while_nobody_was_there_is_told(lives: Lives) -> None:
    """Its duration is that of the code, not of the absence; a kernel that died in it is replaced."""
    session = lives.session()
    code = "import time; print('on', flush=True); time.sleep(1); print('done'); 7"
    cell = lives.detach(session, "executions", code=code)
    command = lives.detach(session, "commands", command="echo on; sleep 1; echo done")
    until(lambda: lives.get(cell)["stdout"] and lives.get(command)["stdout"])
    lives.kill()
    time.sleep(4)
    lives.start()
    body = lives.done(cell)
    assert (body["outcome"], body["stdout"], body["result"]) == ("ok", "on\ndone\n", {"text/plain": "7"})
    assert body["duration"] < 3.5
    assert lives.done(command)["stdout"] == "on\ndone\n"
    path = lives.detach(
        session, "executions", code="import os; print('last', flush=True); time.sleep(1); os._exit(9)"
    )
    until(lambda: lives.get(path)["stdout"])
    lives.kill()
    time.sleep(2)
    lives.start()
    body = lives.done(path)
    assert (body["outcome"], body["error"]["name"], body["state_lost"]) == ("error", "KernelDied", True)
    assert lives.run(session, "1 + 1")["result"] == {"text/plain": "2"}


def test_what_had_ended_is_still_told(lives: Lives) -> None:
    """Results and events of detached work are the same before and after a restart, files and errors too."""
    session = lives.session()
    paths = [
        lives.detach(session, "executions", code="open('a.txt','w').write('1'); print('é\\u2028'); 1 / 0"),
        lives.detach(session, "commands", command="echo out; echo err >&2; exit 2"),
    ]
    before = [(lives.done(path), lives.events(path)) for path in paths]
    lives.restart()
    lives.restart()
    assert [(lives.get(path), lives.events(path)) for path in paths] == before
    assert before[0][0]["files"] == [{"path": "a.txt", "size": 1}]


def test_attached_work_ends_with_its_service(lives: Lives) -> None:
    """A cell is interrupted and its kernel's state kept; a command is killed."""
    session = lives.session()
    lives.run(session, "x = 1")
    url = f"{lives.service.url}/v1/sessions/{session}/"
    stream = {"Accept": "text/event-stream"}
    cell = (
        "import time\ntry:\n    print('on', flush=True); time.sleep(300)\n"
        "except KeyboardInterrupt:\n    x = 2"
    )
    with (
        lives.http.stream("POST", url + "executions", json={"code": cell}, headers=stream) as first,
        lives.http.stream(
            "POST", url + "commands", json={"command": "echo on; sleep 300"}, headers=stream
        ) as second,
    ):
        for each in (first, second):
            chunks = each.iter_text()
            seen = ""
            while "stdout" not in seen:
                seen += next(chunks)
        lives.kill()
    lives.start()
    assert lives.run(session, "print(x)")["stdout"] == "2\n"
    assert lives.run(session, "!pgrep -c sleep")["stdout"] == "0\n"
    assert [each["outcome"] for each in lives.get(f"sessions/{session}/executions")["items"]] == ["ok", "ok"]


def test_wall_time_and_waiting_for_input_are_counted_across_a_restart(lives: Lives) -> None:
    """Time that code waited for its caller does not count, the rest does; an answer arrives."""
    session = lives.session()
    code = "a = input('?')\nprint(a, flush=True)\nimport time\ntime.sleep(60)"
    path = lives.detach(session, "executions", code=code, allow_input=True, limits={"wall_time": 4})
    until(lambda: any(kind == "input_request" for _, kind, _ in _so_far(lives, path)))
    lives.kill()
    time.sleep(5)
    lives.start()
    time.sleep(1)
    assert lives.get(path)["state"] == "running"
    assert lives.ask("POST", f"{path}/input", {"text": "yes"}).status_code == 204
    until(lambda: "yes" in lives.get(path)["stdout"])
    lives.restart()
    assert lives.ask("POST", f"{path}/input", {"text": "no"}).status_code == 409
    body = lives.done(path)
    assert (body["outcome"], body["stdout"]) == ("timeout", "yes\n")
    assert 4.0 <= body["duration"] < 8.0
    assert lives.run(session, "a")["result"] == {"text/plain": "'yes'"}


def _so_far(lives: Lives, path: str) -> list[tuple[int, str, Body]]:
    """Events that are there now, of an operation that goes on."""
    found: list[tuple[int, str, Body]] = []
    headers = {"Accept": "text/event-stream"}
    url = f"{lives.service.url}/v1/{path}"
    with (
        suppress(httpx2.ReadTimeout),
        lives.http.stream("GET", url, headers=headers, timeout=0.3) as stream,
    ):
        for text in stream.iter_text():
            found += parse(text)
    return found


def test_a_service_that_stops_orderly_leaves_its_sessions_too(lives: Lives) -> None:
    """Detached work goes on; its followers' streams break off without an end; attached work is drained."""
    session = lives.session()
    path = lives.detach(session, "executions", code="import time; time.sleep(5); print('end')")
    url = f"{lives.service.url}/v1/{path}"
    with lives.http.stream("GET", url, headers={"Accept": "text/event-stream"}) as stream:
        chunks = stream.iter_text()
        assert "started" in next(chunks)
        assert lives.service.process.poll() is None
        lives.service.process.send_signal(signal.SIGTERM)
        with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
            list(chunks)  # it breaks off: that is no end
    assert lives.service.process.wait(DEADLINE) == 0
    lives.kill()
    assert len(lives.containers()) == 1
    lives.start()
    assert lives.done(path)["stdout"] == "end\n"


def test_what_is_not_durable_is_swept_and_never_found(lives: Lives) -> None:
    """Runs and warm sandboxes end with their service; so do sessions where the operator says so."""
    lives.restart(signal.SIGKILL, "--no-durable")
    session = lives.session()
    assert lives.containers()
    lives.kill()
    until(lambda: not lives.containers(), seconds=20)  # nobody watches them any more
    lives.start()
    assert lives.ask("GET", f"sessions/{session}").status_code == 404


def test_sessions_that_wait_are_swept_by_a_service_that_keeps_none(lives: Lives) -> None:
    """--no-durable at start removes what an earlier one left on purpose."""
    lives.session()
    lives.kill()
    assert len(lives.containers()) == 1
    lives.start("--no-durable")
    assert not lives.containers()


def test_a_closed_session_is_remembered(lives: Lives) -> None:
    """410 with the reason, by a later service too; one whose container is gone says so."""
    closed, lost, kept = lives.session(), lives.session(), lives.session()
    lives.ask("DELETE", f"sessions/{closed}")
    with sqlite3.connect(lives.state / "sessions.db") as db:
        (sandbox,) = db.execute("SELECT sandbox FROM sessions WHERE id = ?", (lost,)).fetchone()
    lives.kill()
    with engine.client() as found:
        _remove(found, f"codecell-{sandbox}")
    lives.start()
    for session, why in ((closed, "deleted"), (lost, "gone when the service came back")):
        answer = lives.ask("GET", f"sessions/{session}")
        assert (answer.status_code, answer.json()["code"]) == (410, "session_closed")
        assert why in answer.json()["detail"]
        assert lives.ask("DELETE", f"sessions/{session}").status_code == 204
    assert [each["id"] for each in lives.get("sessions")["items"]] == [kept]


def test_a_session_never_outlives_its_expiry(lives: Lives) -> None:
    """Its container ends by itself though no service comes back; a renewal moves that."""
    lives.session(ttl=6)
    renewed = lives.session(ttl=6)
    lives.ask("POST", f"sessions/{renewed}/renew", {"ttl": 1000})
    lives.kill()
    assert len(lives.containers()) == 2
    until(lambda: len(lives.containers()) == 1, seconds=20)
    lives.start()
    assert [each["id"] for each in lives.get("sessions")["items"]] == [renewed]
    lives.session(ttl=3)
    lives.kill()
    time.sleep(3.2)
    lives.start()
    assert [each["id"] for each in lives.get("sessions")["items"]] == [renewed]


def test_nothing_that_is_secret_is_written_down(lives: Lives) -> None:
    """Neither code nor variables nor output lies in any file of the state directory."""
    session = lives.session(env={"TOKEN": "tell-nobody-1"})
    lives.done(lives.detach(session, "executions", code="print('tell-' + 'nobody-2') # tell-nobody-3"))
    lives.done(lives.detach(session, "commands", command="echo tell-nobody-4", env={"A": "tell-nobody-5"}))
    lives.kill()
    for path in lives.state.rglob("*"):
        if path.is_file():
            assert b"tell-nobody" not in path.read_bytes(), path


def dying(lives: Lives, method: str, path: str, body: object = None) -> None:
    """Ask for what the service does not survive."""
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        lives.ask(method, path, body)
    lives.ended()


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_session_is_made(lives: Lives, when: str) -> None:
    """Written down it is there and works, else nothing is; nobody was told of it."""
    lives.kill(signal.SIGTERM)
    lives.start(crash=f"{STORE}add_session:{when}")
    dying(lives, "POST", "sessions", {"env": {"A": "b"}})
    assert len(lives.containers()) == 1
    lives.start()
    found = [each["id"] for each in lives.get("sessions")["items"]]
    assert len(found) == len(lives.containers()) == (when == "after")
    for session in found:
        assert lives.run(session, "import os; print(os.environ['A'])")["stdout"] == "b\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_session_is_closed(lives: Lives, when: str) -> None:
    """It is there until that is written down, and not afterwards, whatever became of its container."""
    session = lives.session()
    lives.kill()
    lives.start(crash=f"{STORE}close_session:{when}")
    dying(lives, "DELETE", f"sessions/{session}")
    lives.start()
    status = lives.ask("GET", f"sessions/{session}").status_code
    assert (status, len(lives.containers())) == ((200, 1) if when == "before" else (410, 0))


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_session_is_renewed(lives: Lives, when: str) -> None:
    """The guest never ends before the instant that is written down."""
    session = lives.session(ttl=8)
    lives.kill()
    lives.start(crash=f"{STORE}set_expiry:{when}")
    dying(lives, "POST", f"sessions/{session}/renew", {"ttl": 1000})
    lives.start()
    if when == "after":
        time.sleep(8)
        assert lives.run(session, "1")["outcome"] == "ok"
    else:
        until(lambda: lives.ask("GET", f"sessions/{session}").status_code == 410, seconds=15)
        until(lambda: not lives.containers())


@pytest.mark.parametrize("what", ["executions", "commands"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_before_detached_work_starts(lives: Lives, what: str, when: str) -> None:
    """It is not there, or says that it did not survive; nothing of it runs."""
    session = lives.session()
    lives.kill()
    lives.start(crash=f"{STORE}add_operation:{when}")
    asked = {"code": "ran = 1"} if what == "executions" else {"command": "touch ran"}
    dying(lives, "POST", f"sessions/{session}/{what}", {"detach": True, **asked})
    lives.start()
    found = until(lambda: lives.get(f"sessions/{session}/{what}")["items"]) if when == "after" else []
    for each in found:
        body = lives.done(f"sessions/{session}/{what}/{each['id']}")
        assert (body["outcome"], "did not survive" in body["detail"]) == ("interrupted", True)
    assert lives.run(session, "'ran' in dir()")["result"] == {"text/plain": "False"}
    assert lives.ask("GET", f"sessions/{session}/files/ran").status_code == 404


ENDS = [
    ("executor_service.sessions.keeper:store", "before"),  # the end is with nobody but the guest
    (f"{STORE}end_operation", "before"),  # it is with the guest twice
    (f"{STORE}end_operation", "after"),  # the guest keeps what nobody needs any more
]


@pytest.mark.parametrize("what", ["executions", "commands"])
@pytest.mark.parametrize(("place", "when"), ENDS)
def test_killed_while_an_end_is_kept(lives: Lives, what: str, place: str, when: str) -> None:
    """Its end is told all the same, once, with the same events; the session goes on."""
    session = lives.session()
    asked = {"code": "import time\nfor n in range(5):\n    print(n, flush=True); time.sleep(0.2)"}
    if what == "commands":
        asked = {"command": "for n in 0 1 2 3 4; do echo $n; sleep 0.2; done"}
    path = lives.detach(session, what, **asked)
    until(lambda: lives.get(path)["stdout"])
    lives.kill()
    with suppress(RuntimeError):  # it may die before it listens
        lives.start(crash=f"{place}:{when}")
    lives.ended()
    lives.start()
    body = lives.done(path)
    assert (body["outcome"], body["stdout"]) == ("ok", "0\n1\n2\n3\n4\n")
    events = lives.events(path)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert [kind for _, kind, _ in events].count("completed") == 1
    lives.restart()
    assert (lives.get(path), lives.events(path)) == (body, events)
    assert lives.run(session, "1 + 1")["result"] == {"text/plain": "2"}
