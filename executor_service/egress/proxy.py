"""The egress proxy: one stream of a sandbox is one CONNECT tunnel or one plain HTTP request, or is refused.

It reads one head, decides by the grant, looks the name up itself, decides about each address, and connects
to an address that it checked. Each decision is logged. What comes from inside is hostile: bounded in bytes
and time, and never in a log as it was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from executor_service.egress.addresses import carried, plain
from executor_service.egress.head import MAX_HEAD, BadHead, Request, parse_head
from executor_service.egress.names import Address, written
from executor_service.egress.own import is_own
from executor_service.egress.policy import Grant
from executor_service.egress.resolver import Resolver
from executor_service.egress.tunnel import End, answer_one, finish, tunnel

log = logging.getLogger(__name__)

_REASONS = {
    400: "Bad Request", 403: "Forbidden", 408: "Request Timeout", 411: "Length Required",
    431: "Request Header Fields Too Large", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip
_READ_AHEAD = 32 * 1024  # bytes of a server's, twice that at most, that wait for the program
_TRIES = 4  # of a host's addresses
_LAST_WORDS = 1.0  # seconds that a refused program has to read why
_LAST_BYTES = 1 << 20  # that are read from it meanwhile, for nothing
NO_ADDRESS = (
    "no address that may be reached"  # says the same of a name that is not there and of a private one
)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Of one stream, in seconds; `streams` is how many all sandboxes may have at once."""

    head_time: float = 10.0
    lookup_time: float = 10.0
    connect_time: float = 10.0
    idle_time: float = 120.0
    total_time: float = 3600.0
    streams: int = 512


@dataclass(frozen=True, kw_only=True)
class Client:
    """Whose stream it is: what that sandbox may reach, how logs name it, and its turn at the resolver."""

    grant: Grant
    fields: Mapping[str, str]
    lookups: asyncio.Semaphore


