"""The process: it says when it listens, drains at the first signal, and gives way at the second."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from executor_service import cli, keys, state_dir
from executor_service.limits import Limits
from executor_service.options import check_address, environment_keys
from executor_service.settings import Settings, SettingsError, parse_limits

PROGRAM = """
import asyncio, contextlib, sys
from fastapi import FastAPI
from executor_service.server import bind, serve

class Service:
    async def drain(self, grace):
        print("draining", flush=True)
        await asyncio.sleep(float(sys.argv[1]))

@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.service = Service()
    yield
    print("closed", flush=True)

sys.exit(serve(lambda: FastAPI(lifespan=lifespan), bind("127.0.0.1", 0), grace=float(sys.argv[1])))
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A server whose draining takes as many seconds as the test's parameter says."""
    argv = [sys.executable, "-c", PROGRAM, str(request.param)]
    root = str(Path(cli.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) as found:
        assert found.stdout is not None
        line = found.stdout.readline()
        assert line.startswith("Listening on http://127.0.0.1:")
        yield found
        found.kill()


@pytest.mark.parametrize("process", [0], indirect=True)
def test_a_signal_ends_it_cleanly(process: subprocess.Popen[str]) -> None:
    """SIGTERM drains, closes what the lifespan opened, and exits 0."""
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output.split() == ["draining", "closed"]
    assert process.returncode == 0


@pytest.mark.parametrize("process", [300], indirect=True)
def test_a_second_signal_forces(process: subprocess.Popen[str]) -> None:
    """Whoever asks twice does not wait for the grace."""
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1


async def test_running_work_is_answered(running_with: Any) -> None:
    """What still runs at the end of the grace is interrupted and answered, not cut off."""
    running = running_with(grace=0.2)
    async with running.serving(), httpx2.AsyncClient(base_url=running.url, timeout=30) as client:
        body = {"language": "python", "code": "hang"}
        asking = asyncio.create_task(client.post("/v1/runs", json=body))
        await asyncio.wait_for(running.stage.started.wait(), 20)
        running.server.stop()
        answer = await asking
    assert answer.json()["outcome"] == "interrupted"
    assert running.sessions.drained


def test_instance_and_lock(tmp_path: Path) -> None:
    """A state directory keeps its id, is for its owner alone, and takes one service."""
    home = state_dir.prepare(tmp_path / "a" / "b")
    assert home.stat().st_mode & 0o777 == 0o700
    assert state_dir.instance_id(home) == state_dir.instance_id(home)
    with state_dir.locked(home):
        second = state_dir.locked(home)
        with pytest.raises(state_dir.StateDirError, match=f"process {os.getpid()}"):
            second.__enter__()
    with state_dir.locked(home):
        pass


def test_default_state_dir(tmp_path: Path) -> None:
    """An ordinary user's state lies where XDG says."""
    if os.geteuid() != 0:
        assert state_dir.default({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "codecell"
        assert state_dir.default({"HOME": str(tmp_path)}) == tmp_path / ".local/state/codecell"
    else:
        assert state_dir.default({}) == state_dir.SYSTEM


def test_keys_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key is made and shown once, listed without itself, and removed."""
    where = ["--state-dir", str(tmp_path)]
    assert cli.main(["keys", "add", "alice", *where], {}) == 0
    key = capsys.readouterr().out.strip()
    ring = keys.KeyRing(files=[tmp_path / "keys"])
    found = ring.find(key.encode())
    assert found is not None
    assert cli.main(["keys", "add", "alice", *where], {}) == 1
    assert cli.main(["keys", "list", *where], {}) == 0
    listed = capsys.readouterr().out
    assert listed == f"alice\t{found.id}\n"
    assert key not in (tmp_path / "keys").read_text()
    assert cli.main(["keys", "remove", "alice", *where], {}) == 0
    assert cli.main(["keys", "remove", "alice", *where], {}) == 1
    assert "there is no key alice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "environ", "status", "said"),
    [
        (["serve", "--host", "0.0.0.0"], {}, 2, "without a key the service listens on loopback only"),
        (["serve", "--api-key-file", "/nonexistent/k"], {}, 1, "there is no such key file"),
        (["serve", "--image", "nope"], {}, 2, "there is no image 'nope'"),
        (["serve", "--limit", "wall_time"], {}, 2, "NAME=VALUE"),
        (["serve", "--limit", "wall_time=700"], {}, 2, "over its ceiling"),
        (["serve", "--max-limit", "wall_tiem=700"], {}, 2, "no such limit"),
        (["serve"], {"CODECELL_PUBLIC_DOCS": "maybe"}, 2, "CODECELL_PUBLIC_DOCS"),
        (["serve"], {"CODECELL_API_KEY": "a b c"}, 1, "expected KEY or NAME KEY"),
        (["images", "build", "nope"], {}, 2, "there is no image 'nope'"),
    ],
)
def test_clear_complaints(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    environ: dict[str, str],
    status: int,
    said: str,
) -> None:
    """What was asked wrongly is one line that says what."""
    assert cli.main(argv, {"CODECELL_STATE_DIR": str(tmp_path), **environ}) == status
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "a b c" not in error


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The complaint says how to have another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        argv = ["serve", "--port", str(taken.getsockname()[1])]
        assert cli.main(argv, {"CODECELL_STATE_DIR": str(tmp_path)}) == 1
    assert capsys.readouterr().err.endswith("Address already in use; choose another with --port\n")


@pytest.mark.parametrize(
    "argv", [[], ["serve", "--port", "x"], ["serve", "--port", "70000"], ["keys"], ["nope"]]
)
def test_usage(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors exit with 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv, {"CODECELL_STATE_DIR": str(tmp_path)})
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_environment_keys() -> None:
    """Keys come from the environment too, and are shown nowhere."""
    found = environment_keys({"CODECELL_API_KEY": "one", "CODECELL_API_KEYS": "two, bob three"})
    assert [each.name for each in found] == ["", "", "bob"]
    settings = Settings(state_dir=Path("/nowhere"), keys=found)
    assert "bob" not in repr(settings)
    check_address("0.0.0.0", keys.KeyRing(found))
    with pytest.raises(SettingsError):
        check_address("192.0.2.1", keys.KeyRing())


def test_limits_from_text() -> None:
    """Limits are numbers of their own kind."""
    found = parse_limits({"wall_time": "5", "memory_bytes": "1e9"}, base=Limits(), what="x")
    assert (found.wall_time, found.memory_bytes, found.processes) == (5.0, 10**9, 128)
    for text in ("0", "-1", "nan", "inf", "x", "1e400"):
        with pytest.raises(SettingsError):
            parse_limits({"memory_bytes": text}, base=Limits(), what="x")
