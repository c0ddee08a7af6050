"""The guide's examples are run as a reader would: programs and shell commands as processes of their own,
with the real `openai` package against a scripted endpoint, and code in a real service's sandboxes.

In a section, `python` blocks make one program, in order; a block whose first line is `# NAME.py` is a program
of that name, `# NAME.toml` a team file. `sh` blocks are run by bash. What is claimed is checked:

- `print(...)  # words`: these words are a line of the output (with ` ...` at the end: how one begins);
- a `text` block: its lines are lines of what was run before it in the section, in that order;
- `# status N` at the end of a `sh` block: it exits so.

What models say, which readers need not see, stands in `SCRIPTS`, by section.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent_client.executors import RemoteCodeExecutor
from agent_client.team_file import build_team, read_team_file
from agent_client.usage import UsageLimits
from tests.agent_client.model_endpoint import HANGS, Says, Scripted, Status, model_endpoint

ROOT = Path(__file__).resolve().parent.parent
GUIDE, README = "docs/agents.md", "README.md"
DEADLINE = 120.0
CLAIM = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
NAME = re.compile(r"# (\w+\.(?:py|toml))\n")
STATUS = re.compile(r"  # status (\d+)\n\Z")

RAIN, SNOW = "Rain writes on glass.", "Snow says nothing."
PRIMES = """\
```python
primes = [n for n in range(2, 1000) if all(n % d for d in range(2, n))]
open("primes.txt", "w").write(" ".join(map(str, primes)))
print(len(primes))
```"""
COUNT = "```sh\nwc -l data.csv\n```"
SCRIPTS: dict[str, Sequence[Scripted]] = {
    "Two agents": [PRIMES, "There are 168 primes below 1000.\n\nTERMINATE", "25. TERMINATE"],
    "Models": [RAIN, "Good."],
    "Lists of models": ["Rain."],
    "Images": ["Red."],
    "Where code runs": ["```python\nn = 2\n```\n\n```python\nprint(n, 'rows')\n```", "2 rows. TERMINATE"],
    "Asking a human": ["For how many?", "Booked. Anything else?"],
    "A question that waits": ["For how many?", "Booked."],
    "Tools": [Says(calls=[("weather", '{"city": "Oslo"}')]), "Yes, it rains in Oslo."],
    "One agent calls, another runs": [Says(calls=[("multiply", '{"a": 6, "b": 7}')]), "42. TERMINATE"],
    "Running code as a tool": [
        Says(calls=[("execute_code", '{"code": "print(2 ** 100)"}')]),
        "1267650600228229401496703205376",
    ],
    "Several chats": ["It falls.", RAIN, "It is wet.", "It is wet.", "Yes.", SNOW, "Good."],
    "Group chats": ["engineer", "I built it.", "tester", "It holds. TERMINATE", "Built.", "It holds."],
    "Teams": [
        *("```python\nprint(6 * 7)\n```", "42. TERMINATE"),
        *("writer", RAIN, "critic", "APPROVE"),
        Says(calls=[("transfer_to_user", "{}")]),
        Says(calls=[("transfer_to_refunds", "{}")]),
        "Refunded. TERMINATE",
    ],
    "When a run ends": ["Thank you!", "You are welcome!", "1", "2", "3"],
    "Conditions": ["Once upon a time there was", "an end."],
    "Watching": [RAIN, SNOW],
    "Transcripts": ["Hail knocks."],
    "Saving and going on": [
        *("```python\nx = 41\n```", "x is 41. TERMINATE"),
        *("```python\nprint(x + 1)\n```", "42. TERMINATE"),
    ],
    "Cancelling": [HANGS, HANGS],
    "Errors": [Status(status=401, message="no such key")],
    "codecell chat": [COUNT, "It has 5 lines. TERMINATE", "For how many?", "Booked."],
    "A team in a file": [
        *("coder", Says(calls=[("execute_code", '{"code": "print(541)"}')]), "It is 541."),
        *("critic", "APPROVE"),
    ],
    "Agents in ten lines": ["```python\nopen('sine.png', 'wb').write(b'x')\n```", "Done. TERMINATE"],
}


@dataclass(kw_only=True)
class Section:
    """A section of a document and its blocks: what each is, and its text."""

    document: str
    title: str
    blocks: list[tuple[str, str]] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return any(kind in ("python", "sh", "toml") for kind, _ in self.blocks)


def sections(document: str) -> list[Section]:
    """The sections that have blocks, by their headings of any level."""
    found = [Section(document=document, title="")]
    block: list[str] | None = None
    for line in (ROOT / document).read_text("utf-8").splitlines():
        if line.startswith("```") and block is None:
            found[-1].blocks.append((line[3:].strip(), ""))
            block = []
        elif line.startswith("```") and block is not None:
            found[-1].blocks[-1] = (found[-1].blocks[-1][0], "\n".join(block) + "\n")
            block = None
        elif block is not None:
            block.append(line)
        elif heading := re.match(r"#+ (.+)", line):
            found.append(Section(document=document, title=heading[1]))
    assert block is None, "a block is not closed"
    return [section for section in found if section.blocks]


TO_RUN = [
    *(section for section in sections(GUIDE) if section.runs),
    *(section for section in sections(README) if section.title == "Agents in ten lines"),
]


def test_every_block_of_the_guide_is_run_or_says_that_it_is_text() -> None:
    """No block is left out silently, and no script is left over."""
    kinds = {kind for section in sections(GUIDE) for kind, _ in section.blocks}
    assert kinds <= {"python", "sh", "toml", "text"}
    titles = [section.title for section in TO_RUN]
    assert len(titles) == len(set(titles))
    assert set(SCRIPTS) <= set(titles)


@pytest.mark.parametrize("backend_name", ["local"], indirect=True)
@pytest.mark.parametrize("section", TO_RUN, ids=lambda section: section.title)
def test_the_examples_run(
    section: Section, service: tuple[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each program of a section ends well, without a warning, and what is claimed of it is so."""
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    with model_endpoint(*SCRIPTS.get(section.title, ())) as endpoint:
        endpoint.script = lambda _: Status(status=400, message="this section's script has no further reply")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CODECELL_")}
        environment |= {"CODECELL_URL": service[0], "OPENAI_BASE_URL": endpoint.url}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        said = ""
        for kind, text in programs(section):
            if kind == "text":
                lines = iter(said.splitlines())
                assert [line for line in text.splitlines() if line not in lines] == [], said
                continue
            name, command = written(kind, text, tmp_path)
            if kind == "toml":
                declared(tmp_path / name)
                continue
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=False,
            )
            status = STATUS.search(text)
            assert done.returncode == int(status[1] if status else 0), done.stdout + done.stderr
            assert done.stderr == "" or status, done.stderr
            said = done.stdout
            assert [claim for claim in CLAIM.findall(text) if not holds(claim, said)] == [], said
        assert endpoint.replies == []


