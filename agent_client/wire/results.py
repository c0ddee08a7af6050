"""What came of a run, an execution or a command, folded into one value."""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from agent_client.wire import notebook
from agent_client.wire.parse import Parsed, content_bytes

Json = Any

_STATUS = {"timeout": 124, "out_of_memory": 137, "interrupted": 130}
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SHELL_ENDED = re.compile(r"exit code ([0-9]{1,3})|ended by (SIG[A-Z0-9+-]+)")


def exit_status(outcome: str | None, exit_code: int | None, signal: str | None = None) -> int:
    """The one number that stands for an end: 0 ok, 124 timeout, 137 out of memory, 130 interrupted,
    128+n for a signal, else the program's own code, and 1 where there is none.
    """
    if outcome == "ok":
        return exit_code or 0
    if outcome in _STATUS:
        return _STATUS[outcome]
    if signal and outcome != "output_limit":
        number = getattr(signals, signal, None)
        return 128 + int(number) if isinstance(number, signals.Signals) else 1
    return exit_code or 1


@dataclass(frozen=True, kw_only=True)
class OperationUsage(Parsed):
    """Seconds of CPU and bytes of memory at the peak; None where the service could not tell."""

    cpu_time: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class CompileStage(Parsed):
    outcome: str = "ok"
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    duration: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ReturnedFile(Parsed):
    """A file that a run gave back."""

    path: str = ""
    size: int = 0
    content: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    @classmethod
    def parse(cls, data: Any) -> Self:
        return super().parse({**data, "content": content_bytes(data)})


@dataclass(frozen=True, kw_only=True)
class ChangedFile(Parsed):
    path: str = ""
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class OmittedFile(ChangedFile):
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class OperationResult(Parsed):
    """How code ended, and what it printed. `outcome` is None while a detached operation runs."""

    id: str = ""
    state: str = "done"
    outcome: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    detail: str | None = None
    duration: float = 0.0
    usage: OperationUsage = OperationUsage()

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def exit_status(self) -> int:
        """What the command line would exit with; see `exit_status`."""
        return exit_status(self.outcome, self.exit_code, self.signal)

    def _ended(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return "" if self.ok else f"{self.outcome or 'running'} (exit status {self.exit_status}){detail}"

    def _repr_html_(self) -> str:
        return notebook.result_html(self.stdout, self.stderr, ended=self._ended())


@dataclass(frozen=True, kw_only=True)
class CommandResult(OperationResult):
    """What came of a command in a session."""


@dataclass(frozen=True, kw_only=True)
class RunResult(OperationResult):
    """What came of a run; `compile` is set for compiled languages."""

    compile: CompileStage | None = None
    files: tuple[ReturnedFile, ...] = ()
    files_omitted: tuple[OmittedFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DisplayData(Parsed):
    """A rich output: a MIME map (`image/png` is base64 text, `application/json` a value)."""

    data: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        return notebook.bundle_html(self.data)


@dataclass(frozen=True, kw_only=True)
class ErrorInfo(Parsed):
    """An exception that the code let through; the traceback's entries may hold several lines."""

    name: str = ""
    value: str = ""
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExecutionResult(OperationResult):
    """What came of one execution in a session. `result` is the MIME map of the last expression."""

    result: Mapping[str, Json] | None = None
    displays: tuple[DisplayData, ...] = ()
    error: ErrorInfo | None = None
    files: tuple[ChangedFile, ...] = ()
    files_truncated: bool = False
    execution_count: int | None = None
    state_lost: bool = False

    @property
    def exit_status(self) -> int:
        """As a program's: of code that called `sys.exit`, or of a shell's, the code it ended with."""
        if self.outcome != "error" or self.exit_code is not None or self.signal is not None:
            return super().exit_status
        if self.error is not None:
            return _raised(self.error)
        ended = _SHELL_ENDED.fullmatch(self.detail or "")
        code, signal = ended.groups() if ended else (None, None)
        return exit_status("error", int(code) if code else None, signal)

    @property
    def text(self) -> str | None:
        """The last expression's value as plain text, or None."""
        value = (self.result or {}).get("text/plain")
        return value if isinstance(value, str) else None

    def _repr_html_(self) -> str:
        bundles = [shown.data for shown in self.displays] + ([self.result] if self.result else [])
        traceback = "\n".join(self.error.traceback) if self.error else ""
        ended = "" if traceback and self.outcome == "error" else self._ended()
        return notebook.result_html(
            self.stdout, self.stderr, bundles=bundles, traceback=traceback, ended=ended
        )


def _raised(error: ErrorInfo) -> int:
    """What Python would have exited with."""
    if error.name != "SystemExit":
        return 1
    if error.value in ("", "None"):
        return 0
    return int(error.value) & 0xFF if _INTEGER.fullmatch(error.value) else 1
