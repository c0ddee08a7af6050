"""The events of an operation that has ended, to bytes and back."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from executor_service.events import (
    ClearOutput,
    Completed,
    Display,
    Error,
    Event,
    File,
    InputRequest,
    Result,
    Started,
    Stderr,
    Stdout,
)
from executor_service.sessions.packing import Packed, pack_events, unpack_events

EVENTS: tuple[Event, ...] = (
    Started(id="exe_1"),
    Stdout(text="é\u2028\ud800\n"),
    Stderr(text="x"),
    Display(data={"text/plain": "1"}, metadata={"a": [1, None]}, display_id="d", update=True),
    Display(data={}),
    ClearOutput(wait=True),
    Result(data={"text/plain": "1"}, execution_count=3),
    Error(name="E", value="v", traceback=("a", "b")),
    InputRequest(prompt="?", password=True),
    File(path="a/b", size=3),
    Completed(fields={"id": "exe_1", "outcome": "ok", "files": [{"path": "a", "size": 1}]}),
)


def test_every_kind_of_event_comes_back() -> None:
    """As it was, whatever its text."""
    assert {type(each) for each in EVENTS} == set(get_args(Event))
    assert unpack_events(pack_events(EVENTS, 7)) == Packed(events=EVENTS, skipped=7)


def test_what_is_too_much_loses_its_oldest() -> None:
    """The first and the last stay, and the gap is counted."""
    body = tuple(Stdout(text=f"{n:03}" * 100) for n in range(100))
    found = unpack_events(pack_events((EVENTS[0], *body, EVENTS[-1]), 5, most=10_000))
    assert (found.events[0], found.events[-1]) == (EVENTS[0], EVENTS[-1])
    assert found.events[1:-1] == body[found.skipped - 5 :]
    assert 5 < found.skipped < 105
    found = unpack_events(pack_events((EVENTS[0], *body, EVENTS[-1]), 0, most=1))
    assert (found.events, found.skipped) == ((EVENTS[0], EVENTS[-1]), 100)


START = json.dumps(["started", {"id": "exe_1"}])
END = json.dumps(["completed", {"fields": {}}])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["{}", START, END],
        ['{"skipped": -1}', START, END],
        ['{"skipped": true}', START, END],
        ['{"skipped": 0}'],
        ['{"skipped": 0}', START],
        ['{"skipped": 0}', END, START],
        ['{"skipped": 0}', START, '["stdout", {"text": 1}]', END],
        ['{"skipped": 0}', START, '["stdout", {}]', END],
        ['{"skipped": 0}', START, '["stdout", {"text": "a", "more": 1}]', END],
        ['{"skipped": 0}', START, '["nosuch", {}]', END],
        ['{"skipped": 0}', START, '["error", {"name": "a", "value": "b", "traceback": [1]}]', END],
        ['{"skipped": 0}', START, '["display", {"data": []}]', END],
        ['{"skipped": 0}', START, "[" * 5000, END],
        ['{"skipped": 0}', START, "[" + "[]," * 1_000_000 + "[]]", END],
        ['{"skipped": 0}', START, "7", END],
        ['{"skipped": 0}', START, '["stdout", 7]', END],
        ["\udcff", START, END],
    ],
)
def test_what_was_not_packed_is_refused(lines: list[str]) -> None:
    """It comes back from a sandbox: wrong types and missing ends are no events."""
    with pytest.raises(ValueError):  # noqa: PT011 - any reason will do
        unpack_events("\n".join(lines).encode("utf-8", "surrogateescape"))
