"""A service whose sandboxes may reach a small part of loopback and any public host, over each backend.

Of loopback only 127.0.0.0/30 is open, on ports that the tests' servers listen on: everything else of this
host, 127.0.0.5 among it, must stay out of reach.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import RealService

AUTHORITIES = "the operator's certificate authorities\n"
OPEN, CLOSED = "127.0.0.1", "127.0.0.5"


class Recorder(http.server.BaseHTTPRequestHandler):
    """Answers what it was asked, and remembers."""

    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path} {self.headers['Host']}")
        length = int(self.headers.get("Content-Length") or 0)
        body = f"{self.command} {self.path} {self.headers['Host']}".encode() + self.rfile.read(length)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's own name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Web(http.server.ThreadingHTTPServer):
    """An HTTP server that remembers its requests and its connections."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        self.seen: list[str] = []
        self.came = 0
        super().__init__(address, Recorder)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.came += 1
        super().process_request(request, client_address)


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets; `open` counts connections that go on."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.open = 0
        self.came = 0
        self._lock = threading.Lock()
        super().__init__(address, _Echo)

    def count(self, change: int) -> None:
        """One more or less is open."""
        with self._lock:
            self.open += change
            self.came += change > 0


class _Echo(socketserver.BaseRequestHandler):
    server: Echo

    def handle(self) -> None:
        self.server.count(1)
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass
        finally:
            self.server.count(-1)


@contextlib.contextmanager
def serving(server: Any) -> Iterator[Any]:
    """A server in a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    """An HTTP server that sandboxes may reach."""
    with serving(Web((OPEN, 0))) as server:
        yield server


@pytest.fixture(scope="session")
def echo() -> Iterator[Echo]:
    """A server of bytes that sandboxes may reach."""
    with serving(Echo((OPEN, 0))) as server:
        yield server


@pytest.fixture(scope="session")
def trap(web: Web) -> Iterator[Web]:
    """A server on an open port of a closed address of this host: nothing may ever come."""
    with serving(Web((CLOSED, web.server_port))) as server:
        yield server
        assert server.came == 0


@pytest.fixture(scope="session")
def house(
    backend_name: str, web: Web, echo: Echo, trap: Web, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealService]:
    """The service."""
    state = tmp_path_factory.mktemp("egress") / "state"
    ports = [str(server.server_address[1]) for server in (web, echo)]
    options = ["--egress", "public", "--egress-allow-cidr", "127.0.0.0/30", "--warm", "0", "--capacity", "12"]
    bundle = tmp_path_factory.mktemp("authorities") / "bundle.pem"
    bundle.write_text(AUTHORITIES)
    options += ["--ca-bundle", str(bundle), "--acquire-timeout", "60"]
    service = RealService(state, *options, *(f"--egress-port={port}" for port in ports), backend=backend_name)
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="session")
def client(house: RealService) -> Iterator[httpx2.Client]:
    """Plain HTTP to the service."""
    with httpx2.Client(base_url=house.url, timeout=120.0) as client:
        yield client


class Caller:
    """Runs programs in sandboxes that have a network."""

    def __init__(self, http: httpx2.Client) -> None:
        self.http = http
        self.made: list[str] = []

    def run(self, code: str, *, network: Any = True, **fields: Any) -> str:
        """What a program prints; it must end well."""
        ended = self.ended(code, network=network, **fields)
        assert ended["outcome"] == "ok", ended
        return str(ended["stdout"])

    def ended(
        self, code: str, *, network: Any = True, language: str = "python", **fields: Any
    ) -> dict[str, Any]:
        """How a program ended."""
        body = {"language": language, "code": code, "network": network, **fields}
        response = self.http.post("/v1/runs", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def session(self, *, network: Any = True, **fields: Any) -> str:
        """A session's path."""
        response = self.http.post("/v1/sessions", json={"network": network, **fields})
        assert response.status_code == 201, response.text
        self.made.append(f"/v1/sessions/{response.json()['id']}")
        return self.made[-1]

    def execute(self, session: str, code: str, **fields: Any) -> str:
        """What an execution prints; it must end well."""
        ended = (
            self.http.post(f"{session}/executions", json={"code": code, **fields}).raise_for_status().json()
        )
        assert ended["outcome"] == "ok", ended
        return str(ended["stdout"])


@pytest.fixture
def caller(client: httpx2.Client) -> Iterator[Caller]:
    """A caller; its sessions are closed at the end."""
    made = Caller(client)
    yield made
    for session in made.made:
        client.delete(session)
    assert client.get("/readyz").status_code == 200


def own_address() -> str | None:
    """The address that this host sends from, if it has a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            return None
        return str(sock.getsockname()[0])


def log_of(house: RealService) -> str:
    """What the service has logged so far."""
    return Path(house.log.name).read_text()
