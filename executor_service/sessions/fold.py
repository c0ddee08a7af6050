"""From events to the JSON bodies of docs/api.md: pure, and the same while the operation still runs.

A folded answer applies display updates and `clear_output`, and keeps at most `MAX_DISPLAYS` displays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from executor_service.events import (
    ClearOutput,
    Completed,
    Display,
    Error,
    Event,
    File,
    Json,
    Result,
    Stderr,
    Stdout,
)

MAX_DISPLAYS = 1000

USAGE: Mapping[str, Json] = {"cpu_time": None, "peak_memory_bytes": None}
PROGRAM: Mapping[str, Json] = {
    "outcome": None,
    "exit_code": None,
    "signal": None,
    "stdout_truncated": False,
    "stderr_truncated": False,
    "detail": None,
    "usage": USAGE,
}
RUN: Mapping[str, Json] = {**PROGRAM, "compile": None, "files": [], "files_omitted": []}
EXECUTION: Mapping[str, Json] = {
    "outcome": None,
    "stdout_truncated": False,
    "stderr_truncated": False,
    "error": None,
    "files": [],
    "files_truncated": False,
    "execution_count": None,
    "usage": USAGE,
    "detail": None,
    "state_lost": False,
}
FIELDS: Mapping[str, Mapping[str, Json]] = {"run": RUN, "execution": EXECUTION, "command": PROGRAM}


def fold(
    kind: Literal["run", "execution", "command"],
    operation_id: str,
    events: Iterable[Event],
    *,
    elapsed: float,
) -> dict[str, Json]:
    """The body of one run, execution or command; `elapsed` is its `duration` until it has ended."""
    so_far = _Folder()
    for event in events:
        so_far.add(event)
    body: dict[str, Json] = {"id": operation_id, **FIELDS[kind], "duration": elapsed}
    body |= {"stdout": "".join(so_far.stdout), "stderr": "".join(so_far.stderr)}
    if kind == "execution":
        body |= {"result": so_far.result, "displays": list(so_far.displays), "error": so_far.error}
        body |= {"files": so_far.files}
    return body | dict(so_far.completed)


def error_json(event: Error) -> dict[str, Json]:
    """The `error` field of an execution."""
    return {"name": event.name, "value": event.value, "traceback": list(event.traceback)}


@dataclass(kw_only=True)
class _Folder:
    """What has been shown so far."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    displays: list[dict[str, Json]] = field(default_factory=list)
    result: Json = None
    error: Json = None
    files: list[Json] = field(default_factory=list)
    completed: Mapping[str, Json] = field(default_factory=dict)
    by_id: dict[str, list[int]] = field(default_factory=dict)
    clear_at_next: bool = False

    def add(self, event: Event) -> None:
        if isinstance(event, Stdout | Stderr | Display | Result | Error) and self.clear_at_next:
            self._clear()
        match event:
            case Stdout(text=text, stage=None):
                self.stdout.append(text)
            case Stderr(text=text, stage=None):
                self.stderr.append(text)
            case Display():
                self._display(event)
            case ClearOutput(wait=wait):
                self.clear_at_next = wait
                if not wait:
                    self._clear()
            case Result(data=data):
                self.result = dict(data)
            case Error():
                self.error = error_json(event)
            case File(path=path, size=size):
                self.files.append({"path": path, "size": size})
            case Completed(fields=fields):
                self.completed = fields
            case _:
                pass

    def _display(self, event: Display) -> None:
        item = {"data": dict(event.data), "metadata": dict(event.metadata)}
        shown = self.by_id.get(event.display_id or "", [])
        for index in shown:
            self.displays[index] = item
        if not event.update and len(self.displays) < MAX_DISPLAYS:
            if event.display_id:
                self.by_id.setdefault(event.display_id, []).append(len(self.displays))
            self.displays.append(item)

    def _clear(self) -> None:
        self.clear_at_next = False
        self.stdout.clear()
        self.stderr.clear()
        self.displays.clear()
        self.by_id.clear()
