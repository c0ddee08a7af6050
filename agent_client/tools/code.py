"""Running code as a tool: a model that calls tools works in a session as one that writes code blocks does."""

from __future__ import annotations

from typing import Annotated

from agent_client.code_blocks import ALIASES, CodeBlock, filename_of
from agent_client.executors.base import CodeExecutor, CodeResult, ProgressSink
from agent_client.tools.arguments import Arguments
from agent_client.tools.base import ToolResult, attempt

DESCRIPTION = (
    "Run code in a sandbox and get its exit code and output. Python keeps its variables and imports from call"
    " to call; the working directory's files are kept too. Print what you need to see; save plots as files."
)


def reply_text(result: CodeResult) -> str:
    """`exitcode: 0 (execution succeeded)`, and the output."""
    how = "execution succeeded" if result.exit_code == 0 else "execution failed"
    return f"exitcode: {result.exit_code} ({how})\nCode output: {result.output}"


class CodeExecutionTool:
    """Runs code with `executor`; calls share its session. A program that fails is no error of the tool; a
    service that cannot be reached is.
    """

    def __init__(
        self, executor: CodeExecutor, *, name: str = "execute_code", description: str = DESCRIPTION
    ) -> None:
        self.name = name
        self.description = description
        self._executor = executor
        self._arguments = Arguments(_block)
        self.parameters = self._arguments.schema

    async def run(self, arguments: str, on_progress: ProgressSink | None = None) -> ToolResult:
        """Run the code; output is passed on as it is printed. Cancelling stops the code."""

        async def work() -> ToolResult:
            block = self._arguments.bind(arguments)()
            result = await self._executor.execute_code_blocks([block], on_progress)
            return ToolResult(content=reply_text(result), artifacts=tuple(result.artifacts))

        return await attempt(work)

    async def run_ended(self) -> None:
        """A conversation has ended: let the executor close its session, unless it keeps it."""
        await self._executor.run_ended()

    async def close(self) -> None:
        """Close the executor's session."""
        await self._executor.close()


def _block(
    code: Annotated[str, "The code, without Markdown fences."],
    language: Annotated[str, "python, sh, or another language that is installed."] = "python",
    filename: Annotated[str | None, "Where to save the code in the working directory."] = None,
) -> CodeBlock:
    word = language.strip().lower() or "python"
    return CodeBlock(code=code, language=ALIASES.get(word, word), filename=filename or filename_of(code))
