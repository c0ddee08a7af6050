"""The command line, as a process of its own, against the fake service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agent_client
from agent_client.wire.results import ExecutionResult
from tests.agent_client.fake_service import FILE, HANG, KEY, FakeService, b64

Codecell = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(agent_client.__file__).parents[1]


@pytest.fixture
def codecell(fake: FakeService, tmp_path: Path) -> Codecell:
    """Calls the command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODECELL_URL": fake.url, "CODECELL_API_KEY": KEY}

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        env = environment | options.pop("env", {})
        options = {"stdin": subprocess.DEVNULL} | options if "input" not in options else options
        return subprocess.run(
            [sys.executable, "-m", "agent_client", *arguments],
            capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=env, **options,
        )  # fmt: skip

    return run


def test_run(codecell: Codecell, fake: FakeService, tmp_path: Path) -> None:
    """`run` streams output, passes input, files and arguments, and exits as the program did."""
    fake.script = lambda _: [
        ("stdout", {"text": "out\n"}),
        ("stderr", {"text": "err\n"}),
        ("completed", {"outcome": "error", "exit_code": 7}),
    ]
    (tmp_path / "a.js").write_text("f()")
    (tmp_path / "d.csv").write_text("x")
    done = codecell(
        "run",
        "a.js",
        "--file",
        "d.csv=data/d.csv",
        "--memory",
        "64M",
        "--timeout",
        "5",
        "--",
        "-v",
        input="in",
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    (body,) = fake.bodies("/runs")
    assert body["language"] == "javascript"
    assert body["stdin"] == b64(b"in")
    assert body["args"] == ["-v"]
    assert body["files"] == [{"path": "data/d.csv", "content": b64(b"x"), "encoding": "base64"}]
    assert body["limits"] == {"wall_time": 5, "memory_bytes": 64 << 20}


def test_run_from_stdin(codecell: Codecell, fake: FakeService) -> None:
    """With `-` the code is standard input, and the program gets none."""
    done = codecell("run", "-", input="print(1)")
    assert (done.returncode, done.stdout) == (0, "print(1)")
    assert fake.bodies("/runs")[0]["stdin"] == ""


def test_collect_and_json(codecell: Codecell, fake: FakeService, tmp_path: Path) -> None:
    """`--collect` saves files safely below `--out`; `--json` prints the result instead."""
    files = [
        {"path": "a/p.png", "size": 2, "content": b64(b"\xff\xfe"), "encoding": "base64"},
        {"path": "../evil", "size": 1, "content": "x", "encoding": "utf-8"},
    ]
    fake.script = lambda _: [("completed", {"outcome": "timeout", "files": files, "detail": "wall time"})]
    done = codecell("run", "-", "--collect", "**", "--out", "got", input="x")
    assert done.returncode == 124
    assert (tmp_path / "got" / "a" / "p.png").read_bytes() == b"\xff\xfe"
    assert not (tmp_path / "evil").exists()
    assert "'../evil' was not saved" in done.stderr
    assert "timeout: wall time" in done.stderr
    result = json.loads(codecell("run", "-", "--json", input="x").stdout)
    assert result["outcome"] == "timeout"
    assert result["files"][0] == files[0]


def test_run_in_a_session(codecell: Codecell, fake: FakeService, client: Any, tmp_path: Path) -> None:
    """With `--session` the code executes there, and rich results are shown as text."""
    session = client.create_session()
    fake.script = lambda _: [
        (FILE, {"path": "new.txt", "content": b"n"}),
        ("result", {"data": {"text/plain": "42"}}),
        ("error", {"name": "E", "value": "v", "traceback": ["Traceback", "E: v"]}),
        ("completed", {"outcome": "error"}),
    ]
    (tmp_path / "d.csv").write_text("x")
    done = codecell("run", "-", "--session", session.id, "--file", "d.csv", "--collect", "*.txt", input="x")
    assert (done.returncode, done.stdout) == (1, "42\n")
    assert done.stderr.startswith("Traceback\nE: v\n")
    assert fake.files[session.id]["d.csv"] == b"x"
    assert (tmp_path / "new.txt").read_text() == "n"


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ({"error": {"name": "SystemExit", "value": "3"}}, 3),
        ({"error": {"name": "SystemExit", "value": "-1"}}, 255),
        ({"error": {"name": "SystemExit", "value": ""}}, 0),
        ({"error": {"name": "SystemExit", "value": "None"}}, 0),
        ({"error": {"name": "SystemExit", "value": "bad input"}}, 1),
        ({"error": {"name": "ValueError", "value": "3"}, "detail": "exit code 4"}, 1),
        ({"detail": "exit code 3"}, 3),
        ({"detail": "ended by SIGKILL"}, 137),
        ({"detail": "ended by SIGNOTHING"}, 1),
        ({}, 1),
    ],
)
def test_the_status_of_an_execution(ending: dict[str, Any], status: int) -> None:
    """An execution's status is what its `sys.exit` or its shell said, else 1."""
    assert ExecutionResult.parse({"outcome": "error", **ending}).exit_status == status


