"""Heads of proxy requests: what passes is written anew, what can be read in two ways is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.egress.head import BadHead, Request, parse_head


def head(*lines: str) -> bytes:
    """A head of these lines."""
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def forwarded(*lines: str) -> list[str]:
    """The lines that the server would see."""
    request = parse_head(head(*lines))
    assert request.forward is not None
    assert request.forward.endswith(b"\r\n\r\n")
    return request.forward.decode("latin-1")[:-4].split("\r\n")


def test_tunnels() -> None:
    """CONNECT names a host and a port, and nothing of its fields goes anywhere."""
    expected = Request(host="example.org", port=443)
    assert parse_head(head("CONNECT Example.org:443 HTTP/1.1", "Host: other.org", "X: y")) == expected
    assert parse_head(head("CONNECT [2606::1]:443 HTTP/1.0")).port == 443


def test_a_request_is_written_anew() -> None:
    """The server sees the target's path and host, not the program's Host, and nothing of this connection."""
    assert forwarded(
        "GET http://Example.org:8080/a?b=c HTTP/1.1",
        "host: internal.corp",
        "Host: other.corp",
        "Accept: */*",
        "Connection: keep-alive, X-Secret",
        "X-Secret: 1",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eA==",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Cookie:  a=b\t",
    ) == [
        "GET /a?b=c HTTP/1.1",
        "Host: example.org:8080",
        "Accept: */*",
        "Cookie: a=b",
        "Connection: close",
    ]


def test_a_body_keeps_its_length_whatever_connection_says() -> None:
    """A length cannot be hidden from the server by naming it in Connection."""
    lines = (
        "POST http://a.org HTTP/1.1",
        "Connection: content-length, host",
        "Content-Length: 5",
        "Host: b.org",
    )
    assert parse_head(head(*lines)).body_bytes == 5
    assert forwarded(*lines) == ["POST / HTTP/1.1", "Host: a.org", "Content-Length: 5", "Connection: close"]


@pytest.mark.parametrize(
    ("target", "line", "host"),
    [
        ("http://a.org", "GET / HTTP/1.1", "a.org"),
        ("HTTP://A.org:80/", "GET / HTTP/1.1", "a.org"),
        ("http://a.org?x", "GET /?x HTTP/1.1", "a.org"),
        ("http://a.org/%2e%2e/x", "GET /%2e%2e/x HTTP/1.1", "a.org"),
        ("http://a.org//b.org/", "GET //b.org/ HTTP/1.1", "a.org"),
        ("http://1.1.1.1/", "GET / HTTP/1.1", "1.1.1.1"),
        ("http://[2606::1]:81/", "GET / HTTP/1.1", "[2606::1]:81"),
    ],
)
def test_targets(target: str, line: str, host: str) -> None:
    """The authority ends at the path or the query; all behind it is passed on as it is."""
    assert forwarded(f"GET {target} HTTP/1.1")[:2] == [line, f"Host: {host}"]


BAD = {
    "nothing": (b"\r\n\r\n", 400),
    "an empty line first": (b"\r\nGET http://a.org/ HTTP/1.1\r\n\r\n", 400),
    "origin form": (head("GET / HTTP/1.1", "Host: a.org"), 400),
    "asterisk form": (head("OPTIONS * HTTP/1.1", "Host: a.org"), 400),
    "another scheme": (head("GET https://a.org/ HTTP/1.1"), 400),
    "a file": (head("GET file:///etc/passwd HTTP/1.1"), 400),
    "a user": (head("GET http://a.org@b.org/ HTTP/1.1"), 400),
    "a user and password": (head("GET http://a.org:80@b.org/ HTTP/1.1"), 400),
    "a backslash": (head("GET http://a.org\\@b.org/ HTTP/1.1"), 400),
    "a fragment": (head("GET http://a.org#@b.org/ HTTP/1.1"), 400),
    "no host": (head("GET http:///x HTTP/1.1"), 400),
    "an address in another notation": (head("GET http://0x7f.1/ HTTP/1.1"), 400),
    "CONNECT without a port": (head("CONNECT a.org HTTP/1.1"), 400),
    "CONNECT with a user": (head("CONNECT a@b.org:443 HTTP/1.1"), 400),
    "CONNECT with a path": (head("CONNECT a.org:443/x HTTP/1.1"), 400),
    "CONNECT with a URL": (head("CONNECT http://a.org:443 HTTP/1.1"), 400),
    "CONNECT with a body": (head("CONNECT a.org:443 HTTP/1.1", "Content-Length: 5"), 400),
    "CONNECT with a zone": (head("CONNECT [fe80::1%25lo]:443 HTTP/1.1"), 400),
    "CONNECT to port 0": (head("CONNECT a.org:0 HTTP/1.1"), 400),
    "CONNECT with an octal port": (head("CONNECT a.org:0443 HTTP/1.1"), 400),
    "two blanks": (head("GET  http://a.org/ HTTP/1.1"), 400),
    "a tab": (head("GET\thttp://a.org/ HTTP/1.1"), 400),
    "a blank in the target": (head("GET http://a.org/a b HTTP/1.1"), 400),
    "a control character in the target": (head("GET http://a.org/\x07 HTTP/1.1"), 400),
    "a byte over 127 in the target": (head("GET http://a.org/\xe4 HTTP/1.1"), 400),
    "HTTP/2": (head("PRI * HTTP/2.0"), 505),
    "HTTP/0.9": (head("GET http://a.org/"), 400),
    "a method in lower case": (head("get http://a.org/ HTTP/1.1"), 400),
    "a bare line feed": (b"GET http://a.org/ HTTP/1.1\nX: y\r\n\r\n", 400),
    "a bare line feed in a field": (b"GET http://a.org/ HTTP/1.1\r\nX: y\nHost: b\r\n\r\n", 400),
    "a bare carriage return": (b"GET http://a.org/ HTTP/1.1\r\nX: y\rHost: b\r\n\r\n", 400),
    "NUL": (b"GET http://a.org/ HTTP/1.1\r\nX: \0\r\n\r\n", 400),
    "a folded field": (head("GET http://a.org/ HTTP/1.1", "X: y", " z"), 400),
    "a blank before the colon": (head("GET http://a.org/ HTTP/1.1", "Content-Length : 5"), 400),
    "a field without a colon": (head("GET http://a.org/ HTTP/1.1", "Host a.org"), 400),
    "a field without a name": (head("GET http://a.org/ HTTP/1.1", ": x"), 400),
    "two lengths": (head("POST http://a.org/ HTTP/1.1", "Content-Length: 5", "content-length: 6"), 400),
    "the same length twice": (head("POST http://a.org/ HTTP/1.1", "Content-Length: 5",
    "Content-Length: 5"), 400),
    "a list of lengths": (head("POST http://a.org/ HTTP/1.1", "Content-Length: 5, 5"), 400),
    "a signed length": (head("POST http://a.org/ HTTP/1.1", "Content-Length: +5"), 400),
    "a hexadecimal length": (head("POST http://a.org/ HTTP/1.1", "Content-Length: 0x5"), 400),
    "an endless length": (head("POST http://a.org/ HTTP/1.1", "Content-Length: " + "9" * 40), 400),
    "an empty length": (head("POST http://a.org/ HTTP/1.1", "Content-Length: "), 400),
    "chunks": (head("POST http://a.org/ HTTP/1.1", "Transfer-Encoding: chunked"), 411),
    "chunks and a length": (head("POST http://a.org/ HTTP/1.1", "Content-Length: 5",
    "Transfer-Encoding: x"), 411),
    "many fields": (head("GET http://a.org/ HTTP/1.1", *["a: b"] * 101), 431),
}  # fmt: skip


@pytest.mark.parametrize(("text", "status"), BAD.values(), ids=BAD)
def test_refused(text: bytes, status: int) -> None:
    """Each of these is refused, and the answer holds nothing of what was written."""
    with pytest.raises(BadHead) as caught:
        parse_head(text)
    assert caught.value.status == status
    assert str(caught.value).isprintable()
    assert "a.org" not in str(caught.value)


@given(st.binary(max_size=200))
def test_whatever_passes_is_one_request(garbage: bytes) -> None:
    """No bytes in a field or a target make two heads of one, or a line that is not ours."""
    for text in (b"GET http://a.org/" + garbage, b"GET http://a.org/ HTTP/1.1\r\nX: " + garbage):
        try:
            request = parse_head(
                text + b" HTTP/1.1\r\n\r\n" if b"X: " not in text[:40] else text + b"\r\n\r\n"
            )
        except BadHead:
            continue
        assert request.forward is not None
        assert request.forward.count(b"\r\n\r\n") == 1
        assert request.forward.count(b"\r\n") == request.forward.count(b"\n") == request.forward.count(b"\r")
        assert b"\r\nHost: a.org\r\n" in request.forward
