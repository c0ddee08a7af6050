"""From a stream of events to the one result that the folded answer would have been."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from agent_client.wire.events import ClearOutput, Completed, Display, Event, Result, Started, Stderr, Stdout

R_co = TypeVar("R_co", covariant=True)
MAX_DISPLAYS = 1000


class Parse(Protocol[R_co]):
    """Makes a result from the folded JSON body."""

    def __call__(self, data: dict[str, Any], /) -> R_co: ...


@dataclass
class Fold(Generic[R_co]):
    """Takes the events of one operation in turn; `result` is set once `completed` came."""

    parse: Parse[R_co]
    id: str = ""
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    displays: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list)
    last: Result | None = None
    result: R_co | None = None
    _clear_next: bool = False

    def add(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case Started():
                self.id = event.id
            case Stdout(stage=None):
                self._output()
                self.stdout.append(event.text)
            case Stderr(stage=None):
                self._output()
                self.stderr.append(event.text)
            case Display():
                self._display(event)
            case ClearOutput(wait=wait):
                self._clear_next = wait
                if not wait:
                    self._clear()
            case Result():
                self._output()
                self.last = event
            case Completed():
                self.result = self.parse(self._body(event))

    def _output(self) -> None:
        if self._clear_next:
            self._clear()

    def _clear(self) -> None:
        self._clear_next = False
        self.stdout.clear()
        self.stderr.clear()
        self.displays.clear()

    def _display(self, event: Display) -> None:
        shown = {"data": event.data, "metadata": event.metadata}
        if event.update:
            self.displays = [
                (known, shown if known is not None and known == event.display_id else old)
                for known, old in self.displays
            ]
            return
        self._output()
        if len(self.displays) < MAX_DISPLAYS:
            self.displays.append((event.display_id, shown))

    def _body(self, event: Completed) -> dict[str, Any]:
        return {
            "id": self.id,
            **event.fields,
            "stdout": "".join(self.stdout),
            "stderr": "".join(self.stderr),
            "displays": [shown for _, shown in self.displays],
            "result": self.last.data if self.last else None,
        }
