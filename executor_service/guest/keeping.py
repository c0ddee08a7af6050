"""What an operation says to the service, and keeps for a service that comes back.

An *attached* operation says everything once and ends with its connection. A *kept* one numbers its
frames from 1 and holds them, so that a later connection, which process 1 passes on, hears them again.
Not here: which operations are kept, and what process 1 knows of them (`ledger`).
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from executor_service.guest import channel
from executor_service.guest.protocol import pack_json

FRAME_COST = 128  # bytes that a kept frame costs beside its own
TAIL_BYTES = 8 * 1024 * 1024  # of frames that were sent and are held
AHEAD_BYTES = 4 * 1024 * 1024  # of frames that may wait to be sent before their source is not read any more
BATCH = 256 * 1024  # bytes that are handed to a connection at once


class Dropped(Exception):
    """The service wants nothing of this operation any more."""


class Log:
    """The numbered frames of one kept operation.

    The head is given up once the tail is long enough, but only up to a *mark*: a place at which the
    service has told what it must know to go on from there.
    """

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.first = 0  # frames that were given up
        self.sent = 0  # the number of the last frame that was handed on
        self.state: dict[str, Any] | None = None  # what the service knew after frame `first`
        self.held = self.ahead = 0  # bytes in all, and of frames that wait
        self._frames: deque[bytes] = deque()
        self._marks: deque[tuple[int, dict[str, Any]]] = deque()

    @property
    def last(self) -> int:
        """The number of the newest frame."""
        return self.first + len(self._frames)

    def put(self, frame: bytes) -> None:
        """Add a frame."""
        self._frames.append(frame)
        self.held += len(frame) + FRAME_COST
        self.ahead += len(frame) + FRAME_COST

    def take(self) -> bytes:
        """The next frames to be sent, about `BATCH` bytes; empty when there are none."""
        batch = bytearray()
        while self.sent < self.last and len(batch) < BATCH:
            frame = self._frames[self.sent - self.first]
            batch += frame
            self.sent += 1
            self.ahead -= len(frame) + FRAME_COST
        return bytes(batch)

    def mark(self, number: int, state: dict[str, Any]) -> None:
        """The service has dealt with frame `number`, and would go on there with `state`."""
        newest = self._marks[-1][0] if self._marks else self.first
        if newest < number <= self.sent:
            self._marks.append((number, state))
        while self._marks and self.held - self.ahead > TAIL_BYTES:
            self._give_up(*self._marks.popleft())

    def _give_up(self, number: int, state: dict[str, Any]) -> None:
        while self.first < number:
            self.held -= len(self._frames.popleft()) + FRAME_COST
            self.first += 1
        self.state = state

    def rewind(self, after: int) -> int:
        """Have what follows frame `after` sent again, or all that is held; the number of the frame before."""
        self.sent = self.first if after < self.first else min(after, self.last)
        frames = list(self._frames)[self.sent - self.first :]
        self.ahead = sum(len(frame) + FRAME_COST for frame in frames)
        return self.sent


class Outbox:
    """What waits for the service. `control` leads to process 1, in an operation that may be kept."""

    def __init__(self, connection: socket.socket, control: socket.socket | None = None) -> None:
        self.connection: socket.socket | None = connection
        self.control = control
        self.log: Log | None = None
        self.before_close: Callable[[int], object] = lambda _: None  # told which descriptor goes
        self._buffer = bytearray()

    @property
    def waits(self) -> bool:
        """Whether there is something to be sent, and somebody to send it to."""
        return self.connection is not None and bool(
            self._buffer or (self.log is not None and self.log.sent < self.log.last)
        )

    def full(self, limit: int) -> bool:
        """Whether so much waits that nothing should be added: `limit` bytes, more where it is kept."""
        if self.log is not None:
            return self.log.ahead >= AHEAD_BYTES
        return len(self._buffer) >= limit

    def keep(self, operation: str) -> None:
        """Number and hold what is said from now on."""
        self.log = Log(operation)

    def forget(self) -> None:
        """Hold nothing any more."""
        if self.log is not None:
            while batch := self.log.take():
                self._buffer += batch
            self.log = None

    def put(self, frame: bytes) -> None:
        """Say something."""
        if self.log is not None:
            self.log.put(frame)
        else:
            self._buffer += frame

    def flush(self) -> bool:
        """Send what fits now; False when the service has gone and nothing is kept."""
        if self.connection is None:
            return True
        try:
            while self._buffer or self._refill():
                del self._buffer[: self.connection.send(self._buffer)]
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return self.lose()
        return True

    def _refill(self) -> bool:
        if self.log is not None:
            self._buffer += self.log.take()
        return bool(self._buffer)

    def lose(self) -> bool:
        """The service has gone: whether the operation goes on all the same."""
        if self.log is None:
            return False
        self._disconnect()
        return True

    def _disconnect(self) -> None:
        self._buffer.clear()
        if self.connection is not None:
            self.before_close(self.connection.fileno())
            self.connection.close()
            self.connection = None

    def heed(self, **about: Any) -> None:
        """Take what process 1 passes on: another connection, in place of the present one.

        `about` is told in the answer. Raises Dropped: process 1 has let go of this operation.
        """
        assert self.control is not None
        try:
            message, fds = channel.receive(self.control)
        except (BlockingIOError, InterruptedError):
            return
        except (EOFError, OSError):
            raise Dropped from None
        except (ValueError, RecursionError, TypeError):
            return
        if not fds:
            return
        channel.close(fds[1:])
        self._disconnect()
        self.connection = socket.socket(fileno=fds[0])
        self.connection.setblocking(False)
        log = self.log
        start = log.rewind(int(message.get("after", 0))) if log else 0
        self._buffer += pack_json(
            {
                "type": "attached",
                "operation": log.operation if log else None,
                "from": start,
                "last": log.last if log else 0,
                "state": log.state if log and start == log.first else None,
                **about,
            }
        )
        self.flush()


def hear_keeping(out: Outbox, order: dict[str, Any]) -> bool:
    """Heed the service's `keep`, `mark` and `forget`; whether it was one of these."""
    match order.get("type"):
        case "keep":
            out.forget()  # one at a time
            name = str(order["operation"])[:128]
            out.put(pack_json({"type": "keeping", "operation": name}))  # frames are counted from here
            out.keep(name)
        case "mark":
            if out.log is not None and isinstance(order.get("state"), dict):
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    out.log.mark(int(order["frame"]), order["state"])
        case "forget":
            out.forget()
        case _:
            return False
    return True
