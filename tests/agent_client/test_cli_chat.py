"""`codecell chat`, as a process of its own, against the fake service and a scripted model endpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agent_client
from agent_client.team_file import WrongTeamFile, parse_team, read_team_file
from tests.agent_client.fake_service import HANG, KEY, FakeService
from tests.agent_client.model_endpoint import HANGS, ModelEndpoint, Says, model_endpoint

ROOT = Path(agent_client.__file__).parents[1]
CODE = "```python\nprint(1)\n```"
Start = Callable[..., "subprocess.Popen[str]"]
Chat = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def endpoint() -> Iterator[ModelEndpoint]:
    """A scripted model endpoint."""
    with model_endpoint() as running:
        yield running


@pytest.fixture
def start(fake: FakeService, endpoint: ModelEndpoint, tmp_path: Path) -> Start:
    """Starts `codecell chat` in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CODECELL_URL": fake.url,
        "CODECELL_API_KEY": KEY,
        "OPENAI_BASE_URL": endpoint.url,
        "OPENAI_API_KEY": "k",
        "PYTHONUNBUFFERED": "1",
    }

    def run(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "agent_client", "chat", *arguments],
            text=True,
            cwd=tmp_path,
            env=environment | (env or {}),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    return run


@pytest.fixture
def chat(start: Start) -> Chat:
    """Runs `codecell chat` to its end."""

    def run(*arguments: str, input: str | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        given = {"stdin": subprocess.PIPE} if input is not None else {}
        process = start(*arguments, **given, **options)
        out, err = process.communicate(input, timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


def test_a_task(chat: Chat, endpoint: ModelEndpoint, fake: FakeService, tmp_path: Path) -> None:
    """The assistant writes, the code runs, its output is printed, and the end says why, with what it cost."""
    endpoint.replies = [CODE, "It is 1. TERMINATE"]
    done = chat("Print 1", "--transcript", "out.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert "EXECUTING CODE BLOCK" in done.stdout
    assert "exitcode: 0 (execution succeeded)" in done.stdout
    assert "2 model calls" in done.stdout.splitlines()[-1]
    assert [s["state"] for s in fake.sessions.values()] == ["closed"]
    events = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events][-1] == "ended"


def test_bounds(chat: Chat, endpoint: ModelEndpoint) -> None:
    """A run that a bound ended exits with 1; a bound that cannot be is refused."""
    endpoint.replies = [CODE, CODE, CODE]
    done = chat("x", "--max-turns", "2")
    assert (done.returncode, "max_turns" in done.stdout) == (1, True)
    endpoint.replies = [CODE, CODE, CODE]
    done = chat("x", "--budget", "2r")
    assert (done.returncode, "2 model calls" in done.stdout) == (1, True)
    for wrong, said in (("much", "neither money"), ("0t", "neither money"), ("0.5", "no price is known")):
        done = chat("x", "--budget", wrong, "--model", "nobodys-model")
        assert done.returncode == 2
        assert said in done.stderr


def test_a_declared_team(chat: Chat, endpoint: ModelEndpoint, tmp_path: Path) -> None:
    """A TOML file declares agents, models and how they take turns."""
    (tmp_path / "team.toml").write_text(
        """
        [models.default]
        model = "m-small"
        options = { temperature = 0 }

        [[agents]]
        name = "writer"
        system_message = "You write."
        tools = ["execute_code"]

        [[agents]]
        name = "critic"
        system_message = "You judge."

        [team]
        stop_words = ["APPROVE"]
        max_turns = 6
        """
    )
    endpoint.replies = [
        Says(calls=[("execute_code", '{"code": "print(1)"}')]),
        "A draft.",
        "APPROVE",
    ]
    done = chat("Write", "--agents", "team.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "text_mention" in done.stdout
    assert endpoint.asked[0]["model"] == "m-small"
    assert endpoint.asked[0]["temperature"] == 0
    assert endpoint.asked[0]["messages"][0]["content"] == "You write."


def test_a_human_at_the_keyboard(chat: Chat, endpoint: ModelEndpoint) -> None:
    """With `--human` the user is asked when there is no code to run; exit ends it."""
    endpoint.replies = ["What is it?", "I see. TERMINATE"]
    done = chat("Guess", "--human", input="an apple\nexit\n")
    assert done.returncode == 0
    assert endpoint.asked[1]["messages"][-1]["content"] == "an apple"


def test_a_question_waits_for_another_process(chat: Chat, endpoint: ModelEndpoint, tmp_path: Path) -> None:
    """Without a keyboard the question is saved with the conversation, and answered later."""
    endpoint.replies = [CODE, "Shall I go on?"]
    asked = chat("Do it", "--human", "--save", "kept.json", "--work-dir", "w")
    assert asked.returncode == 3
    assert "user_proxy asks" in asked.stderr
    assert (tmp_path / "kept.json").stat().st_mode & 0o777 == 0o600
    endpoint.replies = ["Done. TERMINATE"]
    done = chat("--resume", "kept.json", "--answer", "yes", "--save", "kept.json")
    assert (done.returncode, "asks" in done.stderr) == (3, True)  # whether that was all
    assert [m["content"] for m in endpoint.asked[-1]["messages"][1:]] == [
        *("Do it", CODE, "exitcode: 0 (execution succeeded)\nCode output: print(1)\n"),
        *("Shall I go on?", "yes"),
    ]
    ended = chat("--resume", "kept.json", "--answer", "")
    assert (ended.returncode, "termination message" in ended.stdout) == (0, True)
    endpoint.replies = ["More. TERMINATE"]
    assert chat("A new task", "--resume", "kept.json", input="exit\n").returncode == 0
    assert len(endpoint.asked[-1]["messages"]) == 8


@pytest.mark.parametrize("phase", ["model", "code", "human"])
def test_ctrl_c(phase: str, start: Start, endpoint: ModelEndpoint, fake: FakeService, tmp_path: Path) -> None:
    """Ctrl-C stops whatever goes on: the session is closed, the transcript and the conversation are saved."""
    endpoint.replies = {"model": [HANGS], "code": [CODE], "human": ["Shall I?"]}[phase]
    fake.script = lambda _: [("stdout", {"text": "running\n"}), (HANG, {})]
    more = ["--human"] if phase == "human" else []
    process = start("Task", "--transcript", "t.html", *more, stdin=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    wanted = {"model": "Task", "code": "running", "human": "Enter your response"}[phase]
    seen = ""
    while wanted not in seen:
        piece = process.stdout.read(1)
        assert piece, seen
        seen += piece
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert all(s["state"] == "closed" for s in fake.sessions.values())
    assert "Task" in (tmp_path / "t.html").read_text()


def test_a_failing_model_is_one_line(chat: Chat, endpoint: ModelEndpoint) -> None:
    """A model that cannot be reached is an error of one line, and nothing is left behind."""
    done = chat("x", env={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "OPENAI_BASE_URL" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what the task is"),
        (["x", "--answer", "y"], "--resume"),
        (["--resume", "none.json"], "none.json"),
        (["x", "--agents", "none.toml"], "none.toml"),
        (["x", "--transcript", "a.docx"], ".html"),
        ([" "], "empty"),
    ],
)
def test_wrong_use_is_told_before_anything_runs(
    chat: Chat, fake: FakeService, arguments: list[str], said: str
) -> None:
    """A command line that cannot be followed is one line and status 2."""
    done = chat(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert fake.sessions == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x =", "Invalid"),
        ("", "agents"),
        ("[[agents]]\nname = 'a'\ncolour = 'red'", "agents.0.colour"),
        ("[[agents]]\nname = 'a'\nkind = 'poet'", "agents.0.kind"),
        ("[[agents]]\nname = 'a'\n[[agents]]\nname = 'a'", "declared twice"),
        ("[[agents]]\nname = 'a'\nhandoffs = ['b']", "'b'"),
    ],
)
def test_a_wrong_team_file_says_where(text: str, said: str, tmp_path: Path) -> None:
    """What is wrong in a team file is told with its place and what is right."""
    (tmp_path / "team.toml").write_text(text)
    with pytest.raises(WrongTeamFile, match=said):
        read_team_file(tmp_path / "team.toml")
    with pytest.raises(WrongTeamFile):
        parse_team({"agents": []}, "here")
