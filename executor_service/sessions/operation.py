"""One run, execution or command: its id, its journal, and the handles by which callers steer it.

What the work is belongs to :mod:`.runs`, :mod:`.execution` and :mod:`.command`; they give an
operation its `Control`. The HTTP layer needs no more than this class.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from executor_service.errors import CodecellError, NotWaitingForInput
from executor_service.events import Completed, Event, Json, Started
from executor_service.sessions.fold import FIELDS, fold
from executor_service.sessions.journal import Journal

Kind = Literal["run", "execution", "command"]
State = Literal["running", "done"]
PREFIX: Mapping[Kind, str] = {"run": "run_", "execution": "exe_", "command": "cmd_"}


def new_id(prefix: str) -> str:
    """An id with 128 random bits."""
    return prefix + secrets.token_hex(16)


class Control(Protocol):
    """How the work of one operation is steered while it runs."""

    async def stop(self) -> None:
        """Have it end soon; returns at once or when it has ended."""

    async def input(self, data: bytes | str, *, close: bool) -> None:
        """Give it input. Raises NotWaitingForInput when it takes none."""

    async def signal(self, name: str) -> None:
        """Send its processes a signal. Raises InvalidRequest for an unknown name."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """Of an operation that began under another service."""

    id: str
    started_at: float


class Operation:
    """One operation, from its start until it is forgotten."""

    def __init__(
        self,
        *,
        kind: Kind,
        owner: str,
        detached: bool,
        clock: Callable[[], float],
        stable: bool = False,
        past: Past | None = None,
    ) -> None:
        """`stable`: a later service must find its events under the same numbers. `past`: it began earlier."""
        self.id = new_id(PREFIX[kind]) if past is None else past.id
        self.kind: Kind = kind
        self.owner = owner
        self.detached = detached
        self.journal = Journal(growing=not stable)
        self.started_at = clock() if past is None else past.started_at
        self.seal: Callable[[Operation, Completed], Awaitable[None]] | None = None
        self.ended_at: float | None = None
        self.control: Control | None = None
        self._clock = clock
        self.journal.append(Started(id=self.id))

    def __repr__(self) -> str:
        return f"<Operation {self.id} {self.state} events={len(self.journal)}>"

    @property
    def state(self) -> State:
        return "done" if self.journal.ended else "running"

    def fold(self) -> dict[str, Json]:
        """The JSON body of docs/api.md so far, with `state`; `outcome` is None until the end.

        Raises:
            CodecellError: it ended because the service failed.
        """
        if self.journal.failure is not None:
            raise self.journal.failure
        body = fold(self.kind, self.id, self.journal.events, elapsed=self.elapsed)
        return {**body, "state": self.state}

    async def wait(self) -> None:
        """Until it has ended.

        Raises:
            CodecellError: it ended because the service failed.
        """
        await self.journal.wait()

    async def stop(self) -> None:
        """Stop it (outcome `interrupted`) and wait until it has ended; nothing if it had."""
        if self.control is not None and self.state == "running":
            await self.control.stop()
        await self.journal.ended_event.wait()

    async def input(self, data: bytes | str, close: bool = False) -> None:
        """Answer an execution's `input_request`, or write to a command's standard input.

        Raises:
            NotWaitingForInput: it has ended, takes no input, or has asked for none.
        """
        if self.control is None or self.state == "done":
            raise NotWaitingForInput(f"{self.id} has ended and takes no input")
        await self.control.input(data, close=close)

    async def signal(self, name: str) -> None:
        """Send a signal such as ``SIGTERM`` to a command; nothing if it has ended.

        Raises:
            InvalidRequest: no such signal.
        """
        if self.control is not None and self.state == "running":
            await self.control.signal(name)

    def fail(self, error: CodecellError) -> None:
        """End it without a result, because the service failed."""
        self.ended_at = self._clock()
        self.journal.fail(error)
        self.control = None

    def abandon(self, why: str) -> None:
        """End it as interrupted, unless it has ended: its work was given up."""
        if self.state == "running":
            self.complete(
                {**FIELDS[self.kind], "outcome": "interrupted", "detail": why, "duration": self.elapsed}
            )

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return max(0.0, self._clock() - self.started_at)

    async def finish(self, fields: Mapping[str, Json]) -> None:
        """End it, once a later service would find its end. The operation's own work calls this, once."""
        if self.seal is not None:
            await self.seal(self, self._completed(fields))
        self.complete(fields)

    def complete(self, fields: Mapping[str, Json]) -> None:
        """End it at once."""
        self.ended_at = self._clock()
        self.journal.append(self._completed(fields))
        self.control = None

    def replay(self, events: Iterable[Event], skipped: int, ended_at: float) -> None:
        """It ended under another service, with these events."""
        self.journal.skip(skipped)
        for event in list(events)[1:]:
            self.journal.append(event)
        self.ended_at = ended_at

    def _completed(self, fields: Mapping[str, Json]) -> Completed:
        found = {"id": self.id, **fields}
        if self.journal.skipped:  # the beginning is not known any more
            found |= {"stdout_truncated": True, "stderr_truncated": True}
        return Completed(fields=found)
