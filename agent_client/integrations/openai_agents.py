"""Running code as a tool of the OpenAI Agents SDK: `agents.FunctionTool`."""

from __future__ import annotations

from typing import Any

from agents import FunctionTool

from agent_client.executors import RemoteCodeExecutor
from agent_client.integrations._sandbox import HasSandbox, Sandbox
from agent_client.tools.code import CodeExecutionTool


class CodecellTool(HasSandbox, FunctionTool):
    """Options as for `RemoteCodeExecutor`. The model gets text; files and images are in `artifacts`."""

    def __init__(self, **options: Any) -> None:
        self._sandbox = Sandbox(RemoteCodeExecutor(**options))
        self._tool = CodeExecutionTool(self._sandbox)
        super().__init__(
            name=self._tool.name,
            description=self._tool.description,
            params_json_schema=dict(self._tool.parameters),
            on_invoke_tool=self._invoke,
            strict_json_schema=False,  # strict means that nothing is optional, and the language is
        )

    async def _invoke(self, _: object, arguments: str) -> str:
        return (await self._tool.run(arguments)).content
