# ruff: noqa: E501  (the attacking programs are text)
"""Cases 72 to 75 where there is a network: programs that want to reach more than they were granted, or to do harm."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import RealService

from tests.egress.conftest import CLOSED, Caller, Echo, Web, log_of, own_address
from tests.egress.test_way_out import TUNNEL

pytestmark = pytest.mark.hostile

ALL_NOTATIONS = [
    # 127.0.0.5, the trap's, and what lies behind it in every form that some C library or proxy reads
    "127.0.0.5", "127.0.0.5.", "[::ffff:127.0.0.5]", "[::ffff:7f00:5]", "[0:0:0:0:0:FFFF:127.0.0.5]", "[::127.0.0.5]",
    "[64:ff9b::7f00:5]", "[64:ff9b::127.0.0.5]", "[64:ff9b:1::7f00:5]", "[2002:7f00:5::]", "[::ffff:0:127.0.0.5]",
    "127.5", "127.0.5", "2130706437", "0x7f000005", "0X7F.0.0.5", "0x7f.5", "017700000005", "0177.0.0.5", "0177.0.0.05",
    "127.000.000.005", "127.0.0.0x5", "127.0.0.5%00", "127.0.0.5%0d%0a", "%31%32%37.0.0.5", "127\u30020\u30020\u30025", "\uff11\uff12\uff17.0.0.5",
    "\u2460\u2461\u2466.0.0.5", "127.0.0.5#localhost", "localhost@127.0.0.5", "127.0.0.5\\\\@localhost", "127.0.0.5/localhost",
    "127.0.0.5:80@localhost", "localhost\\t127.0.0.5", "localhost 127.0.0.5", "[127.0.0.5]", "[::1%lo]", "[::1%25lo]", "[::1]",
    "[fe80::1%eth0]", "0", "0.0.0.0", "[::]", "::1", "0:0:0:0:0:0:0:1", "LOCALHOST..", ".localhost", "*", "*.localhost",
]  # fmt: skip


def test_no_notation_of_an_address_gets_through(caller: Caller, trap: Web) -> None:
    """No way of writing a closed address of this host opens a tunnel or passes a request on, also not with all hosts granted."""
    code = TUNNEL + (
        "opened = []\n"
        f"for host in {ALL_NOTATIONS!r}:\n"
        f"    for target in (host, host.encode().decode('latin-1')):\n"
        f"        for head in (f'CONNECT {{target}}:{trap.server_port} HTTP/1.1', f'GET http://{{target}}:{trap.server_port}/ HTTP/1.1',\n"
        f"                     f'GET http://localhost:{trap.server_port}@{{target}}:{trap.server_port}/ HTTP/1.1'):\n"
        "            sock = socket.create_connection(('127.0.0.1', 3128), 30)\n"
        "            sock.sendall(head.encode('utf-8') + b'\\r\\n\\r\\n')\n"
        "            sock.shutdown(socket.SHUT_WR)\n"
        "            try: answer = sock.recv(100)\n"
        "            except OSError: answer = b''\n"
        "            if b' 200 ' in answer: opened.append((head, answer))\n"
        "            sock.close()\n"
        "print(opened)\n"
    )
    assert caller.run(code, limits={"wall_time": 120}) == "[]\n"
    assert trap.came == 0


FORBIDDEN = [
    "10.0.0.1", "172.16.0.1", "172.17.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.200", "169.254.169.254", "169.254.170.2",
    "168.63.129.16", "192.0.0.192", "[fd00:ec2::254]", "[fe80::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]", "224.0.0.1", "255.255.255.255", "metadata.google.internal", "host.docker.internal",
]  # fmt: skip


def test_private_ranges_and_metadata_services(caller: Caller, house: RealService) -> None:
    """Private ranges and the clouds' metadata services are refused at once: no packet is sent that one could wait for."""
    hosts = [*FORBIDDEN, *filter(None, [own_address()])]
    code = TUNNEL + (
        "import time\n"
        f"for host in {hosts!r}:\n"
        "    started = time.monotonic()\n"
        "    status = tunnel(f'{host}:80')[1].split()[1]\n"
        "    if '.' not in host or host[0] in '[12]': assert time.monotonic() - started < 2, host\n"
        "    print(status)\n"
    )
    assert caller.run(code, limits={"wall_time": 120}).split() == ["403"] * len(hosts)
    assert "verdict=allowed detail=169" not in log_of(house)


def test_the_service_itself(caller: Caller, house: RealService) -> None:
    """The service's own API is closed to sandboxes under every name of this host, although loopback was opened."""
    port = house.url.rpartition(":")[2]
    code = TUNNEL + (
        f"for host in ('localhost', '127.0.0.1', '127.0.0.2', '[::ffff:127.0.0.1]', '[::1]', {own_address()!r} or 'localhost'):\n"
        f"    print(tunnel(f'{{host}}:{port}')[1].split()[1])\n"
    )
    assert caller.run(code).split() == ["403"] * 6


