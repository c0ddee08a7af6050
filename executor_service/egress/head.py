"""The head of a proxy request, read strictly: whatever two readers could read differently is refused. Pure.

Source: RFC 9110 and 9112, of which this takes the narrow reading: lines end in CRLF, no folding, no blanks
around names, one length at most, no transfer coding. A head that passes is written anew, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from executor_service.egress.names import BadHost, Host, split_authority, written

MAX_HEAD = 32 * 1024
MAX_FIELDS = 100
HTTP_PORT = 80

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_METHOD = re.compile(r"[A-Z]{1,32}")
_VERSION = re.compile(r"HTTP/1\.[01]")
_TARGET = re.compile(r"[\x21-\x7e]+")  # visible ASCII: no blank or control character reaches the server
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,18}")
_HOP_BY_HOP = frozenset(
    {
        "connection", "host", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class BadHead(Exception):
    """The request is refused as it is; `status` is the answer's, the message says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a program asks of the proxy: a tunnel, or one request to pass on.

    `forward` is the request as the server shall see it (None for a tunnel); `body_bytes` follow it.
    """

    host: Host
    port: int
    forward: bytes | None = None
    body_bytes: int = 0


def parse_head(head: bytes) -> Request:
    """The request whose head (up to and with the empty line) this is.

    Raises:
        BadHead: not a proxy request, or one that could be read in two ways.
    """
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = _request_line(lines[0])
    fields = _fields(lines[1:])
    length = _body_bytes(fields)
    if method == "CONNECT":
        if length:
            raise BadHead(400, "CONNECT has no body")
        host, port = _authority(target)
        if port is None:
            raise BadHead(400, "CONNECT names host:port")
        return Request(host=host, port=port)
    host, port, path = _absolute(target, method)
    kept = _kept(fields)
    name = written(host) if port == HTTP_PORT else f"{written(host)}:{port}"
    lines = [
        f"{method} {path} {version}",
        f"Host: {name}",
        *(f"{n}: {v}" for n, v in kept),
        "Connection: close",
    ]
    return Request(
        host=host, port=port, forward="\r\n".join([*lines, "", ""]).encode("latin-1"), body_bytes=length
    )


def _request_line(line: str) -> tuple[str, str, str]:
    words = line.split(" ")
    if len(words) != 3 or not _METHOD.fullmatch(words[0]) or not _TARGET.fullmatch(words[1]):
        raise BadHead(400, "no HTTP request")
    if not _VERSION.fullmatch(words[2]):
        raise BadHead(505, "HTTP/1.1 or HTTP/1.0 only")
    return words[0], words[1], words[2]


def _fields(lines: Sequence[str]) -> list[tuple[str, str]]:
    if len(lines) > MAX_FIELDS:
        raise BadHead(431, f"more than {MAX_FIELDS} header fields")
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadHead(400, "a malformed header field")
        fields.append((name, value.strip(" \t")))
    return fields


def _body_bytes(fields: Sequence[tuple[str, str]]) -> int:
    if any(name.lower() == "transfer-encoding" for name, _ in fields):
        raise BadHead(411, "a body needs a Content-Length here")
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadHead(400, "one Content-Length at most, in digits")
    return int(lengths[0]) if lengths else 0


def _absolute(target: str, method: str) -> tuple[Host, int, str]:
    """Host, port and path of ``http://host[:port][/path][?query]``."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() != "http":
        raise BadHead(400, "this is a proxy: http://host/path, or CONNECT host:port for anything else")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    if "#" in path or path.startswith("\\"):
        raise BadHead(400, "no URL of a request")
    host, port = _authority(authority)
    if not path:
        path = "*" if method == "OPTIONS" else "/"
    return host, port or HTTP_PORT, path if path[0] in "/*" else f"/{path}"


def _authority(text: str) -> tuple[Host, int | None]:
    try:
        return split_authority(text)  # knows no user and password: an @ is no part of a host
    except BadHost as error:
        raise BadHead(400, str(error)) from None


def _kept(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What goes on to the server: nothing that is for this connection alone."""
    named = {
        word.strip().lower()
        for name, value in fields
        if name.lower() == "connection"
        for word in value.split(",")
    }
    gone = (_HOP_BY_HOP | named) - {"content-length"}
    return [(name, value) for name, value in fields if name.lower() not in gone]
