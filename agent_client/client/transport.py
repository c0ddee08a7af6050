"""HTTP to the service: addresses, keys, retries, and the one place where foreign errors are translated.

A request is sent again only where nothing can have started: the connection was never made, or the
service refused with 503 and said when to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypedDict, Unpack

import httpx2

from agent_client import errors
from agent_client.autostart import Address
from agent_client.blocking import PerLoop

Json = Any
CONNECT_TIME = 5.0
ANSWER_TIME = 30.0  # plain requests
WORK_TIME = 900.0  # a folded answer comes when the work has ended: above every ceiling of the service
QUIET_TIME = 60.0  # a stream shows life every 10 s
MAX_PAUSE = 10.0
_CONNECT_FAILED = (httpx2.ConnectError, httpx2.ConnectTimeout)


class Sending(TypedDict, total=False):
    """What a request may have."""

    json: Mapping[str, Json] | None
    params: Mapping[str, Any]
    content: bytes | AsyncIterable[bytes]
    headers: Mapping[str, str]


class Transport:
    """Sends requests to one service. `locate` is asked for its address at the first request."""

    def __init__(self, locate: Callable[[], Address], *, retries: int = 3) -> None:
        self._locate = locate
        self._retries = retries
        self._address: Address | None = None
        self._http = PerLoop(self._new_client)

    async def address(self) -> Address:
        """The service's address; finding it may start a service."""
        if self._address is None:
            self._address = await asyncio.to_thread(self._locate)
        return self._address

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._http.take()
        if client is not None:
            await client.aclose()

    async def json(
        self, method: str, path: str, *, wait: float = ANSWER_TIME, **sending: Unpack[Sending]
    ) -> Any:
        """The JSON answer (None for an empty one); `wait` seconds for each piece of it."""
        async with self.stream(method, path, wait=wait, **sending) as response:
            raw = await read_all(response)
        try:
            return json.loads(raw) if raw else None
        except ValueError as error:
            raise _not_codecell(response) from error

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, path: str, *, wait: float = ANSWER_TIME, **sending: Unpack[Sending]
    ) -> AsyncIterator[httpx2.Response]:
        """The answer with its body unread; its status is below 300.

        Raises:
            ServiceUnreachable: nothing answers there, or something else than the service does.
            ApiError: the service refused.
            StreamBroken: the connection broke before the answer began.
        """
        url = (await self.address()).url
        timeout = httpx2.Timeout(wait, connect=CONNECT_TIME, pool=None)
        once = isinstance(sending.get("content"), AsyncIterable)  # which cannot be read again
        with _translated(url):
            request = self._http.get().build_request(method, url + path, timeout=timeout, **sending)
        response = await self._send(request, url, 0 if once else self._retries)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(self, request: httpx2.Request, url: str, retries: int) -> httpx2.Response:
        for attempt in range(retries + 1):
            asked: float | None = None
            try:
                response = await self._http.get().send(request, stream=True)
            except httpx2.HTTPError as error:
                if attempt == retries or not isinstance(error, _CONNECT_FAILED):
                    raise _translate(error, url) from error
            else:
                if response.status_code < 300:
                    return response
                problem = await _problem(response, url)
                asked = getattr(problem, "retry_after", None)
                if attempt == retries or response.status_code != 503 or asked is None:
                    raise problem
            await asyncio.sleep(_pause(attempt, asked))
        raise AssertionError("unreachable")

    def _new_client(self) -> httpx2.AsyncClient:
        address = self._address
        assert address is not None
        key = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        return httpx2.AsyncClient(
            headers={"User-Agent": "codecell-client", **key},
            trust_env=not _is_loopback(address.url),
            # Shorter than the server's own keep-alive (5 s), so that it never closes under a request.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=2.0),
        )


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn httpx2's errors into this package's."""
    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise _translate(error, url) from error


async def body_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body, piece by piece.

    Raises:
        StreamBroken: the connection ended first.
    """
    chunks = response.aiter_bytes()
    while True:
        with _translated(str(response.request.url.copy_with(path="", query=None))):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


async def read_all(response: httpx2.Response) -> bytes:
    """The whole body.

    Raises:
        StreamBroken: the connection ended first.
    """
    return b"".join([chunk async for chunk in body_of(response)])


def refusal(
    status: int, raw: bytes | bytearray, headers: Mapping[str, str], *, url: str, key_sent: bool
) -> errors.CodecellError | None:
    """The error for an answer that is not a success; None where the service did not write it."""
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if status == 401 and not raw:
        found = {"code": errors.AuthenticationFailed.CODE, "detail": "Missing or unknown key"}
    if not isinstance(found, Mapping) or ("code" not in found and status != 401):
        return None
    return errors.api_error(
        status,
        found,
        url=url,
        request_id=headers.get("X-Request-Id"),
        retry_after=_seconds(headers.get("Retry-After")),
        key_sent=key_sent,
    )


async def _problem(response: httpx2.Response, url: str) -> errors.CodecellError:
    """The error for an answer that is not a success; closes it."""
    try:
        raw = await read_all(response)
    finally:
        await response.aclose()
    key_sent = "Authorization" in response.request.headers
    error = refusal(response.status_code, raw, response.headers, url=url, key_sent=key_sent)
    return error or _not_codecell(response)


def _not_codecell(response: httpx2.Response) -> errors.UnexpectedAnswer:
    to = response.headers.get("Location")
    what = f"status {response.status_code}" + (f", redirecting to {to}" if to else "")
    return errors.UnexpectedAnswer(
        f"What answers at {response.request.url} ({what}) is not a Codecell service. Check CODECELL_URL (or"
        " base_url=, --url): it is the service's root, such as http://127.0.0.1:8700."
    )


def _translate(error: Exception, url: str) -> errors.CodecellError:
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return errors.ServiceUnreachable(
            f"{url!r} is not the URL of a service ({reason}): write http://HOST:PORT"
        )
    if isinstance(error, (*_CONNECT_FAILED, httpx2.ProxyError)):
        return errors.ServiceUnreachable(
            f"No Codecell service answers at {url} ({reason}). Start one with `codecell-executor serve`, or"
            " say where it is with CODECELL_URL (or base_url=, --url)."
        )
    return errors.StreamBroken(
        f"The connection to the service at {url} broke before the answer was complete ({reason}). What ran"
        " may or may not have finished; check that the service is alive (GET /healthz), then try again."
    )


def _pause(attempt: int, asked: float | None) -> float:
    if asked is not None:
        return min(max(asked, 0.05), MAX_PAUSE)
    return 0.1 * 3.0**attempt * random.uniform(0.7, 1.3)  # noqa: S311 - jitter, no secret


def _seconds(value: str | None) -> float | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def _is_loopback(url: str) -> bool:
    try:
        host = httpx2.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (ValueError, httpx2.InvalidURL):
        return False
