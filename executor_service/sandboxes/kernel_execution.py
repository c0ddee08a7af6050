"""One execution as its kernel tells it: which messages count, how much of them, and when it is done.

Pure: messages in, events out; the connection and the waiting are `kernel`'s. It is done when both the
reply (shell) and the idle status (iopub) have come, in either order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from executor_service.events import Error, Event, Json, Result, Stderr, Stdout
from executor_service.guest.kernel_frames import IOPUB, SHELL, STDIN
from executor_service.sandboxes.kernel_messages import (
    KernelMessage,
    count_of,
    error_of,
    event_of,
    input_request_of,
)

DISPLAY_BYTES = 64 * 1024 * 1024  # of displays, results and what events cost, per execution
LARGE = 64 * 1024  # bytes of a body that is worth counting before it is parsed
EVENT_COST = 512  # bytes that an event is taken to cost, whatever it says

SPARE_ERRORS = 4  # that are passed on past the limit: they say how the interrupt went


@dataclass(frozen=True, kw_only=True)
class KernelDone:
    """The end of an execution. `died`: the kernel ended, with `exit_code` or `signal` if known.

    `output_limit` says that the execution was interrupted because it said too much; the stream
    that was cut has `*_truncated`.
    """

    status: Literal["ok", "error", "died"]
    execution_count: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    output_limit: bool = False


class Execution:
    """The state of the execution with this `msg_id`."""

    def __init__(self, msg_id: str, *, output_bytes: int) -> None:
        self.msg_id = msg_id
        self.started = False  # its code runs, so that an interrupt reaches it
        self.replied = False
        self.idle = False
        self.over_limit = False
        self.input_header: Mapping[str, Json] | None = None  # of the input request that waits
        self._left = {"stdout": output_bytes, "stderr": output_bytes}
        self._truncated: set[str] = set()
        self._display_left = DISPLAY_BYTES
        self._large_left = DISPLAY_BYTES + 16 * output_bytes  # of all large bodies, parsed at most once each
        self._spare_errors = SPARE_ERRORS
        self._status: Literal["ok", "error"] = "ok"
        self._error_shown = False
        self._reply_error: Error | None = None
        self._count: int | None = None

    def feed(self, message: KernelMessage) -> Event | None:
        """What a message shows. Messages of other executions show nothing here."""
        if message.parent_id != self.msg_id:
            return None
        if len(message.body) > LARGE:
            self._large_left -= len(message.body)
            if self._large_left < 0:
                self.feed_oversize(message.channel)
                return None
        if message.channel == IOPUB:
            return self._on_iopub(message)
        if message.channel == SHELL and message.type == "execute_reply":
            return self._on_reply(message.content() or {})
        if message.channel == STDIN and message.type == "input_request":
            self.input_header = message.header
            return self._paid(input_request_of(message.content() or {}), len(message.body))
        return None

    def feed_oversize(self, channel: int) -> None:
        """A message was too large to be passed on. A lost reply counts as one of an error."""
        self.over_limit = True
        if channel == SHELL and not self.replied:
            self.replied, self._status = True, "error"

    def state(self) -> dict[str, Json]:
        """What another object must know to go on from here; see `restore`."""
        return {
            "started": self.started,
            "replied": self.replied,
            "idle": self.idle,
            "over_limit": self.over_limit,
            "input_header": None if self.input_header is None else dict(self.input_header),
            "left": dict(self._left),
            "truncated": sorted(self._truncated),
            "display_left": self._display_left,
            "large_left": self._large_left,
            "spare_errors": self._spare_errors,
            "status": self._status,
            "error_shown": self._error_shown,
            "count": self._count,
        }

    def restore(self, state: Mapping[str, Json]) -> None:
        """Go on where `state` was told. It comes back from a sandbox: what makes no sense is left out."""
        for name in ("started", "replied", "idle", "over_limit"):
            setattr(self, name, state.get(name) is True)
        header, left = state.get("input_header"), state.get("left")
        self.input_header = header if isinstance(header, dict) else None
        self._left |= {k: v for k, v in left.items() if k in self._left} if isinstance(left, dict) else {}
        self._left = {k: max(0, min(v, 1 << 40)) if type(v) is int else 0 for k, v in self._left.items()}
        self._truncated = {each for each in ("stdout", "stderr") if each in _list(state.get("truncated"))}
        self._display_left = _bounded(state.get("display_left"), self._display_left)
        self._large_left = _bounded(state.get("large_left"), self._large_left)
        self._spare_errors = _bounded(state.get("spare_errors"), SPARE_ERRORS)
        self._status = "error" if state.get("status") == "error" else "ok"
        self._error_shown = state.get("error_shown") is True
        self._count = count_of({"execution_count": state.get("count")})

    def unsaid_error(self) -> Error | None:
        """The reply's exception, if iopub did not show one; ask once, at the end."""
        error, self._reply_error = self._reply_error, None
        return None if self._error_shown else error

    def done(self) -> KernelDone:
        """The end as far as it is known: give it once `replied` and `idle`, or when one is missing."""
        return KernelDone(
            status=self._status if self.replied else "error",
            execution_count=self._count,
            stdout_truncated="stdout" in self._truncated,
            stderr_truncated="stderr" in self._truncated,
            output_limit=self.over_limit,
        )

    def died(self, exit_code: int | None, signal: str | None) -> KernelDone:
        """The end when the kernel ended first."""
        return replace(self.done(), status="died", exit_code=exit_code, signal=signal)

    def _on_iopub(self, message: KernelMessage) -> Event | None:
        if message.type not in _SHOWN:
            return None
        if message.type in _DROPPED_WHEN_OVER and self.over_limit:
            return None
        content = message.content()
        if content is None:
            return None
        if message.type == "execute_input":
            self.started, self._count = True, count_of(content)
        elif message.type == "status":
            self.idle |= content.get("execution_state") == "idle"
        else:
            return self._admit(event_of(message.type, content), len(message.body))
        return None

    def _admit(self, event: Event | None, size: int) -> Event | None:
        match event:
            case None:
                return None
            case Stdout() | Stderr():
                event = self._cut(event)
                size = 0
            case Error():
                self._error_shown = True
                size = len(event.value) + sum(map(len, event.traceback))
            case Result() if event.execution_count is None:
                event = replace(event, execution_count=self._count)
            case _:
                pass
        return self._paid(event, size) if event is not None else None

    def _cut(self, event: Stdout | Stderr) -> Stdout | Stderr | None:
        data = event.text.encode()
        left = self._left[event.TYPE]
        if len(data) <= left:
            self._left[event.TYPE] = left - len(data)
            return event
        self._left[event.TYPE] = 0
        self._truncated.add(event.TYPE)
        self.over_limit = True
        text = data[:left].decode(errors="ignore")
        return replace(event, text=text) if text else None

    def _paid(self, event: Event, size: int) -> Event | None:
        """`event`, if the execution may still say that much. Some errors always may."""
        self._display_left -= size + EVENT_COST
        if self._display_left >= 0:
            return event
        self.over_limit = True
        if isinstance(event, Error) and self._spare_errors:
            self._spare_errors -= 1
            return event
        if isinstance(event, (Stdout, Stderr)):
            self._truncated.add(event.TYPE)
        return None

    def _on_reply(self, content: Mapping[str, Json]) -> Event | None:
        """`aborted` is an error too: an earlier one made the kernel skip this execution."""
        if self.replied:
            return None
        self.replied = True
        self._count = count_of(content) or self._count
        status = content.get("status")
        if status == "ok":
            return None
        self._status = "error"
        if status == "aborted":
            return Error(name="Aborted", value="the kernel skipped this execution")
        if status == "error":
            self._reply_error = error_of(content)  # iopub says it too, but may be behind
        return None


def _bounded(value: Json, most: int) -> int:
    return min(value, most) if type(value) is int else most


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


_SHOWN = frozenset(
    {
        "stream",
        "display_data",
        "update_display_data",
        "execute_result",
        "clear_output",
        "error",
        "execute_input",
        "status",
    }
)
_DROPPED_WHEN_OVER = frozenset({"display_data", "update_display_data", "clear_output"})
