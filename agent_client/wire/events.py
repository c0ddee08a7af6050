"""One thing that happened in an operation, as it comes over the wire: `started (body)* completed`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from agent_client.errors import StreamBroken
from agent_client.wire.parse import Parsed
from agent_client.wire.results import ErrorInfo

Json = Any
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, kw_only=True)
class Started(Parsed):
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class _Text(Parsed):
    text: str = ""
    stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stdout(_Text):
    pass


@dataclass(frozen=True, kw_only=True)
class Stderr(_Text):
    pass


@dataclass(frozen=True, kw_only=True)
class Display(Parsed):
    data: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    display_id: str | None = None
    update: bool = False


@dataclass(frozen=True, kw_only=True)
class ClearOutput(Parsed):
    wait: bool = False


@dataclass(frozen=True, kw_only=True)
class Result(Parsed):
    data: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    execution_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Error(ErrorInfo):
    pass


@dataclass(frozen=True, kw_only=True)
class InputRequest(Parsed):
    """The code waits for a line of input; `password` asks not to show it."""

    prompt: str = ""
    password: bool = False


@dataclass(frozen=True, kw_only=True)
class File(Parsed):
    path: str = ""
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Completed(Parsed):
    """The end; `fields` are the folded fields but stdout, stderr, displays and result."""

    fields: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: object) -> Self:
        return super().parse({"fields": data})


@dataclass(frozen=True, kw_only=True)
class UnknownEvent:
    """An event of a newer service."""

    type: str = ""
    data: Json = None


_Known = Started | Stdout | Stderr | Display | ClearOutput | Result | Error | InputRequest | File | Completed
Event = _Known | UnknownEvent
_KINDS: Mapping[str, type[_Known]] = {
    "started": Started,
    "stdout": Stdout,
    "stderr": Stderr,
    "display": Display,
    "clear_output": ClearOutput,
    "result": Result,
    "error": Error,
    "input_request": InputRequest,
    "file": File,
    "completed": Completed,
}


@dataclass(frozen=True, kw_only=True)
class ServerSentEvent:
    type: str
    data: str
    id: str


MAX_EVENT = 256 << 20  # bytes; displays hold images and data


class SseDecoder:
    """Server-sent events out of bytes (WHATWG HTML, section 9.2.6). Lines end at LF or CRLF only:
    the data is JSON, in which other line separators may stand unescaped.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes.

        Raises:
            StreamBroken: an event is without end.
        """
        unread = max(0, len(self._buffer) - 3)  # an end may have begun in what was searched before
        self._buffer += chunk
        done: list[ServerSentEvent] = []
        while end := _BLANK_LINE.search(self._buffer, unread):
            event = self._event(self._buffer[: end.start()].decode("utf-8", "replace"))
            del self._buffer[: end.end()]
            unread = 0
            if event:
                done.append(event)
        if len(self._buffer) > MAX_EVENT:
            raise StreamBroken(f"The service sent an event of more than {MAX_EVENT} bytes.")
        return done

    def _event(self, block: str) -> ServerSentEvent | None:
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.removesuffix("\r").partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        self._id = fields.get("id", [self._id])[-1]
        if not fields.keys() & {"event", "data"}:
            return None
        kind = fields.get("event", ["message"])[-1]
        return ServerSentEvent(type=kind, data="\n".join(fields.get("data", [])), id=self._id)


def parse_event(sent: ServerSentEvent) -> Event:
    """The typed event; what is not known, or not a JSON object, becomes an `UnknownEvent`."""
    try:
        data = json.loads(sent.data)
    except ValueError:
        return UnknownEvent(type=sent.type, data=sent.data)
    kind = _KINDS.get(sent.type)
    if kind is None or not isinstance(data, Mapping):
        return UnknownEvent(type=sent.type, data=data)
    return kind.parse(data)
