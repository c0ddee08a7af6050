"""Tools: what a model may call, typed from Python functions, and running code as a tool."""

from agent_client.tools.base import Tool, ToolResult, run_calls, schema_of
from agent_client.tools.code import CodeExecutionTool
from agent_client.tools.function import FunctionTool, tool

__all__ = ["CodeExecutionTool", "FunctionTool", "Tool", "ToolResult", "run_calls", "schema_of", "tool"]
