# ruff: noqa: E501  (the attacking programs are text)
"""Cases 72 to 77: nothing outside of a sandbox is reachable from it, by any protocol; what is not offered is refused."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytestmark = pytest.mark.hostile

REACH = """
import errno, os, socket, sys
targets = %r
reached, interfaces = [], sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else [name for _, name in socket.if_nameindex()]
for host, port in targets:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as sock:
            sock.settimeout(2)
            try:
                sock.connect((host, port))
                sock.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
                if kind == socket.SOCK_STREAM or sock.recv(100):
                    reached.append((host, port, kind.name))
            except OSError as error:
                if error.errno not in (errno.ENETUNREACH, errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EINVAL, errno.EHOSTUNREACH, errno.EACCES):
                    reached.append((host, port, kind.name, repr(error)))  # a timeout would mean that something was sent
    for option in (lambda s: s.sendto(b"x", (host, port)), lambda s: s.sendto(b"x", socket.MSG_DONTWAIT, (host, port))):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                option(sock)
                if host not in ("::1", "0.0.0.0", "::") and not host.removeprefix("::ffff:").startswith("127."):
                    reached.append((host, port, "sendto"))
            except OSError:
                pass
print(interfaces, reached)
"""
NOTHING = "['lo'] []\n"


def reach(*targets: tuple[str, int]) -> str:
    """A program that tries each address by TCP and UDP."""
    return REACH % (targets,)


def everywhere(attack: Any, program: str) -> list[str]:
    """What it prints as a run, in a kernel and as a command."""
    session = attack.session()
    session.http.put(f"{session.path}/files/probe.py", content=program.encode()).raise_for_status()
    ended = [attack.run(program), session.execute(program), session.command("python3 probe.py")]
    for each in ended:
        assert each["outcome"] == "ok", each
    return [each["stdout"] for each in ended]


def host_addresses() -> set[str]:
    """Addresses of this host, those of the outside included."""
    found = {"127.0.0.1"}
    with contextlib.suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))  # sends nothing
        found.add(sock.getsockname()[0])
    return {address.partition("%")[0] for address in found}


@contextlib.contextmanager
def listening(address: str) -> Iterator[tuple[int, list[Any]]]:
    """A server of this host; the port, and whoever came."""
    came: list[Any] = []
    with socket.create_server((address, 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, address = server.accept()
                    peer.close()
                    came.append(address)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], came
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_72_outbound_connections(attack):
    """TCP, UDP and DNS lead nowhere, at once and not by a timeout, in either version of IP."""
    outside = [
        ("1.1.1.1", 80),
        ("8.8.8.8", 53),
        ("2606:4700:4700::1111", 443),
        ("255.255.255.255", 67),
        ("224.0.0.251", 5353),
        ("ff02::fb", 5353),
    ]
    assert everywhere(attack, reach(*outside)) == [NOTHING] * 3
    names = (
        "import socket, urllib.request\nfound = []\n"
        "for name in ('example.org', 'localhost.example.org', 'metadata.google.internal', 'host.docker.internal', 'sandbox.local'):\n"
        "    try: found.append(socket.getaddrinfo(name, 80))\n"
        "    except OSError: pass\n"
        "try: found.append(urllib.request.urlopen('http://example.org', timeout=5).status)\n"
        "except OSError: pass\n"
        "print(found)\n"
    )
    assert everywhere(attack, names) == ["[]\n"] * 3


CONFIGURE = """
import fcntl, os, socket, struct, subprocess
changed = []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for name, request, data in (("flags", 0x8914, struct.pack("16sH14x", b"lo", 0)), ("address", 0x8916, struct.pack("16sHH4s8x", b"lo", 2, 0, bytes((10, 0, 0, 1)))),
                                ("route", 0x890B, bytes(120)), ("bridge", 0x89A0, b"br0".ljust(16, b"\\0")), ("rename", 0x8923, struct.pack("16s16s", b"lo", b"eth0"))):
        try:
            fcntl.ioctl(sock, request, data)
            changed.append(name)
        except OSError:
            pass
