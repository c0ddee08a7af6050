"""The journal of an operation: its events in order, numbered from 1, for any number of followers.

Nothing is lost and nothing is delayed: a follower that keeps up gets each event as it comes. Text
that no follower has seen yet grows in place instead of becoming an event of its own, so a program
that writes byte by byte costs little when nobody watches. A journal that has become long hands out
its newest text only every `SETTLE` seconds, so that this holds with a watcher too. Where the numbers must
be the same after a restart of the service, nothing grows: each event is what the guest sent at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from executor_service.errors import CodecellError
from executor_service.events import Completed, Event, Stderr, Stdout

GROW_TO = 4096  # characters; appending copies, so an event that grows must stay small
LONG = 10_000  # events
SETTLE = 0.02


class Journal:
    """Append-only; ends with `Completed`, or with a failure of the service."""

    def __init__(self, *, growing: bool = True) -> None:
        self._events: list[Event] = []
        self._growing = growing
        self._skipped = 0
        self._delivered = 0
        self._size = 0
        self.ended_event = asyncio.Event()
        self._failure: CodecellError | None = None
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened so far."""
        return tuple(self._events)

    @property
    def size(self) -> int:
        """About how many bytes it holds: characters of text and data, and a share for each event."""
        return self._size + 200 * len(self._events)

    @property
    def skipped(self) -> int:
        """How many events are missing after the first: they are not known any more."""
        return self._skipped

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return len(self._events) + self._skipped if self._events else 0

    def skip(self, count: int) -> None:
        """Number the events after the first as if `count` more had come before them. Before these come."""
        self._skipped = count

    @property
    def ended(self) -> bool:
        return self.ended_event.is_set()

    @property
    def failure(self) -> CodecellError | None:
        """Why it ended without `Completed`, if it did: a fault of the service."""
        return self._failure

    def append(self, event: Event) -> None:
        """Add an event; after the end there is nothing to add, and what comes late is dropped."""
        if self.ended:
            return
        self._size += weigh(event)
        if not self._grow(event):
            self._events.append(event)
        if isinstance(event, Completed):
            self.ended_event.set()
        self._tell()

    def fail(self, error: CodecellError) -> None:
        """End without `Completed`: followers and waiters get `error`."""
        if self.ended:
            return
        self._failure = error
        self.ended_event.set()
        self._tell()

    async def wait(self) -> None:
        """Until the end. Raises the service's failure if that was the end."""
        await self.ended_event.wait()
        if self._failure is not None:
            raise self._failure

    async def follow(self, after: int = 0) -> AsyncIterator[tuple[int, Event]]:
        """Each event with its number, from number `after` + 1 on, until the end.

        Raises:
            CodecellError: the service failed; there is no `Completed` then.
        """
        position = max(0, after)
        if position:
            position = max(1, position - self._skipped)
        while True:
            while position < len(self._events):
                if position >= LONG and position == len(self._events) - 1 and not self.ended:
                    await asyncio.sleep(SETTLE)
                position += 1
                self._delivered = max(self._delivered, position)
                yield position + (self._skipped if position > 1 else 0), self._events[position - 1]
            if self.ended:
                break
            await self._news.wait()
        if self._failure is not None:
            raise self._failure

    def _grow(self, event: Event) -> bool:
        """Whether `event` could be put into one that nobody has seen."""
        if not self._growing or not isinstance(event, Stdout | Stderr):
            return False
        oldest = len(self._events) - (2 if len(self._events) > LONG else 1)
        for index in range(len(self._events) - 1, max(oldest, self._delivered) - 1, -1):
            last = self._events[index]
            if not isinstance(last, Stdout | Stderr):
                return False
            if type(last) is type(event) and last.stage == event.stage:
                if len(last.text) + len(event.text) > GROW_TO:
                    return False
                self._events[index] = replace(last, text=last.text + event.text)
                return True
        return False

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def weigh(event: Event) -> int:
    """About how many bytes an event holds beside its own object."""
    if isinstance(event, Stdout | Stderr):
        return len(event.text)
    return sum(_weigh(getattr(event, name)) for name in event.__dataclass_fields__)


def _weigh(value: object) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(_weigh(k) + _weigh(v) + 16 for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(_weigh(item) + 8 for item in value)
    return 16