def test_ports_that_are_not_open(caller: Caller) -> None:
    """No port but the web's and those that the operator named, whatever the host."""
    code = TUNNEL + (
        "for target in ('localhost:22', 'localhost:25', 'example.org:22', 'example.org:6379', '127.0.0.1:2375', '1.1.1.1:53',\n"
        "               'localhost:0', 'localhost:65536', 'localhost:00443', 'localhost:+443', 'localhost:443x', 'localhost:', 'localhost'):\n"
        "    print(tunnel(target)[1].split()[1])\n"
    )
    assert caller.run(code).split() == ["403"] * 6 + ["400"] * 7


def test_a_sandbox_cannot_reach_another(caller: Caller) -> None:
    """A server in one sandbox is not there for another, nor for itself by the proxy: no name leads back inside."""
    holder = caller.session()
    serve = "import socket; keep = socket.create_server(('0.0.0.0', 8443))"
    caller.execute(holder, serve)
    code = (
        TUNNEL
        + "print([tunnel(f'{host}:{port}')[1].split()[1] for host in ('sandbox', 'localhost', '127.0.0.1') for port in (8443, 3128)])\n"
    )
    assert caller.execute(holder, code) == caller.run(code) == f"{['403'] * 6}\n"


def test_there_is_still_no_device(caller: Caller) -> None:
    """With a network a sandbox has loopback alone: no route, no name server, nothing but the proxy's port."""
    code = (
        "import os, socket\n"
        "print([name for _, name in socket.if_nameindex()])\n"
        "for address in (('1.1.1.1', 53), ('10.0.0.1', 80)):\n"
        "    try: socket.create_connection(address, 5); print('reached')\n"
        "    except OSError as error: print(error.errno)\n"
        "try: print(socket.getaddrinfo('example.org', 80))\n"
        "except OSError: print('no names')\n"
    )
    assert caller.run(code) == "['lo']\n101\n101\nno names\n"


def test_without_a_network_there_is_no_proxy(caller: Caller) -> None:
    """A sandbox that was not granted one has nothing on the port, and no variables that point there."""
    code = (
        "import os, socket\n"
        "try: socket.create_connection(('127.0.0.1', 3128), 5); print('open')\n"
        "except ConnectionRefusedError: print('closed')\n"
        "print([name for name in os.environ if 'proxy' in name.lower()], os.path.exists('/run/codecell-ca'))\n"
    )
    assert caller.run(code, network=False) == "closed\n[] False\n"


def test_the_port_cannot_be_taken(caller: Caller, web: Web) -> None:
    """User code can neither bind the proxy's port, share it, nor end the process behind it; the way out works afterwards."""
    code = TUNNEL + (
        "import os, signal, subprocess\n"
        "for host in ('127.0.0.1', '0.0.0.0', '::'):\n"
        "    for option in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT):\n"
        "        with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as sock:\n"
        "            if option: sock.setsockopt(socket.SOL_SOCKET, option, 1)\n"
        "            if ':' in host: sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)\n"
        "            try: sock.bind((host, 3128)); sock.listen(); print('taken', host, option)\n"
        "            except OSError: pass\n"
        "ours = []\n"  # children of process 1 in its session; the first is the one behind the port
        "for name in os.listdir('/proc'):\n"
        "    if name.isdigit() and int(name) > 1:\n"
        "        try: fields = open(f'/proc/{name}/stat').read().rpartition(')')[2].split()\n"
        "        except OSError: continue\n"
        "        if fields[1] == '1' and fields[3] == '1': ours.append(int(name))\n"
        "try: os.kill(min(ours), signal.SIGKILL)\n"
        "except PermissionError: pass\n"
        "import time; time.sleep(1)\n"
        f"print(tunnel('localhost:{web.server_port}')[1])\n"
    )
    assert caller.run(code) == "HTTP/1.1 200 Connection established\n"


