"""One thing that happened in an operation, as it comes over the wire: `started (body)* completed`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_client.wire.parse import take
from agent_client.wire.results import parse_error

Json = Any


@dataclass(frozen=True, kw_only=True)
class Started:
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Stdout:
    text: str = ""
    stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stderr:
    text: str = ""
    stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Display:
    data: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    display_id: str | None = None
    update: bool = False


@dataclass(frozen=True, kw_only=True)
class ClearOutput:
    wait: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    data: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    execution_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Error:
    name: str = ""
    value: str = ""
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InputRequest:
    """The code waits for a line of input; `password` asks not to show it."""

    prompt: str = ""
    password: bool = False


@dataclass(frozen=True, kw_only=True)
class File:
    path: str = ""
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The end; `fields` are the folded fields but stdout, stderr, displays and result."""

    fields: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UnknownEvent:
    """An event of a newer service."""

    type: str = ""
    data: Json = None


Event = (
    Started
    | Stdout
    | Stderr
    | Display
    | ClearOutput
    | Result
    | Error
    | InputRequest
    | File
    | Completed
    | UnknownEvent
)


@dataclass(frozen=True, kw_only=True)
class ServerSentEvent:
    type: str
    data: str
    id: str


class SseDecoder:
    """Server-sent events out of bytes (WHATWG HTML, section 9.2.6). Lines end at LF or CRLF only:
    the data is JSON, in which other line separators may stand unescaped.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._type, self._id = "", ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes."""
        self._buffer += chunk
        done: list[ServerSentEvent] = []
        start = 0
        while (end := self._buffer.find(b"\n", max(start, self._scanned))) >= 0:
            event = self._line(self._buffer[start:end].rstrip(b"\r").decode("utf-8", "replace"))
            start = end + 1
            if event:
                done.append(event)
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        return done

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            if not self._data and not self._type:
                return None
            event = ServerSentEvent(type=self._type or "message", data="\n".join(self._data), id=self._id)
            self._type, self._data = "", []
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        return None


_SIMPLE: Mapping[str, type[Any]] = {
    "started": Started,
    "stdout": Stdout,
    "stderr": Stderr,
    "display": Display,
    "clear_output": ClearOutput,
    "result": Result,
    "input_request": InputRequest,
    "file": File,
}
_SPECIAL: Mapping[str, Callable[[Mapping[str, Json]], Event]] = {
    "error": lambda data: take(Error, data, traceback=tuple(parse_error(data).traceback)),
    "completed": lambda data: Completed(fields=data),
}


def parse_event(sent: ServerSentEvent) -> Event:
    """The typed event; what is not known, or not a JSON object, becomes an `UnknownEvent`."""
    try:
        data = json.loads(sent.data)
    except ValueError:
        return UnknownEvent(type=sent.type, data=sent.data)
    if not isinstance(data, Mapping):
        return UnknownEvent(type=sent.type, data=data)
    if sent.type in _SPECIAL:
        return _SPECIAL[sent.type](data)
    kind = _SIMPLE.get(sent.type)
    event: Event = take(kind, data) if kind else UnknownEvent(type=sent.type, data=data)
    return event
