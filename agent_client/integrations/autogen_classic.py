"""The code executor of AutoGen 0.2 and of AG2's classic API: the package `autogen`.

user = UserProxyAgent("user", code_execution_config={"executor": CodecellCodeExecutor()})
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autogen.coding.base import CodeBlock, IPythonCodeResult

from agent_client.blocking import run_sync
from agent_client.code_blocks import extract_code_blocks
from agent_client.executors import RemoteCodeExecutor
from agent_client.integrations._sandbox import HasSandbox, Sandbox, own_block
from agent_client.messages import Message


class CodecellCodeExecutor(HasSandbox):
    """Options as for `RemoteCodeExecutor`. State is kept from block to block until `restart` or `close`."""

    def __init__(self, **options: Any) -> None:
        self._sandbox = Sandbox(RemoteCodeExecutor(**options))

    @property
    def code_extractor(self) -> CodecellCodeExecutor:
        """What has `extract_code_blocks`."""
        return self

    def extract_code_blocks(self, message: Any) -> list[CodeBlock]:
        """The programs in a message's content: a text, content parts, or None."""
        found = extract_code_blocks(Message.of({"content": message}).content)
        return [CodeBlock(code=block.code, language=block.language) for block in found]

    def execute_code_blocks(self, code_blocks: Sequence[CodeBlock]) -> IPythonCodeResult:
        """Run the blocks, up to the first that fails. `output_files` says what they made, and where it is."""
        result = run_sync(lambda: self._sandbox.execute_code_blocks([own_block(b) for b in code_blocks]))
        files = [str(artifact.path or artifact.name) for artifact in result.artifacts]
        return IPythonCodeResult(exit_code=result.exit_code, output=result.output, output_files=files)

    def restart(self) -> None:
        """Start over, in a new session."""
        run_sync(self._sandbox.restart)
