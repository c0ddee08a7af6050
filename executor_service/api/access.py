"""Who may call: a key where keys are set; else only this machine, and no web page.

Without a key the service is open to whoever reaches it, so it listens on loopback only, and a
browser must not be made to drive it: a foreign `Host` (DNS rebinding) or `Origin` is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from executor_service.api import problems
from executor_service.errors import CodecellError, Forbidden, Unauthorized
from executor_service.keys import KeyRing

ALWAYS_OPEN = frozenset({"/healthz", "/readyz"})


class Guard:
    """Middleware: refuses who may not call, and notes the caller's key id as `owner`.

    `open_paths` need no key, beside `/healthz` and `/readyz`.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._keys = keys
        self._open = ALWAYS_OPEN | open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            owner = self._owner(scope)
        except CodecellError as error:
            await _refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)

    def _owner(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        if not self._keys.required:
            check_local(headers.getlist("host"), headers.getlist("origin"))
            return ""
        if scope["path"] in self._open:
            return ""
        shown = _shown(headers)
        if shown is None:
            raise Unauthorized("send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        key = self._keys.find(shown)
        if key is None:
            raise Unauthorized("this key is not known here")
        return key.id


def check_local(hosts: Sequence[str], origins: Sequence[str]) -> None:
    """Check that a request without a key comes from this machine and from no foreign web page.

    Raises:
        Forbidden: `Host` is no loopback name, or `Origin` is another than the service's own.
    """
    if not hosts or not all(is_loopback(host_of(host)) for host in hosts):
        raise Forbidden("without a key the service answers only to loopback names such as localhost")
    own = hosts[0].strip().lower()
    if any(origin.strip().lower() not in (f"http://{own}", f"https://{own}") for origin in origins):
        raise Forbidden("without a key the service answers no other web page")


def host_of(authority: str) -> str:
    """The host in `host`, `host:port` or `[address]:port`."""
    text = authority.strip().lower()
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host if not rest or rest.startswith(":") else text
    return text.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a host name or address always means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(headers: Headers) -> bytes | None:
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip().encode("latin-1")
    key = headers.get("x-api-key", "").strip()
    return key.encode("latin-1") if key else None


async def _refuse(error: CodecellError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await problems.refuse_websocket(WebSocket(scope, receive, send), error)
        return
    answer = problems.response(error, request_id=problems.request_id(scope))
    await answer(scope, receive, send)
