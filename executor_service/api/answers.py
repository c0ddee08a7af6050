"""The shapes of answers, for the OpenAPI document and its readers; answers are not validated again."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from executor_service.result import Outcome

Mime = dict[str, Any]
State = Literal["running", "done"]


class Answer(BaseModel):
    """A JSON answer; fields may be added in later versions."""

    model_config = ConfigDict(extra="allow")


class FieldProblem(Answer):
    """One thing that is wrong with a request."""

    loc: str
    message: str


class Problem(Answer):
    """An error, as RFC 9457 says; `code` is stable and made for programs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:codecell:problem:invalid_request",
                    "title": "Invalid request",
                    "status": 422,
                    "detail": "limits.wall_time: Input should be greater than 0",
                    "code": "invalid_request",
                    "request_id": "5f2b8c0d1e3a4b67",
                    "errors": [{"loc": "limits.wall_time", "message": "Input should be greater than 0"}],
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldProblem] = []


class UsageAnswer(Answer):
    """Seconds of CPU time and bytes of memory at the peak, the operation's own."""

    cpu_time: float | None
    peak_memory_bytes: int | None


class CompileAnswer(Answer):
    """The compile stage of a run."""

    outcome: Outcome
    exit_code: int | None
    stdout: str
    stderr: str
    duration: float


class FileOut(Answer):
    """A collected file."""

    path: str
    size: int
    content: str
    encoding: Literal["utf-8", "base64"]


class FileOmitted(Answer):
    """A file that was not collected, and why."""

    path: str
    size: int
    reason: str


class FileChanged(Answer):
    """A workspace file that an execution made or changed."""

    path: str
    size: int


class CommandAnswer(Answer):
    """How a command ended and what it wrote."""

    id: str
    state: State
    outcome: Outcome | None
    exit_code: int | None
    signal: str | None
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    detail: str | None
    duration: float
    usage: UsageAnswer


class RunAnswer(CommandAnswer):
    """How a run ended, what it wrote, and the files that were asked for."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "id": "run_6b1f2f0c9d7e4a5b8c3d2e1f0a9b8c7d",
                    "state": "done",
                    "outcome": "ok",
                    "exit_code": 0,
                    "signal": None,
                    "stdout": "hi\n",
                    "stderr": "",
                    "stdout_truncated": False,
                    "stderr_truncated": False,
                    "detail": None,
                    "duration": 0.0061,
                    "usage": {"cpu_time": 0.0042, "peak_memory_bytes": 1581056},
                    "compile": None,
                    "files": [],
                    "files_omitted": [],
                }
            ]
        },
    )

    compile: CompileAnswer | None
    files: list[FileOut]
    files_omitted: list[FileOmitted]


class DisplayAnswer(Answer):
    """Something that code displayed."""

    data: Mime
    metadata: dict[str, Any]


class ErrorAnswer(Answer):
    """An uncaught exception."""

    name: str
    value: str
    traceback: list[str]


class ExecutionAnswer(Answer):
    """How an execution ended, and everything that it showed."""

    id: str
    state: State
    outcome: Outcome | None
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    result: Mime | None
    displays: list[DisplayAnswer]
    error: ErrorAnswer | None
    files: list[FileChanged]
    files_truncated: bool
    execution_count: int | None
    duration: float
    usage: UsageAnswer
    detail: str | None
    state_lost: bool


class Detached(Answer):
    """The id of an operation that goes on by itself."""

    id: str
    state: Literal["running"]


class OperationSummary(Answer):
    """An operation in a list: every folded field except stdout, stderr, displays and result."""

    id: str
    state: State
    outcome: Outcome | None


class OperationList(Answer):
    """Operations, newest first."""

    items: list[OperationSummary]


class SessionAnswer(Answer):
    """A session as it is now."""

    id: str
    state: Literal["ready", "busy", "closed"]
    language: str
    image: str
    backend: str
    limits: dict[str, float | None]
    network: bool | dict[str, list[str]]
    metadata: dict[str, str]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime


class SessionList(Answer):
    """Sessions, and where the next page starts."""

    items: list[SessionAnswer]
    next_cursor: str | None


class EntryAnswer(Answer):
    """A file or directory; `modified_at` is an instant, `mode` the permission bits."""

    path: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int
    modified_at: datetime
    mode: int


class EntryList(Answer):
    """The entries of a directory."""

    items: list[EntryAnswer]


class LanguageAnswer(Answer):
    """A language that runs here."""

    name: str
    aliases: list[str]
    version: str | None
    stateful: bool
    image: str


class LanguageList(Answer):
    """The languages that run here."""

    items: list[LanguageAnswer]


class ImageAnswer(Answer):
    """A named environment to run in."""

    name: str


class ImageList(Answer):
    """The images that are here."""

    items: list[ImageAnswer]


class LimitsInfo(Answer):
    """Limits that hold by default, and the highest that may be asked for."""

    default: dict[str, float | None]
    ceiling: dict[str, float | None]


class NetworkInfo(Answer):
    """The networks that callers may ask for: `off`, a `list` of hosts, or any `public` host."""

    offers: Literal["off", "list", "public"]
    allow: list[str]
    ports: list[int]


class Info(Answer):
    """What this service is, and what it enforces by what."""

    version: str
    backend: str
    backend_reason: str
    isolation: dict[str, dict[str, str]]
    limits: LimitsInfo
    network: NetworkInfo


class Health(Answer):
    """Alive, or ready."""

    status: Literal["ok"]


Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """The documented errors of a route."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _WORDS[status], "content": content} for status in sorted(statuses)}


def operation(model: type[Answer], *statuses: int) -> Responses:
    """The documented answers of a route that executes."""
    return {
        200: {
            "model": model,
            "description": "Folded, or as a stream where `Accept` asks for text/event-stream",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        202: {"model": Detached, "description": "Detached: it goes on by itself"},
        **problems(*statuses),
    }


_WORDS = {
    401: "Missing or unknown key",
    403: "Not allowed",
    404: "Not found",
    409: "Busy, or nothing waits for input",
    410: "The session is closed",
    413: "Payload too large",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    422: "Invalid request",
    429: "Quota exceeded",
    501: "Not implemented",
    502: "The sandbox failed",
    503: "No capacity, or the backend is unavailable",
    507: "The disk is full",
}
