"""Running code as a tool of Pydantic AI: `pydantic_ai.Tool`."""

from __future__ import annotations

import json
from typing import Any

from pydantic_ai import Tool, ToolReturn

from agent_client.executors import RemoteCodeExecutor
from agent_client.integrations._sandbox import HasSandbox, Sandbox
from agent_client.tools.code import CodeExecutionTool


class CodecellTool(HasSandbox, Tool[Any]):
    """Options as for `RemoteCodeExecutor`. A tool return's `metadata` is the list of what its code made."""

    def __init__(self, **options: Any) -> None:
        self._sandbox = Sandbox(RemoteCodeExecutor(**options))
        self._tool = CodeExecutionTool(self._sandbox)
        name, description = self._tool.name, self._tool.description
        plain = Tool.from_schema(self._call, name, description, dict(self._tool.parameters))
        super().__init__(
            self._call, name=name, description=description, function_schema=plain.function_schema
        )

    async def _call(self, **arguments: Any) -> ToolReturn:
        result = await self._tool.run(json.dumps(arguments))
        return ToolReturn(result.content, metadata=list(result.artifacts))
