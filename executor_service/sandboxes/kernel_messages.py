"""What one Jupyter message from inside a sandbox says: hostile bytes in, checked values out.

Pure. A message with wrong types gives nothing, or its wrong fields are left out; what is given can be
written as JSON (no lone surrogates, no NaN, no bottomless nesting). Not here: which execution a
message belongs to, and how much it may say (`kernel_execution`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from executor_service.events import (
    ClearOutput,
    Display,
    Error,
    Event,
    InputRequest,
    Json,
    Result,
    Stderr,
    Stdout,
)
from executor_service.guest.kernel_frames import unpack_message
from executor_service.guest.protocol import ProtocolError

MAX_HEADER = 64 * 1024
MAX_CONTAINERS = 100_000  # lists and objects in one message: each costs up to 30 times its text
MAX_ITEMS = 2_000_000  # commas, the same for all other values
MAX_DEPTH = 64  # of nested lists and objects
MAX_NAME = 1024  # characters of an exception's name, of a display's id
MAX_ERROR = 256 * 1024  # characters of an exception's text, and of its whole traceback
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\\]^_])")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelMessage:
    """One message: where it came, its type, whose child it is, and its content still as bytes."""

    channel: int
    type: str
    parent_id: str
    header: Mapping[str, Json]
    body: bytes

    def content(self) -> Mapping[str, Json] | None:
        """The content, cleaned; None if it is no JSON object or nested too deeply."""
        return load_object(self.body)


def parse_message(payload: bytes) -> KernelMessage | None:
    """The message in a KERNEL frame's payload, or None if it is none."""
    try:
        channel, parts = unpack_message(payload)
    except ProtocolError:
        return None
    _, header_bytes, parent_bytes, _, body = parts[:5]
    if len(header_bytes) > MAX_HEADER or len(parent_bytes) > MAX_HEADER:
        return None
    header, parent = load_object(header_bytes), load_object(parent_bytes)
    if header is None or parent is None:
        return None
    kind, parent_id = header.get("msg_type"), parent.get("msg_id")
    if not isinstance(kind, str) or not isinstance(parent_id, str):
        return None
    return KernelMessage(channel=channel, type=kind, parent_id=parent_id, header=header, body=body)


def load_object(data: bytes) -> Mapping[str, Json] | None:
    """A JSON object from hostile bytes, None if it is none or is nested deeper than `MAX_DEPTH`.

    Invalid bytes and lone surrogates become U+FFFD, numbers that JSON does not have null.
    """
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS or data.count(b",") > MAX_ITEMS:
        return None
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        if _ESCAPED_SURROGATE.search(text) or text.count("[") + text.count("{") > MAX_DEPTH:
            value = _clean(value, MAX_DEPTH)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def event_of(kind: str, content: Mapping[str, Json]) -> Event | None:
    """What an iopub message shows, or None if it shows nothing."""
    match kind:
        case "stream":
            return _stream(content)
        case "display_data" | "update_display_data":
            return _display(content, update=kind == "update_display_data")
        case "execute_result":
            return _result(content)
        case "clear_output":
            return ClearOutput(wait=content.get("wait") is True)
        case "error":
            return error_of(content)
    return None


def error_of(content: Mapping[str, Json]) -> Error:
    """The exception in an `error` message or in a reply; without terminal escapes."""
    lines = content.get("traceback")
    return Error(
        name=strip_escapes(_text(content.get("ename"))[:MAX_NAME]) or "Error",
        value=strip_escapes(_text(content.get("evalue"))[:MAX_ERROR]),
        traceback=_bounded(lines if isinstance(lines, list) else []),
    )


def input_request_of(content: Mapping[str, Json]) -> InputRequest:
    """What is asked for."""
    prompt = _text(content.get("prompt"))[:MAX_ERROR]
    return InputRequest(prompt=prompt, password=content.get("password") is True)


def count_of(content: Mapping[str, Json]) -> int | None:
    """The execution count, if there is a sane one."""
    value = content.get("execution_count")
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def strip_escapes(text: str) -> str:
    """`text` without terminal escape sequences."""
    return _ESCAPES.sub("", text) if "\x1b" in text else text


def _stream(content: Mapping[str, Json]) -> Stdout | Stderr | None:
    text = content.get("text")
    if not isinstance(text, str) or not text:
        return None
    match content.get("name"):
        case "stdout":
            return Stdout(text=text)
        case "stderr":
            return Stderr(text=text)
    return None


def _display(content: Mapping[str, Json], *, update: bool) -> Display | None:
    data = content.get("data")
    if not isinstance(data, dict):
        return None
    display_id = _object(content.get("transient")).get("display_id")
    if not isinstance(display_id, str) or len(display_id) > MAX_NAME:
        display_id = None
    if update and display_id is None:
        return None
    return Display(data=data, metadata=_object(content.get("metadata")), display_id=display_id, update=update)


def _result(content: Mapping[str, Json]) -> Result | None:
    data = content.get("data")
    if not isinstance(data, dict):
        return None
    return Result(data=data, metadata=_object(content.get("metadata")), execution_count=count_of(content))


def _bounded(lines: list[Json]) -> tuple[str, ...]:
    """The lines of a traceback that fit, without escapes."""
    kept: list[str] = []
    left = MAX_ERROR
    for line in lines:
        text = strip_escapes(_text(line)[:left])
        left -= len(text) + 1
        if left < 0:
            break
        kept.append(text)
    return tuple(kept)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _no_constant(_: str) -> None:
    """NaN and the infinities, which JSON does not have."""


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _clean(value: Json, depth: int) -> Json:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, (list, dict)) and not depth:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [_clean(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", key): _clean(item, depth - 1) for key, item in value.items()}
    return value
