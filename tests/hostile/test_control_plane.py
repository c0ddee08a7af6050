# ruff: noqa: E501  (the attacking programs are text)
"""Cases 78 to 80: another key's things, dirty or dead sandboxes, what a killed service leaves, injection by text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import engine
import httpx2
import pytest
import websockets
from conftest import RealService
from hostile.conftest import processes_below
from hostile.watching import until

pytestmark = pytest.mark.hostile

GONE_WITHIN = 5.0  # seconds, after the service was killed
MINE, THEIRS = "key-of-the-owner-0123456789", "key-of-the-attacker-0123456789"


@pytest.fixture(scope="module")
def shared(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """A service with two keys."""
    state = tmp_path_factory.mktemp("keys") / "state"
    keys = {"CODECELL_API_KEYS": f"{MINE},{THEIRS}"}
    service = RealService(state, "--warm", "1", backend=backend_name, env=keys)
    yield service
    assert service.stop() == 0


def client(service: RealService, key: str) -> httpx2.Client:
    """A caller with that key."""
    return httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60)


def told(answer: httpx2.Response, ids: dict[str, str]) -> tuple[int, str]:
    """Status and body, with the ids and what differs in every answer taken out."""
    text = re.sub(r'"request_id": ?"\w+"', "", answer.text)
    for real, word in ids.items():
        text = text.replace(real, word)
    return answer.status_code, text


def verbs(session: str, execution: str, command: str, run: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Every verb of the API that names something."""
    at = f"/v1/sessions/{session}"
    return [
        ("GET", at, {}),
        ("POST", f"{at}/renew", {"json": {"ttl": 60}}),
        ("POST", f"{at}/interrupt", {}),
        ("POST", f"{at}/restart", {}),
        ("POST", f"{at}/executions", {"json": {"code": "treasure"}}),
        ("GET", f"{at}/executions", {}),
        ("GET", f"{at}/executions/{execution}", {}),
        ("GET", f"{at}/executions/{execution}", {"headers": {"accept": "text/event-stream"}}),
        ("POST", f"{at}/executions/{execution}/input", {"json": {"text": "x"}}),
        ("DELETE", f"{at}/executions/{execution}", {}),
        ("POST", f"{at}/commands", {"json": {"command": "cat secret"}}),
        ("GET", f"{at}/commands", {}),
        ("GET", f"{at}/commands/{command}", {}),
        ("POST", f"{at}/commands/{command}/input", {"json": {"text": "x"}}),
        ("POST", f"{at}/commands/{command}/signal", {"json": {"signal": "SIGKILL"}}),
        ("DELETE", f"{at}/commands/{command}", {}),
        ("GET", f"{at}/files", {}),
        ("GET", f"{at}/files/secret", {}),
        ("HEAD", f"{at}/files/secret", {}),
        ("PUT", f"{at}/files/secret", {"content": b"x"}),
        ("POST", f"{at}/files/secret", {"json": {"op": "move", "to": "mine"}}),
        ("DELETE", f"{at}/files/secret", {}),
        ("GET", f"{at}/archive", {}),
        ("PUT", f"{at}/archive", {"content": b""}),
        ("GET", f"/v1/runs/{run}", {}),
        ("DELETE", f"/v1/runs/{run}", {}),
        ("DELETE", at, {}),
    ]


