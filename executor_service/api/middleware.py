"""What surrounds every request: its id, its count, its log line, its last resort, its size."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from executor_service.api import problems
from executor_service.errors import Internal, PayloadTooLarge
from executor_service.metrics import Metrics

log = logging.getLogger(__name__)
access = logging.getLogger("executor_service.access")
current_request: ContextVar[str] = ContextVar("current_request", default="")
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_DISCARDED = 256 * 1024 * 1024
_DISCARD_SECONDS = 10.0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class RequestContext:
    """Outermost: gives each request an id, counts and logs it, and turns what escaped into a 500."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        token = current_request.set(exchange.id)
        try:
            await self._app(scope, receive, exchange.send)
        except Exception:
            log.exception("unexpected error")
            await self._last_resort(exchange, scope, receive)
        finally:
            self._note(scope, exchange)
            current_request.reset(token)

    async def _last_resort(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        if scope["type"] == "http" and exchange.status == 0:
            answer = problems.response(
                Internal("unexpected error; see the service's log"), request_id=exchange.id
            )
            await answer(scope, receive, exchange.send)
        # else the answer has begun: returning without its end breaks the connection

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.began
        method = scope.get("method", "WEBSOCKET")
        route = getattr(scope.get("route"), "path_format", "none")
        self._metrics.request_ended(
            method=method if method in _METHODS or scope["type"] == "websocket" else "OTHER",
            route=route,
            status=exchange.status,
            seconds=seconds,
        )
        if access.isEnabledFor(logging.INFO):
            fields = {
                "method": method,
                "route": route,
                "status": exchange.status,
                "seconds": round(seconds, 6),
            }
            access.info("request", extra=fields)


class _Exchange:
    """One request and its answer, as far as it has come. `status` is 0 before the answer begins."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        self.status = 0
        self.began = time.perf_counter()
        self._send = send
        scope.setdefault("state", {})["request_id"] = self.id

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self.id
        elif message["type"] == "websocket.accept":
            self.status = 101
            message.setdefault("headers", [])
            MutableHeaders(scope=message)["X-Request-Id"] = self.id
        await self._send(message)


class BodyLimit:
    """Bounds request bodies, those of unknown length while they come.

    `json_bytes` bounds JSON, `upload_bytes` the contents of files and archives (which are streamed).
    """

    def __init__(self, app: ASGIApp, *, json_bytes: int, upload_bytes: int) -> None:
        self._app = app
        self._json_bytes = json_bytes
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._upload_bytes if scope["method"] == "PUT" else self._json_bytes
        if declared_length(scope) > limit:
            if not any(name == b"expect" for name, _ in scope["headers"]):
                await _discard(receive)
            answer = problems.response(_too_large(limit), request_id=problems.request_id(scope))
            await answer(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                await _discard(receive)
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def declared_length(scope: Scope) -> int:
    """The request's `Content-Length`; 0 when it says none that is a number."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


async def _discard(receive: Receive) -> None:
    """Read what still comes, within bounds: most callers look at the answer only after sending all."""
    left = _MOST_DISCARDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b"")) + 1
                if not message.get("more_body", False):
                    return


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body may have at most {limit} bytes")
