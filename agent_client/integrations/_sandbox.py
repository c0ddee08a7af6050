"""What every adapter has: one session's executor, the files that its code made, and an end.

A framework's protocol knows text alone. Here foreign blocks become ours, and the service's faults replies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self

from agent_client.blocking import run_sync
from agent_client.code_blocks import ALIASES, CodeBlock, filename_of, infer_language
from agent_client.errors import BackendUnavailable, ServiceFault
from agent_client.executors.base import CodeExecutor, CodeResult, ProgressSink
from agent_client.messages import Artifact


class ForeignBlock(Protocol):
    """A code block of any framework."""

    code: str
    language: str


def own_block(block: ForeignBlock) -> CodeBlock:
    """The block as ours; its language is guessed where none is said."""
    word = block.language.strip().lower() or infer_language(block.code)
    name = ALIASES.get(word, word)
    if not re.fullmatch(r"[a-z0-9][a-z0-9+#._-]{0,63}", name):
        name = "text"  # which cannot be run, and the reply says so
    return CodeBlock(code=block.code, language=name, filename=filename_of(block.code))


class Sandbox:
    """A code executor around another that remembers the artifacts."""

    def __init__(self, executor: CodeExecutor) -> None:
        self._executor = executor
        self._made: dict[str, Artifact] = {}

    @property
    def artifacts(self) -> list[Artifact]:
        """Files and images that code made since the start or the last restart, each as it was last."""
        return list(self._made.values())

    async def execute_code_blocks(
        self, blocks: Sequence[CodeBlock], on_progress: ProgressSink | None = None
    ) -> CodeResult:
        """Run the blocks. What the service did wrong meanwhile is a result too.

        Raises:
            CodecellError: the service cannot be reached, or refuses what it was asked for.
        """
        try:
            result = await self._executor.execute_code_blocks(blocks, on_progress)
        except BackendUnavailable:
            raise
        except ServiceFault as error:
            return CodeResult(exit_code=1, output=f"The code was not run to its end: {error}\n")
        self._made |= {artifact.name: artifact for artifact in result.artifacts}
        return result

    async def run_ended(self) -> None:
        await self._executor.run_ended()

    async def close(self) -> None:
        """Close the session. The next block, if there is one, opens another."""
        await self._executor.close()

    async def restart(self) -> None:
        """Start over: without variables, files and artifacts."""
        await self._executor.close()
        self._made.clear()


class HasSandbox:
    """An adapter that is used from blocking or async code: closed by hand, or by either kind of `with`."""

    if TYPE_CHECKING:  # pydantic would take it for a field
        _sandbox: Sandbox

    @property
    def artifacts(self) -> list[Artifact]:
        """Files and images that code made since the start or the last restart, each as it was last."""
        return self._sandbox.artifacts

    def close(self) -> None:
        """Close the session."""
        run_sync(self._sandbox.close)

    async def aclose(self) -> None:
        """Close the session."""
        await self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
