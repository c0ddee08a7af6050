"""What came of a run, an execution or a command, folded into one value."""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_client.wire import notebook
from agent_client.wire.parse import content_bytes, items, take

Json = Any

INTERRUPTED, TIMED_OUT, KILLED = 130, 124, 137
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SHELL_ENDED = re.compile(r"exit code ([0-9]{1,3})|ended by (SIG[A-Z0-9+-]+)")


def exit_status(outcome: str | None, exit_code: int | None, signal: str | None = None) -> int:
    """The one number that stands for an end: 0 ok, 124 timeout, 137 out of memory, 130 interrupted,
    128+n for a signal, else the program's own code, and 1 where there is none.
    """
    if outcome == "ok":
        return exit_code or 0
    if outcome == "timeout":
        return TIMED_OUT
    if outcome == "out_of_memory":
        return KILLED
    if outcome == "interrupted":
        return INTERRUPTED
    if signal and outcome != "output_limit":
        number = getattr(signals, signal, None)
        return 128 + int(number) if isinstance(number, signals.Signals) else 1
    return exit_code or 1


@dataclass(frozen=True, kw_only=True)
class OperationUsage:
    """Seconds of CPU and bytes of memory at the peak; None where the service could not tell."""

    cpu_time: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class CompileStage:
    outcome: str = "ok"
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    duration: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ReturnedFile:
    """A file that a run gave back."""

    path: str = ""
    size: int = 0
    content: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class OmittedFile:
    path: str = ""
    size: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ChangedFile:
    path: str = ""
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """How a program ended, and what it printed. `outcome` is None while a detached one runs."""

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
        return exit_status(self.outcome, self.exit_code, self.signal)

    def _repr_html_(self) -> str:
        return notebook.program_html(self.outcome, self.exit_status, self.stdout, self.stderr, self.detail)


@dataclass(frozen=True, kw_only=True)
class CommandResult(ProgramResult):
    """What came of a command in a session."""

    @classmethod
    def parse(cls, data: Mapping[str, Json]) -> CommandResult:
        return take(cls, data, usage=take(OperationUsage, data.get("usage")))


@dataclass(frozen=True, kw_only=True)
class RunResult(ProgramResult):
    """What came of a run; `compile` is set for compiled languages."""

    compile: CompileStage | None = None
    files: Sequence[ReturnedFile] = ()
    files_omitted: Sequence[OmittedFile] = ()

    @classmethod
    def parse(cls, data: Mapping[str, Json]) -> RunResult:
        return take(
            cls,
            data,
            usage=take(OperationUsage, data.get("usage")),
            compile=take(CompileStage, data["compile"]) if data.get("compile") else None,
            files=tuple(take(ReturnedFile, f, content=content_bytes(f)) for f in items(data.get("files"))),
            files_omitted=tuple(take(OmittedFile, f) for f in items(data.get("files_omitted"))),
        )


@dataclass(frozen=True, kw_only=True)
class DisplayData:
    """A rich output: a MIME map (`image/png` is base64 text, `application/json` a value)."""

    data: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        return notebook.bundle_html(self.data)


@dataclass(frozen=True, kw_only=True)
class ErrorInfo:
    """An exception that the code let through; the traceback's entries may hold several lines."""

    name: str = ""
    value: str = ""
    traceback: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ExecutionResult:
    """What came of one execution in a session. `result` is the MIME map of the last expression."""

    id: str = ""
    state: str = "done"
    outcome: str | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    result: Mapping[str, Json] | None = None
    displays: Sequence[DisplayData] = ()
    error: ErrorInfo | None = None
    files: Sequence[ChangedFile] = ()
    files_truncated: bool = False
    execution_count: int | None = None
    duration: float = 0.0
    usage: OperationUsage = OperationUsage()
    detail: str | None = None
    state_lost: bool = False
    exit_code: int | None = None
    signal: str | None = None

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def exit_status(self) -> int:
        """As a program's: of code that called `sys.exit`, or of a shell's, the code it ended with."""
        if self.outcome != "error" or self.exit_code is not None or self.signal is not None:
            return exit_status(self.outcome, self.exit_code, self.signal)
        if self.error is not None:
            return _raised(self.error)
        ended = _SHELL_ENDED.fullmatch(self.detail or "")
        return exit_status(
            "error", int(ended[1]) if ended and ended[1] else None, ended[2] if ended else None
        )

    @property
    def text(self) -> str | None:
        """The last expression's value as plain text, or None."""
        value = (self.result or {}).get("text/plain")
        return value if isinstance(value, str) else None

    @classmethod
    def parse(cls, data: Mapping[str, Json]) -> ExecutionResult:
        error = data.get("error")
        return take(
            cls,
            data,
            usage=take(OperationUsage, data.get("usage")),
            displays=tuple(take(DisplayData, d) for d in items(data.get("displays"))),
            error=parse_error(error) if isinstance(error, Mapping) else None,
            files=tuple(take(ChangedFile, f) for f in items(data.get("files"))),
        )

    def _repr_html_(self) -> str:
        return notebook.execution_html(
            stdout=self.stdout,
            stderr=self.stderr,
            bundles=[d.data for d in self.displays] + ([self.result] if self.result else []),
            traceback="\n".join(self.error.traceback) if self.error else "",
            outcome=self.outcome,
            detail=self.detail,
        )


def _raised(error: ErrorInfo) -> int:
    """What Python would have exited with."""
    if error.name != "SystemExit":
        return 1
    if error.value in ("", "None"):
        return 0
    return int(error.value) & 0xFF if _INTEGER.fullmatch(error.value) else 1


def parse_error(data: Mapping[str, Json]) -> ErrorInfo:
    """An `error` object; a traceback that is no list of texts becomes one."""
    lines = data.get("traceback")
    return take(ErrorInfo, data, traceback=tuple(str(e) for e in lines) if isinstance(lines, list) else ())