def test_a_second_request_behind_the_first(caller: Caller, web: Web) -> None:
    """Requests that hide another in a body, a length, a chunk or a line end reach the server as one, or not at all."""
    target = f"localhost:{web.server_port}"
    inner = "GET /smuggled HTTP/1.1\\r\\nHost: internal\\r\\n\\r\\n"
    code = TUNNEL + (
        f"inner = '{inner}'\n"
        f"start = 'POST http://{target}/outer HTTP/1.1\\r\\n'\n"
        "attempts = [\n"
        "    start + '\\r\\n' + inner,\n"
        "    start + 'Content-Length: 0\\r\\n\\r\\n' + inner,\n"
        "    start + 'Content-Length: 0\\r\\nContent-Length: 60\\r\\n\\r\\n' + inner,\n"
        "    start + 'Content-Length: 0, 60\\r\\n\\r\\n' + inner,\n"
        "    start + 'Content-Length : 60\\r\\nContent-Length: 0\\r\\n\\r\\n' + inner,\n"
        "    start + 'Content-Length: 60\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n' + inner,\n"
        "    start + 'Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n' + inner,\n"
        "    start + 'Transfer-Encoding:\\x0bchunked\\r\\n\\r\\n0\\r\\n\\r\\n' + inner,\n"
        "    start + 'X: y\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n' + inner,\n"
        "    start + ' Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n' + inner,\n"
        "    start + 'Connection: Content-Length\\r\\nContent-Length: 0\\r\\n\\r\\n' + inner,\n"
        "    start + 'X: y\\r\\r\\n\\r\\n' + inner,\n"
        "    start + 'X: y\\n\\n' + inner,\n"
        f"    'GET http://{target}/outer HTTP/1.1\\n\\n' + inner,\n"
        f"    'GET http://{target}/outer%0d%0aX:%20y HTTP/1.1\\r\\n\\r\\n' + inner,\n"
        f"    'GET http://{target}/outer\\r HTTP/1.1\\r\\n\\r\\n' + inner,\n"
        f"    'GET http://{target}/outer HTTP/1.1\\r\\nHost: internal\\r\\nHost: other\\r\\n\\r\\n' + inner,\n"
        f"    'GET http://{target}/outer HTTP/1.1 HTTP/1.1\\r\\n\\r\\n' + inner,\n"
        "]\n"
        "for text in attempts:\n"
        "    for pieces in ([text], list(text)):\n"
        "        sock = socket.create_connection(('127.0.0.1', 3128), 30)\n"
        "        try:\n"
        "            for piece in pieces: sock.sendall(piece.encode('latin-1'))\n"
        "            sock.shutdown(socket.SHUT_WR)\n"
        "            while sock.recv(1000): pass\n"
        "        except OSError: pass\n"
        "        sock.close()\n"
    )
    before = len(web.seen)
    caller.run(code, limits={"wall_time": 120})
    time.sleep(0.5)
    seen = web.seen[before:]
    assert not [line for line in seen if "smuggled" in line or "internal" in line or "other" in line], seen
    assert {line.split(" ", 1)[0] for line in seen} <= {"GET", "POST"}


def test_header_bombs(caller: Caller, web: Web) -> None:
    """Heads that are too long in one line, in many lines or in all are refused, and cost the service no memory to speak of."""
    code = TUNNEL + (
        "def send(head):\n"
        "    sock = socket.create_connection(('127.0.0.1', 3128), 60)\n"
        "    try:\n"
        "        for _ in range(2000): sock.sendall(head)\n"
        "    except OSError: pass\n"
        "    try: return sock.recv(100).split(b' ')[1]\n"
        "    except (OSError, IndexError): return b'closed'\n"
        f"start = 'GET http://localhost:{web.server_port}/ HTTP/1.1\\r\\n'.encode()\n"
        "print([send(piece) in (b'431', b'400', b'closed') for piece in (b'x' * 10000, b'X: ' + b'y' * 1000 + b'\\r\\n', b'\\r\\n' * 1000, b'\\0' * 10000)])\n"
    )
    assert caller.run(code, limits={"wall_time": 120}) == "[True, True, True, True]\n"


def test_slow_and_silent_programs_hold_up_only_themselves(caller: Caller, web: Web) -> None:
    """A program that opens all streams and says nothing, or drops, stops neither another sandbox's network nor the service."""
    hostile = caller.session()
    hold = TUNNEL + (
        "keep = []\n"
        "for n in range(64):\n"
        "    sock = socket.create_connection(('127.0.0.1', 3128), 5); keep.append(sock)\n"
        "    if n % 2: sock.send(b'CONNECT loc')\n"
        "print(len(keep))\n"
    )
    assert caller.execute(hostile, hold) == "64\n"
    started = time.monotonic()
    ask = TUNNEL + f"print(tunnel('localhost:{web.server_port}')[1])\n"
    for _ in range(3):
        assert caller.run(ask) == "HTTP/1.1 200 Connection established\n"
    assert time.monotonic() - started < 20
    again = "for sock in keep: sock.close()\n" + f"print(tunnel('localhost:{web.server_port}')[1])\n"
    assert caller.execute(hostile, again) == "HTTP/1.1 200 Connection established\n"


