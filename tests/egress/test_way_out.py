"""A sandbox with a network: what works, end to end, over each backend."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from conftest import RealService

from tests.egress.conftest import AUTHORITIES, Caller, Echo, Web, log_of

GET = """
import os, urllib.request
for name in ("no_proxy", "NO_PROXY"):
    del os.environ[name]  # the test's servers are on loopback
print(urllib.request.urlopen("http://localhost:%d%s", timeout=30).read().decode())
"""
TUNNEL = """
import socket
def tunnel(target, port=3128, timeout=30):
    sock = socket.create_connection(("127.0.0.1", port), timeout)
    sock.sendall(f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n".encode())
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        more = sock.recv(1)
        if not more: break
        head += more
    return sock, head.split(b"\\r\\n")[0].decode()
"""


def test_http_by_the_proxy_variables(caller: Caller, web: Web) -> None:
    """An ordinary library finds the proxy by its environment, in a run, a kernel and a command."""
    code = GET % (web.server_port, "/hello?x=1")
    expected = f"GET /hello?x=1 localhost:{web.server_port}\n"
    assert caller.run(code) == expected
    session = caller.session()
    assert caller.execute(session, code) == expected
    command = {"argv": ["python3", "-c", code]}
    assert caller.http.post(f"{session}/commands", json=command).json()["stdout"] == expected


def test_a_tunnel_carries_megabytes(caller: Caller, echo: Echo) -> None:
    """CONNECT gives a stream of bytes that is right, both ways at once, each of which ends by itself."""
    code = TUNNEL + (
        "import threading, hashlib, os\n"
        f"sock, status = tunnel('localhost:{echo.server_address[1]}')\n"
        "print(status)\n"
        "data = os.urandom(1 << 20) * 8\n"
        "def send(): sock.sendall(data); sock.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=send).start()\n"
        "got = bytearray()\n"
        "while more := sock.recv(65536): got += more\n"
        "print(bytes(got) == data)\n"
    )
    assert caller.run(code) == "HTTP/1.1 200 Connection established\nTrue\n"


def test_many_streams_at_once_are_all_served(caller: Caller, echo: Echo) -> None:
    """More connections at once than there are streams wait their turn, and each gets its own bytes."""
    code = TUNNEL + (
        "import concurrent.futures as f\n"
        "def one(n):\n"
        f"    sock, status = tunnel('localhost:{echo.server_address[1]}')\n"
        "    sock.sendall(b'%d!' % n); sock.shutdown(socket.SHUT_WR)\n"
        "    got = b''\n"
        "    while more := sock.recv(100): got += more\n"
        "    return got == b'%d!' % n\n"
        "with f.ThreadPoolExecutor(64) as pool: print(sum(pool.map(one, range(150))))\n"
    )
    assert caller.run(code) == "150\n"


def test_what_is_granted_is_shown(caller: Caller, web: Web) -> None:
    """A session says which network it has, as it was asked for; the service says what it offers."""
    rules = {"allow": [f"LOCALHOST:{web.server_port}", "*.example.org"]}
    for network in (False, True, rules):
        session = caller.session(network=network)
        assert caller.http.get(session).json()["network"] == network
    assert caller.http.get("/v1/info").json()["network"]["offers"] == "public"


def test_exactly_the_hosts_that_were_asked_for(caller: Caller, web: Web) -> None:
    """With a list, its hosts and ports are reached and others are not, although the server offers them."""
    code = TUNNEL + (
        f"open = {web.server_port}\n"
        "for host in (f'localhost:{open}', f'LOCALHOST.:{open}', f'127.0.0.1:{open}', 'localhost:443',\n"
        "             f'sub.localhost:{open}', 'example.org:443'):\n"
        "    print(tunnel(host)[1].split()[1])\n"
    )
    allow = {"allow": [f"localhost:{web.server_port}"]}
    assert caller.run(code, network=allow).split() == ["200", "200", "403", "403", "403", "403"]


def test_programs_are_told_why_not(caller: Caller) -> None:
    """The reason stands in the status line, where pip, requests and urllib show it."""
    code = (
        "import urllib.request\n"
        "try: urllib.request.urlopen('https://example.org', timeout=30)\n"
        "except OSError as error: print(error)\n"
    )
    assert "403 Forbidden (host not in the allow list)" in caller.run(code, network={"allow": ["pypi.org"]})


def test_the_operators_certificate_authorities(caller: Caller) -> None:
    """Where there is a network they are there, named by the usual variables, and cannot be written."""
    code = (
        "import os, ssl\n"
        "path = os.environ['SSL_CERT_FILE']\n"
        "print(open(path).read(), end='')\n"
        "print(path == os.environ['PIP_CERT'] == os.environ['REQUESTS_CA_BUNDLE'])\n"
        "for act in (lambda: open(path, 'w'), lambda: os.unlink(path), lambda: os.rename(path, '/tmp/x'),\n"
        "            lambda: open(os.path.dirname(path) + '/x', 'w')):\n"
        "    try: act(); print('written')\n"
        "    except OSError: pass\n"
    )
    expected = f"{AUTHORITIES}True\n"
    assert caller.run(code) == expected
    assert caller.execute(caller.session(), code) == expected


def test_a_restarted_kernel_keeps_its_way_out(caller: Caller, web: Web) -> None:
    """A fresh kernel in the same session has the same network."""
    session = caller.session()
    caller.http.post(f"{session}/restart").raise_for_status()
    assert "GET /again" in caller.execute(session, GET % (web.server_port, "/again"))


def test_every_decision_is_in_the_log(caller: Caller, house: RealService, web: Web) -> None:
    """The service's log names the run or the session, the host, the port, the verdict and why."""
    code = TUNNEL + f"tunnel('localhost:{web.server_port}'); tunnel('127.0.0.5:{web.server_port}')\n"
    ended = caller.ended(code)
    session = caller.session()
    caller.execute(session, code)
    for field in (f"run={ended['id']}", f"session={session.rpartition('/')[2]}"):
        lines = [line for line in log_of(house).splitlines() if field in line and " egress " in line]
        assert len(lines) == 2, lines
        assert f"verdict=allowed detail=127.0.0.1 host=localhost port={web.server_port}" in lines[0]
        assert "verdict=refused" in lines[1]
        assert f'127.0.0.5: loopback" host=127.0.0.5 port={web.server_port}' in lines[1]


@pytest.mark.parametrize("end", ["run", "close", "interrupted request"])
def test_streams_end_with_the_sandbox(caller: Caller, echo: Echo, end: str) -> None:
    """What a sandbox left open to the outside is closed when it ends, in whatever way."""
    code = (
        TUNNEL
        + f"keep = [tunnel('localhost:{echo.server_address[1]}') for _ in range(5)]; print(len(keep))\n"
    )
    if end == "run":
        leave = (
            "import subprocess, sys\n"
            "subprocess.Popen([sys.executable, '-c', %r + 'import time; time.sleep(600)'])\n"
        )
        caller.run(leave % code + "import time; time.sleep(2)\n")
    elif end == "close":
        session = caller.session()
        assert caller.execute(session, code) == "5\n"
        assert echo.open == 5
        caller.http.delete(session)
    else:
        body = {"language": "python", "code": code + "import time; time.sleep(600)\n", "network": True}
        with caller.http.stream(
            "POST", "/v1/runs", json=body, headers={"Accept": "text/event-stream"}
        ) as events:
            for line in events.iter_lines():
                if line.startswith("data:") and json.loads(line[5:]).get("text") == "5\n":
                    break
    _wait(lambda: echo.open == 0)


def _wait(done: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done()