# RTM_NEWLINK and RTM_NEWADDR by netlink
for kind, body in ((16, struct.pack("=BxHiII", 0, 0, 0, 1, 1)), (20, struct.pack("=BBBBI", 2, 24, 0, 0, 1) + struct.pack("=HH4s", 8, 2, bytes((10, 0, 0, 1))))):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, 0x405, 1, 0) + body)
        answer = sock.recv(4096)
        if struct.unpack_from("=i", answer, 16)[0] != -1:
            changed.append((kind, answer))
for kind in ("AF_PACKET", "AF_XDP", "AF_CAN", "AF_BLUETOOTH", "AF_VSOCK"):
    try:
        socket.socket(getattr(socket, kind, 44), socket.SOCK_RAW)
        changed.append(kind)
    except OSError:
        pass
print(changed)
"""


def test_72_making_a_network(attack):
    """No device, address, route or raw socket can be made inside, so there is no way to build one's own network."""
    assert everywhere(attack, CONFIGURE) == ["[]\n"] * 3


def test_73_metadata_services_and_private_ranges(attack):
    """Cloud metadata, link-local, private and mapped addresses are as unreachable as the rest."""
    ranges = [
        ("169.254.169.254", 80), ("169.254.170.2", 80), ("100.100.100.200", 80), ("168.63.129.16", 80), ("fd00:ec2::254", 80), ("fe80::1", 80),
        ("10.0.0.1", 443), ("172.17.0.1", 2375), ("172.16.0.1", 22), ("192.168.0.1", 80), ("192.168.65.2", 80), ("100.64.0.1", 80),
        ("::ffff:169.254.169.254", 80), ("::ffff:10.0.0.1", 80), ("64:ff9b::a9fe:a9fe", 80),
    ]  # fmt: skip
    assert everywhere(attack, reach(*ranges)) == [NOTHING] * 3


def test_74_the_service_and_the_host(attack, house):
    """The service's own API and a server on each of the host's addresses see no connection from a sandbox."""
    port = int(house.url.rpartition(":")[2])
    addresses = sorted(host_addresses())
    with listening("0.0.0.0") as (open_port, came):
        targets = [
            (address, number)
            for address in (*addresses, "127.0.0.2", "0.0.0.0", "::1", "::ffff:127.0.0.1")
            for number in (port, open_port)
        ]
        assert everywhere(attack, reach(*targets)) == [NOTHING] * 3
        assert came == []
        with socket.create_connection(("127.0.0.1", open_port)):  # the trap itself works
            pass


def test_74_a_neighbours_ports_and_kernel(attack):
    """A server in one sandbox, on TCP, UDP, an abstract and a named socket, is not there for another, nor are kernels."""
    holder, other = attack.session(), attack.session()
    serve = (
        "import socket, os\nkeep = [socket.create_server(('0.0.0.0', 45454)), socket.create_server(('::', 45455), family=socket.AF_INET6)]\n"
        "named = socket.socket(socket.AF_UNIX); named.bind('/tmp/named'); named.listen(); os.chmod('/tmp/named', 0o777)\n"
        "hidden = socket.socket(socket.AF_UNIX); hidden.bind('\\0hidden'); hidden.listen()\n"
        "socket.create_connection(('127.0.0.1', 45454), 5).close(); print('serving')\n"
    )
    assert holder.execute(serve)["stdout"] == "serving\n"
    look = reach(("127.0.0.1", 45454), ("::1", 45455)) + (
        "for name in ('/tmp/named', '\\0hidden'):\n"
        "    try: socket.socket(socket.AF_UNIX).connect(name); print('connected')\n"
        "    except OSError: pass\n"
        "print([line for kind in ('tcp', 'tcp6') for line in open('/proc/net/' + kind) if ':B18E' in line or ':B18F' in line])\n"
    )
    assert other.execute(look)["stdout"] == NOTHING + "[]\n"
    assert attack.run(look)["stdout"] == NOTHING + "[]\n"
    inodes = "import os\nprint(sorted(os.listdir('/run/kernel')) if os.access('/run/kernel', os.R_OK) else 'closed')"
    assert attack.run(inodes)["stdout"] in ("[]\n", "closed\n")


