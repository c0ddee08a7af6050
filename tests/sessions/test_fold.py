"""Folding events into the bodies of docs/api.md."""

from __future__ import annotations

from typing import Any

import pytest

from executor_service.events import (
    ClearOutput,
    Completed,
    Display,
    Error,
    Event,
    File,
    Result,
    Started,
    Stderr,
    Stdout,
)
from executor_service.sessions.fold import MAX_DISPLAYS, fold


def folded(*events: Event) -> dict[str, Any]:
    """The body of an execution that showed `events`."""
    return fold("execution", "exe_1", events, elapsed=1.5)


def texts(body: dict[str, Any]) -> list[str]:
    """What its displays say in plain text."""
    return [display["data"]["text/plain"] for display in body["displays"]]


def show(text: str, display_id: str | None = None, *, update: bool = False) -> Display:
    """A display of plain text."""
    return Display(data={"text/plain": text}, display_id=display_id, update=update)


def test_an_execution_that_runs_has_every_field() -> None:
    """So far: no outcome, its duration until now, what it has shown."""
    assert folded(Started(id="exe_1"), Stdout(text="a"), Stdout(text="b"), Stderr(text="c")) == {
        "id": "exe_1",
        "outcome": None,
        "stdout": "ab",
        "stderr": "c",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "result": None,
        "displays": [],
        "error": None,
        "files": [],
        "files_truncated": False,
        "execution_count": None,
        "duration": 1.5,
        "usage": {"cpu_time": None, "peak_memory_bytes": None},
        "detail": None,
        "state_lost": False,
    }


def test_completed_fields_count() -> None:
    """The end overrides what was assumed before it."""
    body = folded(Stdout(text="a"), Completed(fields={"id": "exe_1", "outcome": "ok", "duration": 9.0}))
    assert (body["outcome"], body["duration"], body["stdout"]) == ("ok", 9.0, "a")


@pytest.mark.parametrize("kind", ["run", "command"])
def test_runs_and_commands_have_their_own_fields(kind: Any) -> None:
    """A command is a run without compile stage and files."""
    body = fold(kind, "x", [Stdout(text="made", stage="compile"), Stdout(text="ran")], elapsed=0.0)
    both = {"id", "outcome", "exit_code", "signal", "stdout", "stderr", "stdout_truncated"}
    both |= {"stderr_truncated", "detail", "duration", "usage"}
    assert set(body) == (both | {"compile", "files", "files_omitted"} if kind == "run" else both)
    assert body["stdout"] == "ran"


def test_result_and_error_and_files() -> None:
    """`result` is the bare MIME map; an error keeps its traceback."""
    body = folded(
        Result(data={"text/plain": "42"}, metadata={"a": 1}, execution_count=3),
        Error(name="ValueError", value="bad", traceback=("one", "two")),
        File(path="a.png", size=3),
    )
    assert body["result"] == {"text/plain": "42"}
    assert body["error"] == {"name": "ValueError", "value": "bad", "traceback": ["one", "two"]}
    assert body["files"] == [{"path": "a.png", "size": 3}]


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        pytest.param([show("a"), show("b")], ["a", "b"], id="in order"),
        pytest.param(
            [show("a", "x"), show("b"), show("c", "x", update=True)], ["c", "b"], id="updated in place"
        ),
        pytest.param(
            [show("a", "x"), show("b", "x"), show("c", "x", update=True)],
            ["c", "c"],
            id="every one of that id",
        ),
        pytest.param([show("a", "x"), show("b", "x")], ["b", "b"], id="shown again updates the first too"),
        pytest.param([show("c", "x", update=True)], [], id="an update of nothing is nothing"),
        pytest.param([show("a"), ClearOutput(), show("b")], ["b"], id="cleared"),
        pytest.param([show("a"), ClearOutput(wait=True)], ["a"], id="cleared only when something comes"),
        pytest.param(
            [show("a"), ClearOutput(wait=True), show("b"), show("c")], ["b", "c"], id="cleared once"
        ),
        pytest.param([show("a"), ClearOutput(wait=True), Stdout(text="t")], [], id="text clears as well"),
        pytest.param(
            [show("a", "x"), ClearOutput(), show("b"), show("c", "x", update=True)],
            ["b"],
            id="what was cleared is not updated",
        ),
        pytest.param(
            [show("a", "x"), ClearOutput(wait=True), show("c", "x", update=True)],
            [],
            id="an update after a waiting clear finds nothing",
        ),
    ],
)
def test_displays(events: list[Event], shown: list[str]) -> None:
    """Display updates and clear_output are applied."""
    assert texts(folded(*events)) == shown


def test_clear_output_clears_text_too() -> None:
    """As a notebook does."""
    body = folded(Stdout(text="old"), Stderr(text="old"), ClearOutput(), Stdout(text="new"))
    assert (body["stdout"], body["stderr"]) == ("new", "")


def test_at_most_a_thousand_displays_are_kept_but_updates_go_on() -> None:
    """The first thousand; a progress bar among them still moves."""
    shown = [show("bar", "x"), *(show(str(n)) for n in range(5000)), show("done", "x", update=True)]
    body = folded(*shown)
    assert len(body["displays"]) == MAX_DISPLAYS
    assert texts(body)[:2] == ["done", "0"]
