"""Server-sent events: one operation's journal as `text/event-stream`, kept awake by comments."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from executor_service.api.connection import until_gone
from executor_service.api.encode import dumps
from executor_service.api.ports import Operation
from executor_service.errors import CodecellError, FieldError, InvalidRequest
from executor_service.events import Event, to_json

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
COMMENT_EVERY = 10.0
_LINE_BREAKS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\u0085\u2028\u2029")
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def wanted(request: Request) -> bool:
    """Whether `Accept` asks for a stream."""
    for each in ",".join(request.headers.getlist("accept")).split(","):
        media_type, *parameters = (part.strip().lower() for part in each.split(";"))
        if media_type == MEDIA_TYPE:
            return not any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
    return False


def last_event_id(request: Request) -> int:
    """The number after which the caller wants to go on; 0 when it has seen nothing.

    Raises:
        InvalidRequest: `Last-Event-ID` is no number.
    """
    text = request.headers.get("last-event-id", "")
    if not text:
        return 0
    if len(text) > 18 or not (text.isascii() and text.isdigit()):
        message = "Last-Event-ID must be the number of an event"
        raise InvalidRequest(message, errors=(FieldError(loc="Last-Event-ID", message=message),))
    return int(text)


def encode(number: int, event: Event) -> bytes:
    """One event on the wire; `data` is one line, also for clients that split at any Unicode line break."""
    data = dumps(to_json(event))
    for line_break, escape in _LINE_BREAKS:
        data = data.replace(line_break, escape)
    return b"event: %b\nid: %d\ndata: %b\n\n" % (event.TYPE.encode(), number, data)


class EventStream(Response):
    """Streams `operation` from after `after` to its end.

    `finish(operation)` is awaited when the stream has ended, whether the operation has or the
    caller hung up: it decides what the latter means.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        operation: Operation,
        *,
        after: int = 0,
        finish: Callable[[Operation], Awaitable[None]] | None = None,
        status: int = 200,
        comment_every: float = COMMENT_EVERY,
    ) -> None:
        super().__init__(status_code=status, headers=_HEADERS)
        del self.headers["content-length"]
        self._operation = operation
        self._after = after
        self._finish = finish
        self._comment_every = comment_every

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(self._stream(send), receive)
        finally:
            if self._finish is not None:
                await asyncio.shield(self._finish(self._operation))

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        awake = asyncio.create_task(self._stay_awake(send))
        try:
            async for number, event in self._operation.journal.follow(self._after):
                await _write(send, encode(number, event))
        except CodecellError as error:
            # Returning without an end breaks the connection: that is how a stream says "we failed".
            log.warning("stream broken off: %s", error.detail, extra={"operation_id": self._operation.id})
            return
        finally:
            awake.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await awake
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stay_awake(self, send: Send) -> None:
        while True:
            await asyncio.sleep(self._comment_every)
            await _write(send, b": still here\n\n")


async def _write(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})