@pytest.mark.parametrize(
    "rules",
    [
        True,
        {"allow": []},
        {"allow": ["example.org"]},
        {"allow": ["*"]},
        {"allow": ["169.254.169.254"]},
        {"allow": ["2130706433", "0x7f.1", "127.0.0.1:1@example.org"]},
        {"allow": ["example.org\r\nHost: other"]},
    ],
    ids=str,
)
def test_75_network_rules_that_are_not_offered(attack, rules):
    """A network that this server does not offer is refused by name; nothing runs with more or less than was asked."""
    for path in ("/v1/runs", "/v1/sessions"):
        body = {"language": "python", "network": rules} | (
            {"code": "print('ran')"} if path == "/v1/runs" else {}
        )
        answer = attack.http.post(path, json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] in ("network_not_allowed", "invalid_request")
        assert "\r" not in answer.text
    assert attack.http.get("/v1/sessions").json()["items"].__len__() == 1  # the neighbour's


def test_76_the_same_local_port_at_once(attack):
    """Two programs that listen on one port at the same time each reach themselves, by either version of IP."""
    program = (
        "import socket, sys, threading, time\n"
        "name = sys.argv[1].encode()\n"
        "for family, host in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):\n"
        "    with socket.create_server((host, 8080), family=family) as server:\n"
        "        def answer():\n"
        "            peer, _ = server.accept(); peer.sendall(name); peer.close()\n"
        "        threading.Thread(target=answer, daemon=True).start()\n"
        "        time.sleep(1)\n"
        "        with socket.create_connection((host, 8080), 5) as client: print(client.recv(100).decode())\n"
    )
    with ThreadPoolExecutor() as pool:
        names = ["one", "two", "three"]
        ended = list(pool.map(lambda name: attack.run(program, args=[name]), names))
    assert [each["stdout"] for each in ended] == [f"{name}\n{name}\n" for name in names]


def test_77_no_field_makes_the_service_fetch(attack):
    """No request field takes a URL: one in a path, a content, a glob or an unknown field is text or refused, never fetched."""
    with listening("127.0.0.1") as (port, came):
        address = f"http://127.0.0.1:{port}/"
        for field in ("url", "webhook", "callback", "callback_url", "from_url", "image_url", "proxy"):
            answer = attack.http.post("/v1/runs", json={"language": "python", "code": "1", field: address})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), field
        for files in (
            [{"path": "a", "url": address}],
            [{"path": "a", "content": address, "encoding": "url"}],
        ):
            answer = attack.http.post("/v1/runs", json={"language": "python", "code": "1", "files": files})
            assert answer.status_code == 422
        for image in (address, f"127.0.0.1:{port}/image", f"file:///etc/passwd?{port}", "../../../etc"):
            answer = attack.http.post("/v1/runs", json={"language": "python", "code": "1", "image": image})
            assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")
        ended = attack.run(
            "print(open('a').read())",
            files=[{"path": "a", "content": address}],
            collect=["http:*", "a"],
            env={"http_proxy": address, "ALL_PROXY": address},
        )
        assert ended["stdout"] == address + "\n"
        session = attack.session(env={"HTTPS_PROXY": address}, metadata={"webhook": address})
        put = session.http.put(f"{session.path}/files/{address}", content=b"x")
        assert put.status_code in (200, 422)
        redirected = session.http.get(
            session.path,
            headers={"x-forwarded-host": f"127.0.0.1:{port}", "x-callback": address, "referer": address},
        )
        assert redirected.status_code == 200
        assert json.dumps(address)[1:-1] in redirected.text
        assert came == []
