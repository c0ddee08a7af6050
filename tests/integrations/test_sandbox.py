"""What the adapters share, with a fake executor behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from agent_client.code_blocks import CodeBlock
from agent_client.errors import (
    BackendUnavailable,
    CodecellError,
    SandboxFailed,
    ServiceUnreachable,
)
from agent_client.executors import CodeResult
from agent_client.integrations._sandbox import HasSandbox, Sandbox, own_block
from agent_client.messages import Artifact


@dataclass
class Foreign:
    """A block of another framework."""

    code: str
    language: str


class Fake:
    """An executor that fails as told, then says what it ran."""

    def __init__(self, *failures: CodecellError, artifacts: Sequence[Artifact] = ()) -> None:
        self.failures = list(failures)
        self.artifacts = artifacts
        self.closed = 0

    async def execute_code_blocks(
        self, blocks: Sequence[CodeBlock], on_progress: Callable[..., None] | None = None
    ) -> CodeResult:
        if self.failures:
            raise self.failures.pop(0)
        return CodeResult(exit_code=0, output="".join(b.code for b in blocks), artifacts=self.artifacts)

    async def run_ended(self) -> None:
        self.closed += 1

    async def close(self) -> None:
        self.closed += 1


BLOCK = [CodeBlock(code="x", language="python")]


@pytest.mark.parametrize(
    ("code", "language", "expected"),
    [
        ("x", "Python", "python"),
        ("x", " bash ", "sh"),
        ("x", "c++", "cpp"),
        ("print(1)", "", "python"),
        ("ls -l", "", "sh"),
        ("some words", "", "text"),
        ("x", "no such/../language", "text"),
        ("x", "y" * 100, "text"),
    ],
)
def test_a_foreign_block_becomes_ours(code: str, language: str, expected: str) -> None:
    """One word, lower case, by its usual name; what can be none of a language's names is not sent."""
    assert own_block(Foreign(code, language)).language == expected


def test_a_block_may_name_its_file() -> None:
    """As in Markdown."""
    assert own_block(Foreign("# filename: a/b.py\nx", "python")).filename == "a/b.py"


async def test_a_fault_of_the_service_is_a_reply() -> None:
    """The agent may go on; the next call works."""
    fault = SandboxFailed("cut off", status=500, code="sandbox_failed")
    sandbox = Sandbox(Fake(fault))
    result = await sandbox.execute_code_blocks(BLOCK)
    assert result.exit_code == 1
    assert "cut off" in result.output
    assert (await sandbox.execute_code_blocks(BLOCK)).output == "x"


@pytest.mark.parametrize(
    "fault",
    [ServiceUnreachable("none"), BackendUnavailable("docker", status=503, code="backend_unavailable")],
)
async def test_what_no_reply_can_mend_is_raised(fault: CodecellError) -> None:
    """It is the user's to know."""
    with pytest.raises(type(fault)):
        await Sandbox(Fake(fault)).execute_code_blocks(BLOCK)


async def test_artifacts_are_kept_as_they_were_last_until_a_restart() -> None:
    """Closing alone keeps them: that is when one looks."""
    fake = Fake(artifacts=[Artifact(name="a", size=1), Artifact(name="b", size=1)])
    sandbox = Sandbox(fake)
    await sandbox.execute_code_blocks(BLOCK)
    fake.artifacts = [Artifact(name="a", size=2)]
    await sandbox.execute_code_blocks(BLOCK)
    await sandbox.close()
    assert sorted((a.name, a.size) for a in sandbox.artifacts) == [("a", 2), ("b", 1)]
    await sandbox.restart()
    assert sandbox.artifacts == []
    assert fake.closed == 2


async def test_either_kind_of_with_closes_it() -> None:
    """Also a blocking one where a loop runs."""

    class Adapter(HasSandbox):
        def __init__(self, fake: Fake) -> None:
            self._sandbox = Sandbox(fake)

    fake = Fake()
    async with Adapter(fake):
        pass
    with Adapter(fake):
        pass
    assert fake.closed == 2
