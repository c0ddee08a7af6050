"""One thing that happened in an operation, in order. The grammar: started (body)* completed.

Events are frozen values; `to_json` gives the `data` of a server-sent event, `TYPE` its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

Json = Any  # a value that json.dumps accepts; only at the border to user-made data
MimeBundle = Mapping[str, Json]
Stage = Literal["compile"]


@dataclass(frozen=True, kw_only=True)
class Started:
    TYPE: ClassVar[str] = "started"
    id: str


@dataclass(frozen=True, kw_only=True)
class Stdout:
    TYPE: ClassVar[str] = "stdout"
    text: str
    stage: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class Stderr:
    TYPE: ClassVar[str] = "stderr"
    text: str
    stage: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class Display:
    TYPE: ClassVar[str] = "display"
    data: MimeBundle
    metadata: Mapping[str, Json] = field(default_factory=dict)
    display_id: str | None = None
    update: bool = False


@dataclass(frozen=True, kw_only=True)
class ClearOutput:
    TYPE: ClassVar[str] = "clear_output"
    wait: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    TYPE: ClassVar[str] = "result"
    data: MimeBundle
    metadata: Mapping[str, Json] = field(default_factory=dict)
    execution_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Error:
    TYPE: ClassVar[str] = "error"
    name: str
    value: str
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InputRequest:
    TYPE: ClassVar[str] = "input_request"
    prompt: str
    password: bool = False


@dataclass(frozen=True, kw_only=True)
class File:
    TYPE: ClassVar[str] = "file"
    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The end. `fields` are the folded fields but stdout, stderr, displays and result."""

    TYPE: ClassVar[str] = "completed"
    fields: Mapping[str, Json]


Event = Started | Stdout | Stderr | Display | ClearOutput | Result | Error | InputRequest | File | Completed


def to_json(event: Event) -> dict[str, Json]:
    """The `data` of a server-sent event. Absent optional fields are left out."""
    if isinstance(event, Completed):
        return dict(event.fields)
    values = {each.name: getattr(event, each.name) for each in fields(event)}  # without class variables
    optional = ("stage", "display_id", "update")
    return {k: v for k, v in values.items() if not (k in optional and v in (None, False))}