def test_78_another_keys_session_on_every_verb(shared):
    """With another key every verb answers exactly as for what never existed, and changes nothing."""
    with client(shared, MINE) as mine, client(shared, THEIRS) as theirs:
        session = mine.post("/v1/sessions", json={"metadata": {"chat": "42"}}).raise_for_status().json()["id"]
        at = f"/v1/sessions/{session}"
        mine.put(f"{at}/files/secret", content=b"secret text").raise_for_status()
        mine.post(f"{at}/executions", json={"code": "treasure = 42"}).raise_for_status()
        execution = (
            mine.post(f"{at}/executions", json={"code": "1", "detach": True}).raise_for_status().json()["id"]
        )
        command = (
            mine.post(f"{at}/commands", json={"command": "cat", "detach": True})
            .raise_for_status()
            .json()["id"]
        )
        sleep = {"language": "python", "code": "import time; time.sleep(60)", "detach": True}
        run = mine.post("/v1/runs", json=sleep).raise_for_status().json()["id"]
        nothing = [each[:4] + "0" * (len(each) - 4) for each in (session, execution, command, run)]
        real = dict(zip((session, execution, command, run), "abcd", strict=True))
        fake = dict(zip(nothing, "abcd", strict=True))
        for there, not_there in zip(verbs(session, execution, command, run), verbs(*nothing), strict=True):
            method, path, more = there
            seen = told(theirs.request(method, path, **more), real)
            unknown = told(theirs.request(not_there[0], not_there[1], **not_there[2]), fake)
            assert seen == unknown, there
            assert seen[0] in ((404, 204) if method == "DELETE" else (404,)), there
        for query in ("", "?metadata.chat=42", "?limit=1000"):
            assert theirs.get(f"/v1/sessions{query}").json()["items"] == []
        _terminal_is_refused(shared, session)
        # Nothing changed for the owner.
        assert mine.get(f"/v1/runs/{run}").json()["state"] == "running"
        assert mine.get(f"{at}/commands/{command}").json()["state"] == "running"
        assert mine.get(f"{at}/files/secret").content == b"secret text"
        again = mine.post(f"{at}/executions", json={"code": "treasure"}).raise_for_status().json()
        assert again["result"] == {"text/plain": "42"}
        assert mine.delete(f"/v1/runs/{run}").status_code == 204
        assert mine.delete(at).status_code == 204


def _terminal_is_refused(service: RealService, session: str) -> None:
    async def knock() -> int:
        address = f"{service.url.replace('http', 'ws')}/v1/sessions/{session}/terminal"
        try:
            async with websockets.connect(address, additional_headers={"authorization": f"Bearer {THEIRS}"}):
                return 101
        except websockets.InvalidStatus as error:
            return error.response.status_code

    assert asyncio.run(knock()) == 404