def test_a_storm_of_requests_is_held_to_its_pace(caller: Caller, house: RealService) -> None:
    """Thousands of refused requests are slowed down, the log with them, and the service answers others meanwhile."""
    session = caller.session()
    storm = TUNNEL + (
        "import threading, time\n"
        "count, until = [0], time.monotonic() + 4\n"
        "def one():\n"
        "    while time.monotonic() < until:\n"
        "        try: tunnel('10.0.0.1:443'); count[0] += 1\n"
        "        except OSError: pass\n"
        "threads = [threading.Thread(target=one) for _ in range(32)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(count[0])\n"
    )
    slowest = 0.0

    def others() -> None:
        nonlocal slowest
        for _ in range(20):
            started = time.monotonic()
            caller.http.get(house.url + "/healthz").raise_for_status()
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.1)

    thread = threading.Thread(target=others)
    thread.start()
    made = int(caller.execute(session, storm, limits={"wall_time": 60}))
    thread.join()
    assert 20 < made < 100 + 50 * 10
    assert slowest < 2.0


def test_nothing_is_left_behind(caller: Caller, house: RealService, echo: Echo) -> None:
    """After programs that tore off connections at every stage, the service holds no more descriptors than before."""
    code = TUNNEL + (
        "import os, random, struct\n"
        f"target = 'localhost:{echo.server_address[1]}'\n"
        "for n in range(100):\n"
        "    try:\n"
        "        if n % 4 == 0: sock = tunnel(target)[0]; sock.send(b'x' * random.randrange(100000))\n"
        "        else: sock = socket.create_connection(('127.0.0.1', 3128), 30); sock.send(b'CONNECT ' + target.encode()[:n])\n"
        "        if n % 3 == 0: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n"
        "        if n % 5: sock.close()\n"
        "    except OSError: pass\n"
        "os._exit(0)\n"
    )
    caller.run("pass")
    _settle(house, echo)
    before = len(list(Path(f"/proc/{house.process.pid}/fd").iterdir()))
    for _ in range(3):
        caller.run(code, limits={"wall_time": 120})
    _settle(house, echo)
    assert len(list(Path(f"/proc/{house.process.pid}/fd").iterdir())) <= before + 4


def _settle(house: RealService, echo: Echo) -> None:
    deadline = time.monotonic() + 15
    while echo.open and time.monotonic() < deadline:
        time.sleep(0.1)
    assert echo.open == 0
    time.sleep(1)


def test_nothing_hostile_in_the_log(caller: Caller, house: RealService) -> None:
    """Escape sequences, line ends and forged entries in a request never reach the log as they are."""
    code = TUNNEL + (
        "for host in ('\\x1b[2J', 'a\\rverdict=allowed host=forged', 'a\\x00b', '\\x9b31m', 'x' * 5000, '\\u202e'):\n"
        "    for head in (f'CONNECT {host}:443 HTTP/1.1', f'GET http://{host}/ HTTP/1.1', f'{host} http://a.org/ HTTP/1.1', f'GET http://a.org/ HTTP/1.1\\r\\n{host}: x'):\n"
        "        sock = socket.create_connection(('127.0.0.1', 3128), 30)\n"
        "        sock.sendall(head.encode() + b'\\r\\n\\r\\n'); sock.recv(1000); sock.close()\n"
    )
    before = len(log_of(house))
    caller.run(code)
    written = log_of(house)[before:]
    assert all(line.isprintable() for line in written.splitlines())
    assert "forged" not in written
    assert written.count("verdict=refused") == 24
    assert max(map(len, written.splitlines())) < 1000


@pytest.mark.parametrize(
    "rules",
    [
        {"allow": []}, {"allow": ["*"]}, {"allow": ["*.*"]}, {"allow": ["localhost", "*"]}, {"allow": ["169.254.169.254"]},
        {"allow": [CLOSED]}, {"allow": ["[::1]"]}, {"allow": ["2130706437"]}, {"allow": ["0x7f.5"]}, {"allow": ["localhost:22"]},
        {"allow": ["http://localhost"]}, {"allow": ["localhost/"]}, {"allow": ["user@localhost"]}, {"allow": ["localhost\r\nX: y"]},
        {"allow": ["xn--\u0430pple.com"]}, {"allow": ["a..b"]}, {"allow": ["-a.org"]}, {"allow": ["localhost:0"]}, {"allow": [""]},
        {"allow": ["a.org"], "deny": ["b.org"]}, {"allow": "a.org"}, {"allow": [1]}, {}, [], "true", 1, None,
    ],
    ids=ascii,
)  # fmt: skip
def test_rules_that_are_none(caller: Caller, rules: object) -> None:
    """What is no rule, or more than is offered, is refused by name; nothing runs with more or less than was asked."""
    for path, more in (("/v1/runs", {"code": "print('ran')"}), ("/v1/sessions", {})):
        answer = caller.http.post(path, json={"language": "python", "network": rules, **more})
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] in ("network_not_allowed", "invalid_request")
        assert "\r" not in answer.text
