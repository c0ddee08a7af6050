"""The service behind a proxy that lets through what docs/deploy.md says it needs of the engine."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from conftest import RealService

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "/var/run/docker.sock"


def documented() -> list[tuple[str, str]]:
    """Methods and paths of the table in the guide, those for building images left out."""
    text = (ROOT / "docs/deploy.md").read_text()
    rows = re.findall(r"^ *\| `(GET|POST|DELETE)` \| (.+) \|$", text, re.MULTILINE)
    return [(method, path) for method, paths in rows for path in re.findall(r"`([^`]+)`", paths)]


class Connection(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(ENGINE)


class Handler(BaseHTTPRequestHandler):
    """Passes on what is allowed; all else is 403."""

    protocol_version = "HTTP/1.1"
    allowed = documented()
    refused: list[str]

    def _pass_on(self) -> None:
        path = re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not any(self.command == method and fnmatch(path, wanted) for method, wanted in self.allowed):
            self.refused.append(f"{self.command} {path}")
            self._answer(403, b'{"message": "not allowed"}')
            return
        engine = Connection("localhost")
        engine.request(self.command, self.path, body=body, headers=dict(self.headers))
        found = engine.getresponse()
        self._answer(found.status, found.read(), found.getheader("Content-Type"))
        engine.close()

    def _answer(self, status: int, body: bytes, kind: str | None = "application/json") -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PUT = do_HEAD = _pass_on  # noqa: N815  # the names that http.server asks for

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it refused."""
    refused: list[str] = []
    handler = type("Here", (Handler,), {"refused": refused})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_port}", refused
        server.shutdown()
        thread.join()


@pytest.mark.docker
@pytest.mark.skipif(not Path(ENGINE).exists(), reason="the proxy of this test stands before the usual socket")
def test_the_service_needs_no_more_than_the_guide_says(
    docker_image: object, proxy: tuple[str, list[str]], tmp_path: Path
) -> None:
    """Runs, a session, limits other than the default, the end: all by way of the documented requests."""
    address, refused = proxy
    service = RealService(tmp_path / "state", "--warm", "1", "--docker-host", address, backend="docker")
    try:
        with httpx2.Client(base_url=service.url, timeout=60) as client:
            body = {"language": "python", "code": "print(6 * 7)", "limits": {"memory_bytes": 300 << 20}}
            assert client.post("/v1/runs", json=body).json()["stdout"] == "42\n"
            session = client.post("/v1/sessions", json={"limits": {"cpus": 0.5}}).json()["id"]
            found = client.post(f"/v1/sessions/{session}/executions", json={"code": "1 + 1"}).json()
            assert found["result"]["text/plain"] == "2"
            assert client.delete(f"/v1/sessions/{session}").status_code == 204
            assert client.get("/readyz").status_code == 200
            assert client.get("/v1/info").json()["backend"] == "docker"
    finally:
        service.stop()
    assert refused == []


def test_the_guide_has_the_table() -> None:
    """Creating containers is in it; running something in one that exists is not."""
    found = documented()
    assert ("POST", "/containers/create") in found
    assert not any("exec" in path or "build" in path for _, path in found)