def test_78_keys_that_are_none(shared):
    """No key, a wrong one, a key's beginning, odd bytes and several at once open nothing but the two open doors."""
    with httpx2.Client(base_url=shared.url, timeout=60) as nobody:
        attempts: list[dict[str, str | bytes]] = [
            {}, {"authorization": "Bearer"}, {"authorization": f"Basic {MINE}"}, {"authorization": f"Bearer {MINE[:-1]}"},
            {"authorization": f"Bearer {MINE}x"}, {"authorization": MINE}, {"x-api-key": ""}, {"x-api-key": MINE.upper()}, {"x-api-key": f"{MINE},{THEIRS}"},
            {"authorization": b"Bearer \xff\xfe"}, {"x-api-key": "*"}, {"x-api-key": "' or 1=1 --"}, {"cookie": f"x-api-key={MINE}"},
        ]  # fmt: skip
        for headers in attempts:
            for path in ("/v1/sessions", "/v1/info", "/metrics", "/docs", "/openapi.json"):
                answer = nobody.get(path, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (headers, path)
                assert MINE not in answer.text
        assert nobody.get(f"/v1/sessions?api_key={MINE}&key={MINE}").status_code == 401
        assert nobody.get("/healthz").status_code == nobody.get("/readyz").status_code == 200
    log = Path(shared.log.name).read_text()
    assert MINE not in log
    assert THEIRS not in log


PRISTINE = """
import os, sys, uuid, glob
mark = sys.argv[1]
seen = sorted(set(os.listdir("/workspace") + os.listdir("/tmp") + os.listdir("/dev/shm")) - {"main.py", ".matplotlib"})  # its fonts, from the image
others = [p for p in os.listdir("/proc") if p.isdigit() and open(f"/proc/{p}/cmdline", "rb").read().startswith(b"python3\\0main.py") and int(p) != os.getpid()]
state = [name for name in ("numpy", "pandas", "marked") if name in sys.modules] + ([sys.marked] if hasattr(sys, "marked") else [])
print(seen, others, state, os.environ.get("MARK"))
sys.marked = mark
for place in ("/workspace", "/tmp", "/dev/shm"):
    open(f"{place}/{mark}", "w").write(mark)
import builtins
builtins.marked = mark
if os.fork() == 0:
    os.setsid()
    import time
    time.sleep(30)
"""


def test_79_no_sandbox_is_handed_out_twice(attack):
    """Forty runs, twelve at a time with one warm, each see a sandbox that nobody has used, and only their own mark."""

    def one(number: int) -> tuple[str, str, str]:
        ended = attack.run(PRISTINE, args=[f"mark{number}"], env={"MARK": f"mark{number}"}, collect=["*"])
        assert ended["outcome"] == "ok", ended
        return (
            ended["stdout"],
            f"[] [] [] mark{number}\n",
            "".join(sorted(file["path"] for file in ended["files"])),
        )

    with ThreadPoolExecutor(12) as pool:
        for number, (seen, wanted, files) in enumerate(pool.map(one, range(40))):
            assert seen == wanted
            assert files == f"mark{number}"


def test_79_no_session_is_handed_out_twice(attack):
    """Sessions made at once have kernels and workspaces of their own."""
    with ThreadPoolExecutor(6) as pool:
        sessions = list(pool.map(lambda _: attack.session(), range(6)))
        assert len({session.id for session in sessions}) == 6

        def mark(pair: tuple[int, Any]) -> str:
            number, session = pair
            session.execute(f"mark = {number}; open('mark', 'a').write('{number};')")
            return str(session.execute("print(mark, open('mark').read())")["stdout"])

        assert list(pool.map(mark, enumerate(sessions))) == [f"{number} {number};\n" for number in range(6)]


def guests(service: RealService) -> list[int]:
    """The first process of each sandbox, seen from the host."""
    if service.backend == "docker":
        return list(engine.guests(service.state_dir))
    found = []
    for pid in processes_below(service.process.pid):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        inside = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        if len(inside) == 3 and inside[-1] == "1":
            found.append(pid)
    return found


def test_79_a_dead_sandbox_is_not_handed_out(attack, house):
    """Sandboxes that die while they stand ready are replaced: no caller gets one."""
    killed = 0
    session = attack.session()  # its sandbox and the neighbour's must stay
    session.execute("kept = 1")
    for _ in range(4):
        assert attack.run("print(1)")["stdout"] == "1\n"
        until(lambda: not attack.http.get("/readyz").json()["pool"]["making"], "sandboxes that stand ready")
        for pid in guests(house):
            if not _is_leased(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        ended = attack.run("print('alive')")
        assert (ended["outcome"], ended["stdout"]) == ("ok", "alive\n")
        assert session.execute("kept")["result"] == {"text/plain": "1"}
    assert killed


def _is_leased(guest: int) -> bool:
    """Whether anybody is connected: a handler or relay, by process 1's name, stands beside the armed interpreter."""
    lines = [_command_line(pid) for pid in processes_below(guest)]
    return any(b"nursery.py" in line or b"container.py" in line for line in lines)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pids: list[int]) -> list[int]:
    """Those that have not ended; a zombie whose parent is not ours to blame has."""
    found = []
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if text[text.rindex(")") + 2] not in "ZX":
            found.append(pid)
    return found


def groups_of(state: Path) -> set[str]:
    """Control groups of the sandboxes of a service with that state directory."""
    name = f"codecell-{(state / 'instance').read_text().strip()}"
    return {each for top, names, _ in os.walk("/sys/fs/cgroup") if Path(top).name == name for each in names}


BUSY = "import os, time\nos.fork(); os.fork()\nos.setsid() if os.getpid() % 2 else None\nprint('started', flush=True)\ntime.sleep(600)\n"


def test_79_what_a_killed_service_leaves(python_image, tmp_path):
    """Local sandboxes (for containers see `chaos/`): `kill -9` of the service ends all it started within 5 s; the next start removes groups and sockets, and works."""
    state = tmp_path / "state"
    service = RealService(state, "--warm", "1")
    try:
        with httpx2.Client(base_url=service.url, timeout=60) as http:
            session = http.post("/v1/sessions", json={}).raise_for_status().json()["id"]
            http.post(
                f"/v1/sessions/{session}/commands",
                json={"command": "setsid sleep 600 & nohup sleep 600 & cat", "detach": True},
            ).raise_for_status()
            http.post(
                f"/v1/sessions/{session}/executions", json={"code": BUSY, "detach": True}
            ).raise_for_status()
            run = (
                http.post("/v1/runs", json={"language": "python", "code": BUSY, "detach": True})
                .raise_for_status()
                .json()["id"]
            )
            deadline = time.monotonic() + 20
            while (
                http.get(f"/v1/runs/{run}").json()["stdout"].count("started") < 4
                and time.monotonic() < deadline
            ):
                time.sleep(0.05)
        below = processes_below(service.process.pid)
        assert len(below) > 12
    finally:
        status = service.stop(signal.SIGKILL)
    assert status == -signal.SIGKILL
    deadline = time.monotonic() + GONE_WITHIN
    while (left := alive(below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    had_groups = groups_of(state)
    following = RealService(state, "--warm", "1")
    try:
        with httpx2.Client(base_url=following.url, timeout=60) as http:
            pool = http.get("/readyz").json()["pool"]
            most = pool["ready"] + pool["making"] + pool["leased"] + pool["closing"]
            assert not had_groups & groups_of(state)
            assert len(list((state / "run").glob("*.sock"))) <= most
            answer = (
                http.post("/v1/runs", json={"language": "python", "code": "print(6 * 7)"})
                .raise_for_status()
                .json()
            )
            assert answer["stdout"] == "42\n"
            assert http.get(f"/v1/sessions/{session}").status_code == 404
            below = processes_below(following.process.pid)
    finally:
        assert following.stop() == 0
    assert alive(below) == []
    assert not groups_of(state)
    assert not list((state / "run").glob("*.sock"))


def test_79_a_signal_to_the_whole_group_lets_work_finish(backend_name, tmp_path):
    """Ctrl-C at a terminal reaches every process of the group; what runs is finished and answered before the end."""
    state = tmp_path / "state"
    service = RealService(state, "--warm", "1", backend=backend_name)
    below = processes_below(service.process.pid)
    group = os.getpgid(service.process.pid)
    members = [service.process.pid, *(pid for pid in below if os.getpgid(pid) == group)]
    with httpx2.Client(base_url=service.url, timeout=60) as http, ThreadPoolExecutor() as pool:
        code = "import time; time.sleep(2); print('finished')"
        answer = pool.submit(http.post, "/v1/runs", json={"language": "python", "code": code})
        time.sleep(0.8)
        for pid in members:  # our own group is the same: signal its members one by one
            os.kill(pid, signal.SIGINT)
        ended = answer.result().json()
    assert (ended["outcome"], ended["stdout"]) == ("ok", "finished\n")
    assert service.process.wait(30) == 0
    service.stop()
    assert alive(below) == []


def test_79_what_the_service_was_started_with_does_not_reach_programs(backend_name, tmp_path):
    """Ignored signals, a tight umask and open descriptors of whoever starts the service are in no sandbox."""
    start = (
        "import os, signal, sys\n"
        "for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1): signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n"
        "os.umask(0o077); os.set_inheritable(os.open('/etc/hostname' if os.path.exists('/etc/hostname') else '/etc/passwd', os.O_RDONLY), True)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'executor_service', 'serve', '--port', '0', '--state-dir', sys.argv[1], '--backend', sys.argv[2], '--warm', '1'])\n"
    )
    program = (
        "import os\nlines = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)\n"
        "print(int(lines['SigIgn'], 16) & ~(1 << 12 | 1 << 24), int(lines['SigBlk'], 16), oct(os.umask(0)), sorted(map(int, os.listdir('/proc/self/fd')))[:3], open('/etc/passwd').read()[:5])\n"
    )
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", start, str(tmp_path / "state"), backend_name],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        with httpx2.Client(base_url=address, timeout=60) as http:
            wanted = "0 0 0o22 [0, 1, 2] root:\n"
            ran = http.post("/v1/runs", json={"language": "python", "code": program}).json()
            assert ran["stdout"] == wanted, ran
            shell = {"language": "bash", "code": f"python3 - <<'END'\n{program}END"}
            assert http.post("/v1/runs", json=shell).json()["stdout"] == wanted
            session = http.post("/v1/sessions", json={}).json()["id"]
            kernel = http.post(f"/v1/sessions/{session}/executions", json={"code": program}).json()
            assert kernel["stdout"] == wanted, kernel
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


NASTY = "x\r\nInjected: 1\n2026-01-01T00:00:00Z error forged line\x1b[2J\u202e';DROP TABLE--\"${jndi:ldap://a}`id`$(id)%s%n{0}../../etc/passwd"


def test_80_injection_through_names_and_metadata(attack, house):
    """Text in metadata, names, ids, queries and headers stays text: in answers, in headers, and on one line of the log."""
    http = attack.http
    session = attack.session(
        metadata={NASTY[:100]: NASTY, "__proto__": "x", "a.b": "c"},
        env={"NAME": NASTY, "BASH_ENV": "/tmp/evil"},
    )
    assert http.get(session.path).json()["metadata"][NASTY[:100]] == NASTY
    found = http.get("/v1/sessions", params={f"metadata.{NASTY[:100]}": NASTY}).json()["items"]
    assert [each["id"] for each in found] == [session.id]
    assert http.get("/v1/sessions", params={"metadata.a.b": "c"}).json()["items"][0]["id"] == session.id
    assert session.execute("import os; os.environ['NAME']")["result"]["text/plain"] == repr(NASTY)
    ended = attack.run("import sys; print(sys.argv[1:])", args=[NASTY, "--", "-c", "; id", "$(id)", "\n"])
    assert ended["stdout"] == f"{[NASTY, '--', '-c', '; id', '$(id)', chr(10)]!r}\n"
    direct = http.post(f"{session.path}/commands", json={"argv": ["printf", "%s", NASTY]}).json()
    assert direct["stdout"] == NASTY
    asked = (
        "/v1/sessions/" + "%0d%0aInjected:%201",
        "/v1/runs/..%2f..%2fetc",
        f"/v1/sessions/{session.id}%00",
        f"/v1/sessions/{session.id}/files/a%0d%0aInjected:%201",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/sessions/%7B0.__class__%7D",
    )
    for path in asked:
        answer = http.get(path)
        assert answer.status_code in (404, 422), path
        assert "injected" not in answer.headers
        assert answer.headers["content-type"] == "application/problem+json"
    for body in (
        {"language": NASTY, "code": "1"},
        {"language": "python", "code": "1", "image": NASTY},
        {"language": "python", "code": "1", NASTY: 1},
    ):
        answer = http.post("/v1/runs", json=body)
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"
    for wanted in ("forged\tid", "a" * 65, "a b", "../x"):
        assert http.get("/healthz", headers={"x-request-id": wanted}).headers["x-request-id"] != wanted
    assert http.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    log = Path(house.log.name).read_text()
    assert "forged line" not in log.replace("\\n", " ") or not re.search(
        r"^2026-01-01T00:00:00Z error", log, re.MULTILINE
    )
    assert "\x1b" not in log
    assert "Injected" not in log


def test_80_injection_through_files(attack, house):
    """Paths and names with line breaks, quotes and format marks come back as they are, and break no header or stream."""
    session = attack.session()
    name = 'a\r\nSet-Cookie: x=1; "quoted" \u202e%s.txt'
    address = f"{session.path}/files/{quote(name)}"
    assert session.http.put(address, content=b"text").status_code == 200
    answer = session.http.get(address)
    assert (answer.status_code, answer.text) == (200, "text")
    assert "set-cookie" not in answer.headers
    assert "\n" not in answer.headers["content-disposition"]
    events = 'import sys\nsys.stdout.write(\'data: {}\\n\\nevent: completed\\ndata: {"outcome": "ok"}\\n\\n: c\\rid: 7\\r\\n\\x85\\u2028end\')\nraise SystemExit(3)'
    with session.http.stream(
        "POST",
        "/v1/runs",
        json={"language": "python", "code": events},
        headers={"accept": "text/event-stream"},
    ) as stream:
        lines = stream.read().decode().split("\n")
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[0] == "started"
    assert names.count("completed") == 1
    last = json.loads(next(line for line in reversed(lines) if line.startswith("data: "))[6:])
    assert (last["outcome"], last["exit_code"]) == ("error", 3)
    written = "".join(
        json.loads(lines[n + 2][6:])["text"] for n, line in enumerate(lines) if line == "event: stdout"
    )
    assert written.endswith("end")
    assert "event: completed" in written
    assert "Set-Cookie" not in Path(house.log.name).read_text()
