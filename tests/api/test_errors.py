"""Errors: problem+json always, a request id always, the field named, never a 500."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx2
import pytest

from executor_service.api.assembly import HttpSettings

JSON = {"Content-Type": "application/json"}


def check_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is the problem that it should be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert {"type", "title", "detail"} <= body.keys()
    return dict(body)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/runs/", 404, "not_found"),
        ("GET", "/v1/runs/run_1", 404, "run_not_found"),
        ("PATCH", "/v1/runs", 405, "method_not_allowed"),
        ("GET", "/v1/sessions/x", 404, "session_not_found"),
        ("GET", "/v1/sessions/x/executions", 404, "session_not_found"),
        ("GET", "/v1/sessions?limit=x", 422, "invalid_request"),
        ("GET", "/v1/sessions?limit=0", 422, "invalid_request"),
        ("GET", "/v1/sessions/" + "x" * 3000, 404, "session_not_found"),
    ],
)
async def test_framework_errors(
    client: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    """The framework's own errors look like all others."""
    answer = await client.request(method, path)
    check_problem(answer, status, code)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("content", "loc"),
    [
        (b"", "language"),
        (b"{", ""),
        (b"nope", ""),
        (b"[]", ""),
        (b"\xff\xfe", ""),
        (b'{"language": "python", "code": "\\ud800"}', ""),
        (b'{"language": "python", "code": 1}', "code"),
        (b'{"language": "python", "code": null}', "code"),
        (b'{"language": "python", "code": "", "entrypoint": "x"}', "code"),
        (b'{"language": "python", "code": "a\\u0000b"}', "code"),
        (b'{"language": "python", "code": "", "args": ["a\\u0000"]}', "args.0"),
        (b'{"language": "python", "code": "", "env": {"A=B": ""}}', "env.A=B"),
        (b'{"language": "python", "code": "", "limits": {"wall_time": "1"}}', "limits.wall_time"),
        (b'{"language": "python", "code": "", "limits": {"wall_time": 0}}', "limits.wall_time"),
        (b'{"language": "python", "code": "", "limits": {"wall_time": NaN}}', "limits.wall_time"),
        (b'{"language": "python", "code": "", "limits": {"wall_time": Infinity}}', "limits.wall_time"),
        (b'{"language": "python", "code": "", "limits": {"wall_time": 1e999}}', "limits.wall_time"),
        (b'{"language": "python", "code": "", "limits": {"processes": true}}', "limits.processes"),
        (b'{"language": "python", "code": "", "limits": {"memory": 1}}', "limits.memory"),
        (b'{"language": "python", "code": "", "tiemout": 1}', "tiemout"),
        (b'{"language": "python", "code": "", "detach": "yes"}', "detach"),
        (b'{"language": "python", "code": "", "network": {"allow": [1]}}', "network"),
        (b'{"language": "python", "code": "", "stdin": "*", "stdin_encoding": "base64"}', "stdin"),
        (b'{"language": "python", "code": "", "files": [{"path": "a", "content": "?","encoding": "base64"}]}',
         "files.0.content"),
        (b'{"language": "python", "code": "", "files": [{"content": ""}]}', "files.0.path"),
        (b'{"a":' * 100_000, ""),
        (b"[" * 1_000_000, ""),
        (b'{"language": "python", "code": "", "limits": {"processes": ' + b"9" * 5000 + b"}}", ""),
    ],
)  # fmt: skip
async def test_bad_bodies_name_the_field(client: httpx2.AsyncClient, content: bytes, loc: str) -> None:
    """Whatever is wrong with a body is 422 with the place, and not what stood there."""
    answer = await client.post("/v1/runs", content=content, headers=JSON)
    body = check_problem(answer, 422, "invalid_request")
    places = [each["loc"] for each in body["errors"]]
    assert any(place.startswith(loc) for place in places), places
    assert len(answer.content) < 20_000


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {},
    ],
)
async def test_other_media_types(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    """A body that is not plain JSON is 415."""
    answer = await client.post("/v1/runs", content=b"{}", headers=headers)
    check_problem(answer, 415, "unsupported_media_type")


async def test_charset_may_be_said(client: httpx2.AsyncClient) -> None:
    """UTF-8 may be named."""
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
    answer = await client.post("/v1/runs", content=b'{"language":"python","code":""}', headers=headers)
    assert answer.status_code == 200


async def test_huge_bodies(running_with: Any) -> None:
    """A body over the limit is 413, whether its length is said or not; the service goes on."""

    async def chunks() -> Any:
        for _ in range(64):
            yield b"x" * 4096

    async with (
        running_with(settings=HttpSettings(json_bytes=1000, upload_bytes=100_000)).serving() as running,
        httpx2.AsyncClient(base_url=running.url) as client,
    ):
        for content in (b"x" * 1001, chunks()):
            answer = await client.post("/v1/runs", content=content, headers=JSON)
            check_problem(answer, 413, "payload_too_large")
        where = f"/v1/sessions/{(await client.post('/v1/sessions')).json()['id']}/files/big"
        assert (await client.put(where, content=b"x" * 100_000)).status_code == 200
        for content in (b"x" * 100_001, chunks()):
            check_problem(await client.put(where, content=content), 413, "payload_too_large")
        assert (await client.get("/healthz")).status_code == 200


async def test_request_ids(client: httpx2.AsyncClient) -> None:
    """A sane id is kept, another is replaced, and every answer has one."""
    assert (await client.get("/healthz", headers={"X-Request-Id": "a.B_c-1"})).headers[
        "x-request-id"
    ] == "a.B_c-1"
    for bad in ("", "a b", "x" * 65, "a;b"):
        given = (await client.get("/healthz", headers={"X-Request-Id": bad})).headers["x-request-id"]
        assert given not in ("", bad)


async def test_unexpected_error(client: httpx2.AsyncClient, running: Any) -> None:
    """A fault in the service itself is a 500 that tells nothing of its inside."""
    running.about.info = None
    answer = await client.get("/v1/info")
    body = check_problem(answer, 500, "internal")
    assert "NoneType" not in body["detail"]


async def test_head_that_never_ends(running: Any) -> None:
    """Headers without an end close the connection instead of filling memory."""

    def send() -> bytes:
        host, _, port = running.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            try:
                for _ in range(2000):
                    connection.sendall(b"x" * 4096)
                return connection.recv(1000)
            except OSError:
                return b""

    answer = await asyncio.to_thread(send)
    assert answer in (b"", answer if answer.startswith(b"HTTP/1.1 400") else b"")
