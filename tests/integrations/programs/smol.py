"""smolagents: its CodeAgent with a scripted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from smolagents import CodeAgent, Model, Tool
from smolagents.local_python_executor import InterpreterError
from smolagents.models import ChatMessage, MessageRole
from smolagents.monitoring import TokenUsage

from agent_client.integrations.smolagents import CodecellExecutor


class Scripted(Model):
    """Says what it was given, and keeps what it was told."""

    def __init__(self, *replies: str) -> None:
        super().__init__(model_id="scripted")
        self.replies = list(replies)
        self.told: list[str] = []

    def generate(self, messages: list[ChatMessage], **_: Any) -> ChatMessage:
        self.told.append("\n".join(str(part.get("text")) for part in messages[-1].content))
        text = f"Thought: go on.\n<code>\n{self.replies.pop(0)}\n</code>"
        return ChatMessage(role=MessageRole.ASSISTANT, content=text, token_usage=TokenUsage(1, 1))


class Doubler(Tool):
    name = "double"
    description = "Doubles a number."
    inputs = {"number": {"type": "integer", "description": "Any."}}  # noqa: RUF012 - as smolagents wants it
    output_type = "integer"

    def forward(self, number: int) -> int:
        return number * 2


def agent_of(model: Scripted, executor: CodecellExecutor, *tools: Tool) -> CodeAgent:
    """An agent that says little."""
    return CodeAgent(tools=list(tools), model=model, executor=executor, verbosity_level=0, max_steps=6)


def case_an_agent_with_a_tool_and_variables_finds_its_answer(here: Path) -> None:
    """Failures come back to the model, state stays, a tool and a variable are there, the answer is typed."""
    model = Scripted(
        "print(undefined)",
        "y = double(n)\nopen('out.txt', 'w').write(str(y))\nprint('printed')\ny + 1",
        "final_answer({'y': y, 'pair': (1, 2)})",
    )
    executor = CodecellExecutor(work_dir=here / "work")
    with agent_of(model, executor, Doubler()) as agent:
        assert agent.run("Task", additional_args={"n": 21}) == {"y": 42, "pair": (1, 2)}
        assert "NameError" in model.told[1], model.told
        assert "printed" in model.told[2]
        assert "Last output from code snippet:\n43" in model.told[2], model.told
        assert [a.name for a in executor.artifacts] == ["out.txt"]
    assert (here / "work" / "out.txt").read_text() == "42"


def case_an_agent_runs_twice(here: Path) -> None:
    """A second task finds its tools, and `final_answer` still ends it."""
    model = Scripted("a = 1\nfinal_answer('first')", "final_answer(f'second {double(a)}')")
    with agent_of(model, CodecellExecutor(), Doubler()) as agent:
        assert agent.run("Task") == "first"
        assert agent.run("Task", additional_args={"b": 1}) == "second 2"


def case_a_large_answer_comes_out_whole(here: Path) -> None:
    """Two megabytes, from a directory that is not where the code began."""
    code = "import os, tempfile\nos.chdir(tempfile.mkdtemp())\nfinal_answer('x' * 2_000_000)"
    with agent_of(Scripted(code), CodecellExecutor()) as agent:
        assert agent.run("Task") == "x" * 2_000_000


def case_what_cannot_be_sent_is_an_error_the_model_sees(here: Path) -> None:
    """An answer of a type that the serializer does not know is no answer."""
    model = Scripted("class Odd: pass\nfinal_answer(Odd())", "final_answer('then so')")
    with agent_of(model, CodecellExecutor()) as agent:
        assert agent.run("Task") == "then so"
        assert "Cannot safely serialize" in model.told[1], model.told[1]


def case_a_hostile_answer_is_not_unpickled(here: Path) -> None:
    """Code that writes the answer's file itself gets an error, and nothing of it runs out here."""
    payload = f"c__builtin__\\nopen\\n(V{here}/planted\\nVw\\ntR."
    code = (
        "import base64\n"
        f"data = base64.b64encode(b'{payload}').decode()\n"
        "open('.codecell-final-answer.json', 'w').write(prefix + data)\n"
        "class FinalAnswerException(BaseException): pass\n"
        "raise FinalAnswerException"
    )
    model = Scripted(f"prefix = 'pickle:'\n{code}", f"prefix = ''\n{code}", "final_answer('end')")
    with agent_of(model, CodecellExecutor()) as agent:
        assert agent.run("Task") == "end"
        assert "ickle" in model.told[1], model.told
        assert "ickle" in model.told[2], model.told
    assert not (here / "planted").exists()


def case_managed_agents_are_refused(here: Path) -> None:
    """They cannot run in a sandbox; the error says so."""
    executor = CodecellExecutor()
    agents = {"helper": agent_of(Scripted(), executor)}
    assert "helper" in harness.error_of(ValueError, lambda: executor.send_tools(agents))


def case_timeouts_noise_and_lost_state(here: Path) -> None:
    """Each is an observation; the tools are there again in a session or kernel that is new."""
    model = Scripted(
        "print('before', flush=True)\nwhile True:\n    pass",
        harness.NOISE,
        "import os\nos._exit(1)",
        "final_answer(double(21))",
    )
    with agent_of(model, CodecellExecutor(timeout=2), Doubler()) as agent:
        assert agent.run("Task") == 42
        assert "before" in model.told[1]
        assert "imeout" in model.told[1], model.told[1]
        assert len(model.told[2]) < 25_000


def case_a_session_that_went_away(here: Path) -> None:
    """The step says so, and the next has its tools and variables again."""

    class Closing(Scripted):
        def generate(self, messages: list[ChatMessage], **options: Any) -> ChatMessage:
            if len(self.replies) == 2:
                with harness.ExecutorClient() as client:
                    client.close_session(harness.sessions()[0])
            return super().generate(messages, **options)

    model = Closing("a = 1", "final_answer(n)", "final_answer(double(n))")
    with agent_of(model, CodecellExecutor(), Doubler()) as agent:
        assert agent.run("Task", additional_args={"n": 21}) == 42
        assert "without its variables" in model.told[2], model.told[2]


def case_ctrl_c_stops_the_code_at_once(here: Path) -> None:
    """The call raises, the code is dead, and its session works on with its state."""
    with CodecellExecutor(timeout=300) as executor, harness.at_once():
        with harness.when_begun(harness.press_ctrl_c):
            harness.error_of(KeyboardInterrupt, lambda: executor(harness.FOREVER))
        assert executor("x + 1").output == "42"
        assert "ZeroDivisionError" in harness.error_of(InterpreterError, lambda: executor("1/0"))


def case_the_guide(here: Path) -> None:
    """What the page shows works as it is written."""
    model = Scripted(f"{harness.MADE}\nfinal_answer(42)")
    assert "42" in harness.guide("smolagents", model=model)
    assert (here / "coding" / "out.txt").read_text() == "made"


if __name__ == "__main__":
    harness.main(dict(globals()))
