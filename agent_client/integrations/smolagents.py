"""The Python executor of smolagents: `CodeAgent(..., executor=CodecellExecutor())`.

Tools run in the sandbox, so each must be whole there: its source is sent, and what it imports has to be in
the image.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from smolagents import Tool, serialization
from smolagents.local_python_executor import CodeOutput, InterpreterError, PythonExecutor
from smolagents.tools import get_tools_definition_code

from agent_client.blocking import run_sync
from agent_client.code_blocks import CodeBlock
from agent_client.executors import CodeResult, RemoteCodeExecutor
from agent_client.executors.output_log import OutputLog
from agent_client.integrations._sandbox import HasSandbox, Sandbox
from agent_client.output_text import for_model
from agent_client.wire.results import CommandResult, ExecutionResult, RunResult

_Ended = ExecutionResult | CommandResult | RunResult
_ENDS = "FinalAnswerException"
# An exception's text is bounded and an answer (a picture, say) may be long, so it goes by a file.
_ANSWER = ".codecell-final-answer.json"
_MAX_ANSWER = 64 << 20
_FINAL_ANSWER = f"""
class {_ENDS}(BaseException):
    pass
def _codecell_final(answer, path):
    def final_answer(*args, **kwargs):
        text = _codecell.SafeSerializer.dumps(answer(*args, **kwargs))
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        raise {_ENDS}
    return final_answer
final_answer = _codecell_final(final_answer, _codecell_home + "/{_ANSWER}")
"""


class _Remote(RemoteCodeExecutor):
    """Keeps what came of the last block in full."""

    _last: _Ended | None = None

    def _ended(self, result: _Ended, log: OutputLog) -> int:
        self._last = result
        return super()._ended(result, log)

    def take(self) -> _Ended | None:
        """How the last block ended, once."""
        last, self._last = self._last, None
        return last

    async def answer(self) -> str:
        """What `final_answer` wrote."""
        assert self._session is not None
        return (await self._session.files.read(_ANSWER, max_bytes=_MAX_ANSWER)).decode()


class CodecellExecutor(HasSandbox, PythonExecutor):
    """Options as for `RemoteCodeExecutor`. Files and images that code made are in `artifacts`."""

    def __init__(self, **options: Any) -> None:
        self._remote = _Remote(**options)
        self._sandbox = Sandbox(self._remote)
        source = inspect.getsource(serialization)
        self._told = {
            "first": "import os, types; _codecell_home = os.getcwd()\n"
            f"_codecell = types.ModuleType('_codecell'); exec({source!r}, _codecell.__dict__)"
        }
        self._knowing: str | None = None  # the session that was told all of it

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Set variables, of types that smolagents' safe serializer knows."""
        if variables:
            text = serialization.SafeSerializer.dumps(dict(variables))
            self._tell("variables", f"globals().update(_codecell.SafeSerializer.loads({text!r}))")

    def send_tools(self, tools: Mapping[str, Any]) -> None:
        """Define the tools.

        Raises:
            ValueError: one is a managed agent, which cannot be sent.
            InterpreterError: one cannot be defined there.
        """
        if foreign := [name for name, tool in tools.items() if not isinstance(tool, Tool)]:
            raise ValueError(f"only tools can run in a sandbox, not {', '.join(foreign)}")
        code = get_tools_definition_code(tools)
        self._tell("tools", code + (_FINAL_ANSWER if "final_answer" in tools else ""))

    def __call__(self, code_action: str) -> CodeOutput:
        """Run one step's code.

        Raises:
            InterpreterError: it failed; the text is for the model.
        """
        self._prepare()
        result, last = self._run(code_action)
        printed = for_model(last.stdout + last.stderr) if last else ""
        if isinstance(last, ExecutionResult) and last.error and last.error.name == _ENDS:
            answer = serialization.SafeSerializer.loads(run_sync(self._remote.answer))
            return CodeOutput(output=answer, logs=printed, is_final_answer=True)
        if result.exit_code != 0:
            raise InterpreterError(result.output)
        text = last.text if isinstance(last, ExecutionResult) else None
        return CodeOutput(output=text, logs=printed, is_final_answer=False)

    def cleanup(self) -> None:
        """Close the session; the agent calls it at its end."""
        self.close()

    def _tell(self, topic: str, code: str) -> None:
        self._told[topic] = code
        self._knowing = None
        self._prepare()

    def _prepare(self) -> None:
        """Tell a session that is new, or whose kernel was started again, what there is."""
        if self._knowing is None or self._knowing != self._remote.session_id:
            result, _ = self._run("\n".join(self._told.values()))
            if result.exit_code != 0:
                raise InterpreterError(result.output)
            self._knowing = self._remote.session_id

    def _run(self, code: str) -> tuple[CodeResult, _Ended | None]:
        self._remote.take()  # left by a call that broke off
        block = CodeBlock(code=code, language="python")
        result = run_sync(lambda: self._sandbox.execute_code_blocks([block]))
        last = self._remote.take()
        if isinstance(last, ExecutionResult) and last.state_lost:
            self._knowing = None
        return result, last