def test_a_session_exits_as_the_program_did(codecell: Codecell, fake: FakeService, client: Any) -> None:
    """The status of `run --session` is the program's; what cannot apply there is refused."""
    session = client.create_session()
    error = {"name": "SystemExit", "value": "5", "traceback": ["SystemExit: 5"]}
    fake.script = lambda _: [("error", error), ("completed", {"outcome": "error", "error": error})]
    assert codecell("run", "-", "--session", session.id, input="x").returncode == 5
    for more in (["--memory", "64M"], ["--", "a", "b"]):
        done = codecell("run", "-", "--session", session.id, *more, input="x")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("codecell: ")
        assert more[0] in done.stderr
    assert len(fake.bodies("/executions")) == 1


def test_input_in_a_session(codecell: Codecell, fake: FakeService, client: Any, tmp_path: Path) -> None:
    """Lines of standard input answer `input()`; without more of them the code is interrupted."""
    session = client.create_session()
    asks = ("input_request", {"prompt": "name? ", "password": False})
    fake.script = lambda _: [asks, asks, ("completed", {"outcome": "interrupted"})]
    (tmp_path / "p.py").write_text("x")
    done = codecell("run", "p.py", "--session", session.id, input="one\n")
    assert (done.returncode, done.stdout) == (130, "name? name? ")
    assert "more input than there is" in done.stderr
    assert fake.inputs == [("input", {"text": "one"})]
    assert fake.bodies("/executions")[0]["allow_input"] is True
    assert len(fake.bodies("/interrupt")) == 1
    fake.script = lambda _: [("completed", {"outcome": "ok"})]
    assert codecell("run", "p.py", "--session", session.id, "--no-stdin", input="one\n").returncode == 0
    assert fake.bodies("/executions")[-1]["allow_input"] is False


def test_an_unfinished_stream_at_exit(fake: FakeService, tmp_path: Path) -> None:
    """A program that leaves a stream unfinished, or uses the client at its very end, does end."""
    fake.script = lambda _: [("stdout", {"text": "0"}), (HANG, {}), ("completed", {"outcome": "ok"})]
    program = f"""
        from agent_client import ExecutorClient
        client = ExecutorClient({fake.url!r}, {KEY!r})
        session = client.create_session()
        events = session.stream("x")
        print(next(iter(events)), flush=True)
        class Late:
            def __del__(self, session=session):
                session.close()
        late = Late()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, check=False, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == "Started(id='execution1')\n"
    assert "while the interpreter ends" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk(codecell: Codecell, fake: FakeService, tmp_path: Path) -> None:
    """Output that cannot be written ends the command at once, in one line."""
    fake.script = lambda _: [("stdout", {"text": "0"}), (HANG, {}), ("completed", {"outcome": "ok"})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODECELL_URL": fake.url, "CODECELL_API_KEY": KEY}
    (tmp_path / "p.py").write_text("x")
    for arguments in (["run", "p.py"], ["languages"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "agent_client", *arguments],
                stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
                text=True, check=False, timeout=30, cwd=tmp_path, env=environment,
            )  # fmt: skip
        assert done.returncode == 125
        assert done.stderr.startswith("codecell: cannot write: ")
        assert done.stderr.count("\n") == 1


def test_a_key_with_white_space(codecell: Codecell) -> None:
    """A key's last newline does not count; other control characters are refused, the key never shown."""
    assert codecell("languages", env={"CODECELL_API_KEY": f" {KEY}\n"}).returncode == 0
    for key in ("se\ncret", "se\x7fcret", "s\u00e9cret"):
        done = codecell("languages", env={"CODECELL_API_KEY": key})
        assert done.returncode == 125
        assert done.stderr == "codecell: the API key has characters that cannot stand in a header\n"
    assert "wants an API key" in codecell("languages", env={"CODECELL_API_KEY": ""}).stderr
    assert "wants another API key" in codecell("languages", env={"CODECELL_API_KEY": "x"}).stderr


