"""What a code executor is, and what came of a message's code blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agent_client.code_blocks import CodeBlock
from agent_client.messages import Artifact

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """A piece of output as it was printed, control sequences removed (colours excepted)."""

    text: str
    stream: Stream = "stdout"


@dataclass(frozen=True, kw_only=True)
class BlockStarted:
    """A block begins: the `index`-th (from 0) of those given."""

    block: CodeBlock
    index: int


@dataclass(frozen=True, kw_only=True)
class ArtifactMade:
    """A file or image was made by a block."""

    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something to tell the user that the program did not print."""

    text: str


Progress = BlockStarted | Output | ArtifactMade | Note
ProgressSink = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class CodeResult:
    """What came of the blocks: the exit status of the last that ran, and all output, bounded."""

    exit_code: int
    output: str
    artifacts: Sequence[Artifact] = ()


class CodeExecutor(Protocol):
    """Runs code blocks one after the other and stops at the first that fails. Calls may come at the same
    time: an executor makes them wait where they share a session.
    """

    async def execute_code_blocks(
        self, blocks: Sequence[CodeBlock], on_progress: ProgressSink | None = None
    ) -> CodeResult:
        """Run the blocks. Cancelling stops the code at once.

        Raises:
            CodecellError: the executor failed (never the code).
        """
        ...

    async def run_ended(self) -> None:
        """A conversation that used it has ended: let go of what lasts no longer than that."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...