def programs(section: Section) -> list[tuple[str, str]]:
    """The blocks, those of one program joined where the last of them stands."""
    parts = [text for kind, text in section.blocks if kind == "python" and not NAME.match(text)]
    joined = [block for block in section.blocks if block[1] not in parts[:-1]]
    return [(kind, "\n".join(parts) if text in parts else text) for kind, text in joined]


def written(kind: str, text: str, directory: Path) -> tuple[str, list[str]]:
    """The name of the file that a block was written to, and the command that runs it."""
    named = NAME.match(text)
    name = named[1] if named else {"python": "program.py", "sh": "commands.sh", "toml": "team.toml"}[kind]
    (directory / name).write_text(text)
    return name, [sys.executable, name] if kind == "python" else ["bash", "-euo", "pipefail", name]


def declared(path: Path) -> None:
    """A team file can be read, and a team made of it."""
    build_team(
        read_team_file(path),
        executor=RemoteCodeExecutor(),
        default_model="m",
        human=False,
        max_turns=None,
        usage_limits=UsageLimits(),
    )


def holds(claim: str, said: str) -> bool:
    """Whether a line of what was said is so, or begins so."""
    begins = claim.removesuffix(" ...")
    lines = said.splitlines()
    return any(line.startswith(begins) for line in lines) if begins != claim else claim in lines