class Refused(Exception):
    """A decision against: `status` and the text go to the program, `detail` to the log alone."""

    def __init__(self, status: int, why: str, detail: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.detail = detail


class Proxy:
    """Serves streams. `closed_port` is the service's own: never open on this host, whatever is granted."""

    def __init__(
        self,
        *,
        bounds: Bounds | None = None,
        resolver: Resolver | None = None,
        closed_port: int | None = None,
        own: Callable[[Address], bool] = is_own,
    ) -> None:
        self._bounds = bounds or Bounds()
        self._resolver = resolver or Resolver()
        self._closed_port = closed_port
        self._own = own
        self.open = 0
        self.allowed = 0
        self.refused = 0

    async def serve(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: Client
    ) -> None:
        """One stream, whose `first` bytes were read, to its end. The caller closes it."""
        self.open += 1
        try:
            async with asyncio.timeout(self._bounds.total_time):
                await self._serve(first, reader, writer, client)
        except TimeoutError:
            log.info("egress stream ended: over its time", extra=dict(client.fields))
        finally:
            self.open -= 1

    async def _serve(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: Client
    ) -> None:
        request: Request | None = None
        try:
            head, rest = await self._head(first, reader)
            request = parse_head(head)
            if request.forward is not None and len(rest) > request.body_bytes:
                raise Refused(400, "one request a connection")  # the host of a second would not be checked
            upstream = await self._reach(request, client)
        except (Refused, BadHead) as error:
            self.refused += 1
            detail = error.detail if isinstance(error, Refused) else ""
            _log(client, request, "refused", str(error), detail)
            await _answer(End(reader, writer), error.status, str(error))
            return
        try:
            await self._exchange(request, rest, End(reader, writer), upstream)
            await finish(upstream.writer)
        finally:
            upstream.writer.transport.abort()

    async def _head(self, first: bytes, reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
        """The head, and what came behind it. Raises Refused."""
        if self.open > self._bounds.streams:
            raise Refused(503, "too many connections at once")
        data = bytearray(first)
        try:
            async with asyncio.timeout(self._bounds.head_time):
                while (end := data.find(b"\r\n\r\n", 0, MAX_HEAD)) < 0:
                    if len(data) >= MAX_HEAD:
                        raise Refused(431, "the request's head is too long")
                    more = await reader.read(MAX_HEAD)
                    if not more:
                        raise Refused(400, "the request ended early")
                    data += more
        except TimeoutError:
            raise Refused(408, "the request's head did not come in time") from None
        return bytes(data[: end + 4]), bytes(data[end + 4 :])

    # -- deciding and connecting ------------------------------------------------------------------

    async def _reach(self, request: Request, client: Client) -> End:
        """A connection to the host, at an address that was checked. Raises Refused."""
        if why := client.grant.why_not(request.host, request.port):
            raise Refused(403, why)
        addresses = await self._addresses(request, client)
        good = self._checked(addresses, request.port, client.grant)
        sock, address = await _connect(good, request.port, self._bounds.connect_time)
        self.allowed += 1
        _log(client, request, "allowed", "", str(address))
        return End(*await asyncio.open_connection(sock=sock, limit=_READ_AHEAD))

    async def _addresses(self, request: Request, client: Client) -> Sequence[Address]:
        if not isinstance(request.host, str):
            return [request.host]
        try:
            return await self._resolver.addresses(
                request.host, turn=client.lookups, seconds=self._bounds.lookup_time
            )
        except TimeoutError:
            raise Refused(504, "the name was not found in time") from None

    def _checked(self, addresses: Sequence[Address], port: int, grant: Grant) -> list[Address]:
        """Those that may be connected to. Raises Refused: none."""
        good, bad = [], []
        for address in map(plain, addresses):
            own = self._own(address) or self._own(carried(address))
            why = grant.why_not_address(address, own=own)
            if own and port == self._closed_port:
                why = "this service's own port"
            if why:
                bad.append(f"{address}: {why}")
            else:
                good.append(address)
        if not good:
            raise Refused(403, NO_ADDRESS, "; ".join(bad[:4]) or "the name has no address")
        return good

    # -- passing on -------------------------------------------------------------------------------

    async def _exchange(self, request: Request, rest: bytes, inside: End, outside: End) -> None:
        idle_time = self._bounds.idle_time
        if request.forward is None:
            inside.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            outside.writer.write(rest)
            await tunnel(inside, outside, idle_time=idle_time)
        else:
            outside.writer.write(request.forward + rest)
            left = request.body_bytes - len(rest)
            await answer_one(inside, outside, body_bytes=left, idle_time=idle_time)


async def _connect(addresses: Sequence[Address], port: int, seconds: float) -> tuple[socket.socket, Address]:
    """To the first that answers, each within its share of the time. Raises Refused: none does."""
    tried = addresses[:_TRIES]
    status, why = 502, ""
    for address in tried:
        sock: socket.socket | None = None
        try:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            async with asyncio.timeout(seconds / len(tried)):
                await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
            return sock, address
        except OSError as error:
            why = error.strerror or type(error).__name__
            status = 504 if isinstance(error, TimeoutError) else 502
            if sock is not None:
                sock.close()
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    raise Refused(status, "the host does not answer", why)


def _log(client: Client, request: Request | None, verdict: str, why: str, detail: str) -> None:
    """One line a decision. The host is in its normal form, or left out where it has none."""
    extra = {**client.fields, "verdict": verdict, "why": why, "detail": detail}
    if request is not None:
        kind = "connect" if request.forward is None else "http"
        extra |= {"host": written(request.host), "port": str(request.port), "kind": kind}
    log.info("egress", extra=extra)


async def _answer(inside: End, status: int, why: str) -> None:
    """Say why not: in the reason phrase too, which is what most clients show of a refused tunnel.

    Then wait a little for the program's end: to close on bytes that were not read would cost it the answer.
    """
    body = f"codecell egress proxy: {why}\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]} ({why})\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with contextlib.suppress(OSError, RuntimeError, TimeoutError):
        async with asyncio.timeout(_LAST_WORDS):
            inside.writer.write((head + body).encode())
            await inside.writer.drain()
            inside.writer.write_eof()
            left = _LAST_BYTES
            while left > 0 and (data := await inside.reader.read(MAX_HEAD)):
                left -= len(data)
