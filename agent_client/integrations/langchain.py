"""Running code as a LangChain tool: `langchain_core.tools.BaseTool`, for `invoke` and `ainvoke`."""

from __future__ import annotations

import json
from typing import Any, Literal

from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from agent_client.blocking import run_sync
from agent_client.executors import RemoteCodeExecutor
from agent_client.integrations._sandbox import HasSandbox, Sandbox
from agent_client.messages import Artifact
from agent_client.tools.code import CodeExecutionTool


class CodecellTool(HasSandbox, BaseTool):
    """Options as for `RemoteCodeExecutor`. A tool message's `artifact` is the list of what its code made."""

    response_format: Literal["content_and_artifact"] = "content_and_artifact"
    _sandbox: Sandbox = PrivateAttr()
    _tool: CodeExecutionTool = PrivateAttr()

    def __init__(self, **options: Any) -> None:
        sandbox = Sandbox(RemoteCodeExecutor(**options))
        tool = CodeExecutionTool(sandbox)
        super().__init__(name=tool.name, description=tool.description, args_schema=dict(tool.parameters))
        self._sandbox, self._tool = sandbox, tool

    def _run(self, **arguments: Any) -> tuple[str, list[Artifact]]:
        return run_sync(lambda: self._arun(**arguments))

    async def _arun(self, **arguments: Any) -> tuple[str, list[Artifact]]:
        result = await self._tool.run(json.dumps(arguments))
        return result.content, list(result.artifacts)
