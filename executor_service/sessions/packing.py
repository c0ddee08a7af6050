"""The journal of an operation that has ended, as bytes that its guest holds, and back again. Pure.

What comes back comes from a sandbox: events that are not of the right form are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from executor_service.events import (
    ClearOutput,
    Completed,
    Display,
    Error,
    Event,
    File,
    InputRequest,
    Json,
    Result,
    Started,
    Stderr,
    Stdout,
    to_json,
)

MOST_BYTES = 8 * 1024 * 1024
MOST_CONTAINERS = 1_000_000  # lists and objects: each costs up to 30 times its text
MOST_ITEMS = 4_000_000  # commas, the same for all other values
_KINDS: Mapping[str, type[Event]] = {
    each.TYPE: each
    for each in (
        Started, Stdout, Stderr, Display, ClearOutput, Result, Error, InputRequest, File, Completed
    )
}  # fmt: skip
_TEXT: Callable[[Json], bool] = lambda value: isinstance(value, str)  # noqa: E731
_FLAG: Callable[[Json], bool] = lambda value: isinstance(value, bool)  # noqa: E731
_OBJECT: Callable[[Json], bool] = lambda value: isinstance(value, dict)  # noqa: E731
_COUNT: Callable[[Json], bool] = lambda value: type(value) is int  # noqa: E731
_CHECKS: Mapping[str, Callable[[Json], bool]] = {
    **dict.fromkeys(("id", "text", "name", "value", "prompt", "path"), _TEXT),
    **dict.fromkeys(("update", "wait", "password"), _FLAG),
    **dict.fromkeys(("data", "metadata", "fields"), _OBJECT),
    "size": _COUNT,
    "execution_count": lambda value: value is None or type(value) is int,
    "display_id": lambda value: value is None or isinstance(value, str),
    "stage": lambda value: value is None,  # of runs alone
    "traceback": lambda value: isinstance(value, list) and all(map(_TEXT, value)),
}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Events, of which `skipped` are missing after the first."""

    events: tuple[Event, ...]
    skipped: int = 0


def pack_events(events: Sequence[Event], skipped: int, *, most: int = MOST_BYTES) -> bytes:
    """About `most` bytes at most: what does not fit is left out, the oldest after the first before others."""
    lines = [json.dumps([each.TYPE, _plain(each)], separators=(",", ":")).encode() for each in events]
    size = sum(map(len, lines))
    left_out = 0
    while size > most and left_out < len(lines) - 2:  # the first and the last stay
        left_out += 1
        size -= len(lines[left_out])
    kept = lines[:1] + lines[1 + left_out :]
    return b"\n".join([json.dumps({"skipped": skipped + left_out}).encode(), *kept])


def unpack_events(data: bytes) -> Packed:
    """What `pack_events` made. Raises ValueError: it did not make that."""
    if data.count(b"[") + data.count(b"{") > MOST_CONTAINERS or data.count(b",") > MOST_ITEMS:
        raise ValueError("too much to be parsed")
    try:
        head, *lines = data.split(b"\n")
        skipped = json.loads(head)["skipped"]
        events = tuple(_event(*json.loads(line)) for line in lines)
    except (AttributeError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"no events: {error!r}") from None
    if not _COUNT(skipped) or not 0 <= skipped < 1 << 53:
        raise ValueError("no number of events")
    if not events or not isinstance(events[0], Started) or not isinstance(events[-1], Completed):
        raise ValueError("no beginning or no end")
    return Packed(events=events, skipped=skipped)


def _plain(event: Event) -> Json:
    return {"fields": to_json(event)} if isinstance(event, Completed) else to_json(event)


def _event(kind: str, values: Mapping[str, Json]) -> Event:
    made = _KINDS[kind]
    names = {each.name for each in fields(made)}
    if wrong := [n for n, v in values.items() if n not in names or not _CHECKS[n](v)]:
        raise ValueError(f"{kind} with {wrong}")
    found: dict[str, Any] = {n: tuple(v) if n == "traceback" else v for n, v in values.items()}
    return made(**found)
