"""From a stream of events to the one result that the folded answer would have been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from agent_client.wire.events import ClearOutput, Completed, Display, Event, Result, Started, Stderr, Stdout

R = TypeVar("R")
MAX_DISPLAYS = 1000


@dataclass
class Fold(Generic[R]):
    """Takes the events of one operation in turn; `result` is set once `completed` came.

    `parse` makes the result from the folded JSON body.
    """

    parse: Callable[[dict[str, Any]], R]
    id: str = ""
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    displays: list[Display] = field(default_factory=list)
    last: Result | None = None
    result: R | None = None
    _clear_next: bool = False

    def add(self, event: Event) -> None:
        """Take in the next event."""
        updates = isinstance(event, Display) and event.update
        if self._clear_next and isinstance(event, Stdout | Stderr | Display | Result) and not updates:
            self._clear()
        match event:
            case Started():
                self.id = event.id
            case Stdout(stage=None):
                self.stdout.append(event.text)
            case Stderr(stage=None):
                self.stderr.append(event.text)
            case Display(update=True, display_id=str() as known):
                self.displays = [event if old.display_id == known else old for old in self.displays]
            case Display(update=False) if len(self.displays) < MAX_DISPLAYS:
                self.displays.append(event)
            case Result():
                self.last = event
            case ClearOutput(wait=True):
                self._clear_next = True
            case ClearOutput():
                self._clear()
            case Completed():
                self.result = self.parse(self._body(event))

    def _clear(self) -> None:
        self._clear_next = False
        for kept in (self.stdout, self.stderr, self.displays):
            kept.clear()

    def _body(self, event: Completed) -> dict[str, Any]:
        return {
            "id": self.id,
            **event.fields,
            "stdout": "".join(self.stdout),
            "stderr": "".join(self.stderr),
            "displays": [{"data": shown.data, "metadata": shown.metadata} for shown in self.displays],
            "result": self.last.data if self.last else None,
        }
