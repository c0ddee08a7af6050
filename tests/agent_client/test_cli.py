"""The command line, as a process of its own, against the fake service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agent_client
from tests.agent_client.fake_service import FILE, KEY, FakeService, b64

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


def test_sessions_and_languages(codecell: Codecell, fake: FakeService, client: Any) -> None:
    """Sessions are listed and closed, languages listed."""
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