def test_the_address_of_the_api(codecell: Codecell, fake: FakeService) -> None:
    """An address that ends in /v1 means the service's root."""
    assert codecell("languages", env={"CODECELL_URL": f"{fake.url}/v1/"}).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended_by_a_signal(fake: FakeService, tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGHUP end the command in order: its work is stopped."""
    fake.script = lambda _: [("stdout", {"text": "on"}), (HANG, {}), ("completed", {"outcome": "ok"})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODECELL_URL": fake.url, "CODECELL_API_KEY": KEY}
    (tmp_path / "p.py").write_text("x")
    with subprocess.Popen(
        [sys.executable, "-m", "agent_client", "run", "p.py"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=tmp_path, env=environment,
    ) as command:  # fmt: skip
        assert command.stdout is not None
        assert command.stdout.read(2) == b"on"
        command.send_signal(number)
        _, said = command.communicate(timeout=30)
        assert (command.returncode, said) == (128 + number, b"")
    assert fake.left.wait(30)


def test_sessions_and_languages(codecell: Codecell, fake: FakeService, client: Any) -> None:
    """Sessions are listed and closed, languages listed."""
    assert codecell("sessions").stderr == "no sessions\n"
    ids = [client.create_session().id for _ in range(3)]
    assert [line.split()[0] for line in codecell("sessions").stdout.splitlines()] == ids
    assert codecell("sessions", "close").returncode == 2
    codecell("sessions", "close", ids[0])
    assert fake.sessions[ids[0]]["state"] == "closed"
    assert codecell("sessions", "close", "--all").returncode == 0
    assert {s["state"] for s in fake.sessions.values()} == {"closed"}
    assert "python" in codecell("languages").stdout
    assert codecell("version").stdout.startswith("codecell")


def test_failures(codecell: Codecell, tmp_path: Path) -> None:
    """Failures that are not the program's are one line and a status of their own."""
    (tmp_path / "x.py").write_text("x")
    for arguments, status, says in (
        (["run", "x.py", "--key", "wrong"], 125, "CODECELL_API_KEY"),
        (["run", "x.py", "--url", "http://127.0.0.1:9"], 125, "codecell-executor serve"),
        (["run", "nothing.py"], 2, "nothing.py"),
        (["run", "x.py", "--memory", "much"], 2, "no size"),
        (["chat", "task"], 2, "OPENAI_API_KEY"),
        (["run", "x.py", "--session", "nope"], 125, "session"),
    ):
        done = codecell(*arguments)
        assert done.returncode == status, done
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_what_cannot_be_used(codecell: Codecell, tmp_path: Path) -> None:
    """What the command line asks for and cannot be had is one line, and status 2."""
    (tmp_path / "afile").write_text("x")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    for arguments, says in (
        (["demo", "--out", "afile"], "choose another directory with --out"),
        (["demo", "--out", "afile/below"], "choose another directory with --out"),
        (["chat", "hi", "--work-dir", "afile"], "--work-dir"),
        (["chat", "hi", "--max-turns", "0"], "--max-turns"),
        (["run", "image.png"], "image.png"),
    ):
        done = codecell(*arguments, env={"OPENAI_API_KEY": "none"})
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("codecell: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_import_is_light() -> None:
    """`import agent_client` loads neither openai nor the HTTP client."""
    program = "import sys, agent_client; print({'openai', 'httpx2', 'pydantic'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "set()\n"


def test_everything_public_is_there() -> None:
    """Each public name can be imported from the package."""
    for name in agent_client.__all__:
        assert getattr(agent_client, name) is not None
    assert set(agent_client.__all__) <= set(dir(agent_client))
    with pytest.raises(AttributeError):
        agent_client.nothing  # noqa: B018
