"""Errors at the wire: every one is answered as application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope
from starlette.websockets import WebSocket

from executor_service import errors as e
from executor_service.api.fields import ENV_NAME, NO_NUL

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_UNION_TAGS = frozenset({"bool", "NetworkRules"})
_MOST_ERRORS = 50
_BY_STATUS: Mapping[int, type[e.CodecellError]] = {
    401: e.Unauthorized,
    403: e.Forbidden,
    404: e.NotFound,
    405: e.MethodNotAllowed,
    413: e.PayloadTooLarge,
    415: e.UnsupportedMediaType,
    416: e.RangeNotSatisfiable,
    501: e.NotImplementedHere,
}


def request_id(scope: Scope) -> str:
    """The id that the outermost middleware gave this request."""
    return str(scope.get("state", {}).get("request_id", ""))


def body(error: e.CodecellError, *, request_id: str) -> dict[str, Any]:
    """The JSON of an error."""
    found: dict[str, Any] = {
        "type": f"urn:codecell:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        found["errors"] = [{"loc": each.loc, "message": each.message} for each in error.errors]
    return found


def response(
    error: e.CodecellError, *, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that ended in `error`."""
    content = json.dumps(body(error, request_id=request_id)).encode()
    extra = {**_headers(error), **(headers or {})}
    return Response(content, status_code=error.status, media_type=MEDIA_TYPE, headers=extra)


def _headers(error: e.CodecellError) -> dict[str, str]:
    found: dict[str, str] = {"Cache-Control": "no-store"}
    if isinstance(error, e.Unauthorized):
        found["WWW-Authenticate"] = "Bearer"
    if isinstance(error, e.PayloadTooLarge):
        found["Connection"] = "close"
    retry = error.retry_after
    if retry is None and error.status == 503:
        retry = 1.0
    if retry is not None:
        found["Retry-After"] = str(max(1, math.ceil(retry)))
    return found


def field_errors(found: Iterable[Mapping[str, Any]], *, skip: int = 0) -> tuple[e.FieldError, ...]:
    """Pydantic's errors as ours, without the input that caused them; `skip` leading parts of `loc`."""
    seen: dict[tuple[str, str], e.FieldError] = {}
    for each in found:
        error = e.FieldError(loc=_loc(each["loc"][skip:]), message=_message(each))
        seen.setdefault((error.loc, error.message), error)
    return tuple(seen.values())[:_MOST_ERRORS]


def invalid(found: Iterable[Mapping[str, Any]], *, skip: int = 0) -> e.InvalidRequest:
    """One InvalidRequest for all that pydantic found; its detail names the first field."""
    errors = field_errors(found, skip=skip)
    first = errors[0]
    detail = f"{first.loc}: {first.message}" if first.loc else first.message
    return e.InvalidRequest(detail, errors=errors)


def _loc(parts: Sequence[int | str]) -> str:
    named = [str(p) for n, p in enumerate(parts) if not (n == 1 and p in _UNION_TAGS)]
    return ".".join(p for p in named if p != "[key]")[:512]


def _message(error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "json_invalid":
        return f"the body is not valid JSON: {context.get('error', '')}"[:200]
    if kind == "string_pattern_mismatch" and context.get("pattern") == NO_NUL:
        return "must not contain NUL"
    if kind == "string_pattern_mismatch" and context.get("pattern") == ENV_NAME:
        return "must not contain '=' or NUL"
    return str(error["msg"])[:500]


def from_http(error: HTTPException, request: Request) -> e.CodecellError:
    """What the framework itself refused, as an error of ours."""
    kind = _BY_STATUS.get(error.status_code)
    if error.status_code == 404:
        return e.NotFound(f"there is nothing at {request.url.path[:200]}")
    if error.status_code == 405:
        return e.MethodNotAllowed(f"{request.method[:32]} is not possible here")
    if kind is not None:
        return kind(str(error.detail))
    return (e.InvalidRequest if error.status_code < 500 else e.Internal)(str(error.detail))


def install(app: FastAPI) -> None:
    """Make `app` answer every error as problem+json."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, e.CodecellError)
        if isinstance(error, e.ServiceFault):
            log.warning("request failed: %s", error.detail, extra={"code": error.code})
        return response(error, request_id=request_id(request.scope))

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {k: v for k, v in (error.headers or {}).items() if k.lower() == "allow"}
        ours = from_http(error, request)
        return response(ours, request_id=request_id(request.scope), headers=headers)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response(invalid(error.errors(), skip=1), request_id=request_id(request.scope))

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def refused(socket: WebSocket, error: Exception) -> None:
        found = error if isinstance(error, e.CodecellError) else None
        if isinstance(error, WebSocketRequestValidationError):
            found = invalid(error.errors(), skip=1)
        await refuse_websocket(socket, found or e.NotFound("there is nothing here"))

    async def either(connection: Request, error: Exception) -> Response:
        if isinstance(connection, WebSocket):
            await refused(connection, error)
            return Response()
        return await ours(connection, error)

    app.add_exception_handler(e.CodecellError, either)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(WebSocketRequestValidationError, refused)
    app.add_exception_handler(ClientDisconnect, gone)


async def refuse_websocket(socket: WebSocket, error: e.CodecellError) -> None:
    """Answer a handshake with problem+json, where the server can; else close."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(response(error, request_id=request_id(socket.scope)))
    else:
        await socket.close(code=1008, reason=error.code)
