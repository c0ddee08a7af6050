"""Every program in examples/ is run as it stands: against a scripted endpoint, with real sandboxes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import RealService

from tests.agent_client.model_endpoint import model_endpoint

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@dataclass(frozen=True, kw_only=True)
class Example:
    """What its models say, what it must print (in this order), and the files that it leaves."""

    says: Sequence[str] = ()
    prints: Sequence[str] = ()
    leaves: Sequence[str] = ()


DRAW = (
    "```python\nimport matplotlib.pyplot as plt\nplt.plot([0, 1, 0])\nplt.savefig('{name}')\n```",
    "Saved as {name}. TERMINATE",
)
WHAT_IT_DOES: Mapping[str, Example] = {
    "two_agents.py": Example(
        says=[text.replace("{name}", "sine.png") for text in DRAW],
        prints=[
            "exitcode: 0 (execution succeeded)",
            "\nSaved as sine.png.\nended because of termination message: from assistant\n",
        ],
        leaves=["coding/sine.png"],
    ),
    "two_agents_autogen02.py": Example(
        says=[
            "```python\nprint(days)\n```",
            "```python\ndays = 10 * 10\nprint(days, 'days')\n```",
            "100 days, 14 Sundays.\nTERMINATE",
        ],
        prints=[
            "exitcode: 1 (execution failed)",
            "[user_proxy] 100 days\n",
            "exitcode: 0 (execution succeeded)",
            "\nSummary: 100 days, 14 Sundays.\nCost: 0.0\n",
        ],
        leaves=["coding"],
    ),
    "plot_autogen02.py": Example(
        says=[text.replace("{name}", "oscillation.png") for text in DRAW],
        prints=["\nMade: oscillation.png image/png\n", "\nEnded: termination message: from artist\n"],
        leaves=["coding/oscillation.png"],
    ),
    "team_autogen04.py": Example(
        says=["Sieve, then add.", "```python\nprint(2 + 3 + 5)\n```", "That is 10. APPROVE"],
        prints=[
            "[runner] 10\n",
            "\nMessages: ['user', 'planner', 'coder', 'runner', 'reviewer']\n",
            "\nEnded: text_mention: 'APPROVE' was said by reviewer\n",
        ],
    ),
    "use_the_service.py": Example(
        prints=["ok 45\n", "4", "Stdout(text='0\\n'", "Stdout(text='2\\n'", "data.csv\n"]
    ),
}


@pytest.fixture(scope="module")
def url(python_image: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service of our own."""
    service = RealService(tmp_path_factory.mktemp("service") / "state", "--warm", "2")
    yield service.url
    assert service.stop() == 0


def run(name: str, directory: Path, **more: str) -> str:
    """What an example prints; it must ask its models exactly as often as they have something to say."""
    example = WHAT_IT_DOES[name]
    with model_endpoint(*example.says) as models:
        entry = {"model": "some-model", "base_url": models.url, "api_key": "none"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CODECELL_")}
        env = kept | {
            "PYTHONPATH": str(ROOT),
            "OPENAI_BASE_URL": models.url,
            "OPENAI_API_KEY": "none",
            "OAI_CONFIG_LIST": json.dumps([entry]),
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
            cwd=directory,
            env=env | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not models.replies
        assert len(models.asked) == len(example.says)
    return done.stdout


def check(name: str, printed: str, directory: Path) -> None:
    """It printed what it must, in order, and left its files."""
    at = 0
    for text in WHAT_IT_DOES[name].prints:
        found = printed.find(text, at)
        assert found >= 0, f"{text!r} is not there (or too early) in:\n{printed}"
        at = found + len(text.rstrip("\n"))
    for path in WHAT_IT_DOES[name].leaves:
        assert (directory / path).exists(), path


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(name: str, url: str, tmp_path: Path) -> None:
    """It runs to its end against a service that is there, and prints what it promises."""
    check(name, run(name, tmp_path, CODECELL_URL=url), tmp_path)


def test_an_example_without_a_service(python_image: object, tmp_path: Path) -> None:
    """Where no service runs and none is named, one is started for it."""
    check("plot_autogen02.py", run("plot_autogen02.py", tmp_path), tmp_path)


def test_every_example_is_known() -> None:
    """A new example says here what it does."""
    assert set(WHAT_IT_DOES) == set(EXAMPLES)
