"""The proxy between a program that is a socket and real servers on loopback; names mean what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from executor_service.egress import proxy as proxy_module
from executor_service.egress.addresses import Network
from executor_service.egress.policy import Grant, parse_rule
from executor_service.egress.proxy import Bounds, Client, Proxy
from executor_service.egress.tunnel import finish
from executor_service.logs import LineFormatter

LOOPBACK = (ipaddress.ip_network("127.0.0.0/30"),)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Names:
    """A resolver that answers what it was told, in turn where it was told several things, and remembers."""

    def __init__(self, **answers: Sequence[str] | list[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(answer) for name, answer in answers.items()}
        self.asked: list[str] = []

    async def addresses(self, name: str, **_: object) -> list[object]:
        self.asked.append(name)
        answer = self.answers.get(name, [])
        if answer and isinstance(answer[0], list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return [ipaddress.ip_address(text) for text in answer]


class Server:
    """A server on loopback: what it was sent on each connection, and a way to answer."""

    def __init__(self, answer: Callable[[Streams], object]) -> None:
        self.answer = answer
        self.came: list[bytearray] = []
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(bytearray())
        try:
            with contextlib.suppress(ConnectionError):
                await self.answer(self.came[-1], reader, writer)  # type: ignore[call-arg,misc]
        finally:
            self.gone.set()
            writer.close()


async def echo(got: bytearray, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, back; ends when the peer has."""
    while data := await reader.read(65536):
        got += data
        writer.write(data)
        await writer.drain()


async def http(got: bytearray, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One short answer after half a second without more."""
    with contextlib.suppress(TimeoutError):
        while data := await asyncio.wait_for(reader.read(65536), 0.3):
            got += data
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()


class House:
    """A proxy, its servers and its programs."""

    def __init__(self, **options: object) -> None:
        self.names = options.pop("names", None) or Names(home_test=["127.0.0.1"])
        self.allow = options.pop("allow", None)
        self.networks: tuple[Network, ...] = options.pop("networks", LOOPBACK)  # type: ignore[assignment]
        self.proxy = Proxy(resolver=self.names, **options)  # type: ignore[arg-type]
        self.ports: set[int] = set()
        self.stack = contextlib.AsyncExitStack()

    async def server(self, answer: Callable[..., object], host: str = "127.0.0.1") -> tuple[Server, int]:
        """A server that may be reached by its port."""
        made = Server(answer)
        listening = await asyncio.start_server(made, host, 0)
        self.stack.push_async_callback(listening.wait_closed)
        self.stack.callback(listening.close)
        port = listening.sockets[0].getsockname()[1]
        self.ports.add(port)
        return made, port

    async def program(self, first: bytes) -> Streams:
        """A program that has connected and sent `first`."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        self.stack.callback(writer.close)
        served = await asyncio.open_connection(sock=theirs)
        rules = None if self.allow is None else tuple(map(parse_rule, self.allow))
        grant = Grant(allow=rules, ports=frozenset(self.ports), networks=self.networks)
        client = Client(grant=grant, fields={"run": "run_1"}, lookups=asyncio.Semaphore(2))

        async def serve() -> None:
            try:
                await self.proxy.serve(first, *served, client)
                await finish(served[1])
            finally:
                served[1].transport.abort()

        self.task = asyncio.create_task(serve())
        self.stack.push_async_callback(_ended, self.task)
        return reader, writer

    async def ask(self, text: str | bytes) -> bytes:
        """All that comes back."""
        reader, _ = await self.program(text if isinstance(text, bytes) else text.encode("latin-1"))
        return await asyncio.wait_for(reader.read(), 20)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def make_house() -> AsyncIterator[Callable[..., House]]:
    """Makes houses, and clears them up."""
    async with contextlib.AsyncExitStack() as stack:

        def make(**options: object) -> House:
            house = House(**options)
            stack.push_async_exit(house.stack)
            return house

        yield make


Make = Callable[..., House]


async def tunnel(house: House, port: int, host: str = "home.test", behind: bytes = b"") -> Streams:
    """An open tunnel."""
    reader, writer = await house.program(b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (host.encode(), port) + behind)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
    return reader, writer


# -- passing on -----------------------------------------------------------------------------------


async def test_a_tunnel_carries_bytes_and_ends(make_house: Make) -> None:
    """Megabytes go both ways, what was sent with the request too, and each direction ends by itself."""
    house = make_house()
    server, port = await house.server(echo)
    reader, writer = await tunnel(house, port, behind=b"early ")
    data = bytes(range(256)) * 20_000

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    _, back = await asyncio.gather(send(), reader.read())
    assert back == b"early " + data
    assert server.came == [b"early " + data]
    await asyncio.wait_for(house.task, 5)
    assert house.proxy.open == 0


async def test_a_plain_request_and_its_answer(make_house: Make) -> None:
    """One request is passed on in origin form, and the server's answer comes back as it is."""
    house = make_house()
    server, port = await house.server(http)
    back = await house.ask(
        f"GET http://home.test:{port}/x HTTP/1.1\r\nHost: other\r\nProxy-Connection: x\r\n\r\n"
    )
    assert back == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert server.came == [f"GET /x HTTP/1.1\r\nHost: home.test:{port}\r\nConnection: close\r\n\r\n".encode()]


async def test_a_body_in_pieces(make_house: Make) -> None:
    """Exactly the body's bytes go on, also when they come late."""
    house = make_house()
    server, port = await house.server(http)
    reader, writer = await house.program(
        b"POST http://home.test:%d/ HTTP/1.1\r\nContent-Length: 8\r\n\r\nab" % port
    )
    for piece in (b"cd", b"efgh"):
        await asyncio.sleep(0.05)
        writer.write(piece)
    assert (await asyncio.wait_for(reader.read(), 20)).endswith(b"ok")
    assert server.came[0].endswith(b"\r\n\r\nabcdefgh")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("body", [b"", b"abcd"])
async def test_a_second_request_does_not_follow_the_first(make_house: Make, body: bytes, late: bool) -> None:
    """What comes behind a request never reaches the server: its host was not checked."""
    house = make_house(allow=["home.test"])
    server, port = await house.server(http)
    first = b"POST http://home.test:%d/ HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (port, len(body)) + body
    smuggled = b"GET /secret HTTP/1.1\r\nHost: internal\r\n\r\n"
    reader, writer = await house.program(first if late else first + smuggled)
    if late:
        await asyncio.sleep(0.1)
        writer.write(smuggled)
    await asyncio.wait_for(reader.read(), 20)
    await asyncio.wait_for(house.task, 20)
    assert b"secret" not in b"".join(server.came)


async def test_a_server_that_closes_first(make_house: Make) -> None:
    """A program that keeps its side open gets the whole answer and the end."""

    async def answer(got: bytearray, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x" * 300_000)

    house = make_house()
    _, port = await house.server(answer)
    reader, _ = await house.program(b"GET http://home.test:%d/ HTTP/1.1\r\n\r\n" % port)
    assert len(await asyncio.wait_for(reader.read(), 20)) == 300_000
    await asyncio.wait_for(house.task, 5)


# -- where it may go ------------------------------------------------------------------------------


async def test_a_name_that_is_not_allowed_is_not_looked_up(make_house: Make) -> None:
    """The list is asked before any name server: a name is no way to send something out."""
    house = make_house(allow=["home.test"])
    _, port = await house.server(echo)
    for host in ("secret.evil.test", "home.test.evil.test", "a.home.test"):
        assert (await house.ask(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
    assert (await house.ask("CONNECT home.test:25 HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
    assert house.names.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.5", "::1", "::ffff:127.0.0.5", "0.0.0.0", "::", "10.0.0.1", "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "fd00:ec2::254",
        "fe80::1", "100.100.100.200",
        "168.63.129.16", "224.0.0.1", "255.255.255.255", "192.0.2.2",
    ],
)  # fmt: skip
async def test_a_name_that_leads_to_a_private_address(make_house: Make, address: str) -> None:
    """A public name with a private address is refused and never connected to."""
    house = make_house(names=Names(evil_test=[address]))
    server, port = await house.server(echo, "127.0.0.5")
    answer = await house.ask(f"CONNECT evil.test:{port} HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert address.encode() not in answer  # which would tell what lies inside
    assert server.came == []


async def test_a_name_that_changes_its_address(make_house: Make) -> None:
    """Rebinding: each stream looks its name up once, and connects to what it saw then, or not at all."""
    house = make_house(names=Names(evil_test=[["127.0.0.1"], ["127.0.0.5"], ["127.0.0.1"]]))
    server, port = await house.server(echo)
    _, writer = await tunnel(house, port, "evil.test")
    writer.close()
    assert len(house.names.asked) == 1
    assert (await house.ask(f"CONNECT evil.test:{port} HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
    _, writer = await tunnel(house, port, "evil.test")
    assert (len(house.names.asked), len(server.came)) == (3, 2)


async def test_of_several_addresses_only_checked_ones_are_tried(make_house: Make) -> None:
    """A private address among public ones is left out, and one that does not answer gives way to the next."""
    house = make_house(names=Names(mixed_test=["127.0.0.5", "127.0.0.2", "127.0.0.1"]))
    trap = Server(echo)
    server, port = await house.server(echo, "127.0.0.1")
    listening = await asyncio.start_server(trap, "127.0.0.5", port)
    async with listening:
        await tunnel(house, port, "mixed.test")
        assert (len(server.came), trap.came) == (1, [])


async def test_no_name_and_a_private_name_look_alike(make_house: Make) -> None:
    """A program cannot tell from the answer which names there are inside."""
    house = make_house(names=Names(inside_test=["10.0.0.1"]))
    house.ports.add(443)
    answers = {await house.ask(f"CONNECT {name}:443 HTTP/1.1\r\n\r\n") for name in ("inside.test", "no.test")}
    assert len(answers) == 1


async def test_literal_addresses(make_house: Make) -> None:
    """An address is checked as one that a name leads to; in any other notation it is no host."""
    house = make_house()
    _, port = await house.server(echo)
    await tunnel(house, port, "127.0.0.1")
    await tunnel(house, port, "[::ffff:127.0.0.1]")
    for literal, status in (
        ("127.0.0.5", 403),
        ("[::1]", 403),
        ("[::ffff:127.0.0.5]", 403),
        ("127.1", 400),
        ("0x7f.1", 400),
    ):
        answer = await house.ask(f"CONNECT {literal}:{port} HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status), literal
    assert house.names.asked == []


async def test_the_services_own_port_stays_closed(make_house: Make) -> None:
    """No network that the operator opens makes the service itself a host."""
    house = make_house()
    server, port = await house.server(echo)
    house.proxy = Proxy(resolver=house.names, closed_port=port)  # type: ignore[arg-type]
    for host in ("home.test", "127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]"):
        assert (await house.ask(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
    assert server.came == []


async def test_this_hosts_public_addresses(make_house: Make) -> None:
    """An address that is this host's own is refused although it is public."""
    house = make_house(names=Names(me_test=["1.1.1.1"]), own=lambda address: str(address) == "1.1.1.1")
    house.ports.add(443)
    for host in ("me.test", "1.1.1.1", "[::ffff:1.1.1.1]", "[64:ff9b::101:101]"):
        assert (await house.ask(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")


async def test_a_host_that_does_not_answer(make_house: Make) -> None:
    """A closed port is 502; one that takes no connection is 504 when its time is over."""
    house = make_house(bounds=Bounds(connect_time=0.3))
    with socket.socket() as closed, socket.socket() as deaf:
        closed.bind(("127.0.0.1", 0))
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with contextlib.ExitStack() as fillers:
            for _ in range(3):
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            for sock, status in ((closed, b"502"), (deaf, b"504")):
                house.ports.add(sock.getsockname()[1])
                answer = await house.ask(f"CONNECT home.test:{sock.getsockname()[1]} HTTP/1.1\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 " + status)


# -- bounds ---------------------------------------------------------------------------------------


async def test_a_head_without_end(make_house: Make) -> None:
    """A head that is too long is refused after 32 KiB, however much is ready to follow."""
    house = make_house()
    reader, writer = await house.program(b"GET http://home.test/ HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(500):
            writer.write(b"X: " + b"y" * 1000 + b"\r\n")
            await asyncio.wait_for(writer.drain(), 5)
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 431 ")


async def test_a_head_in_drops(make_house: Make) -> None:
    """A head that does not come in time is refused, although something comes all the time."""
    house = make_house(bounds=Bounds(head_time=0.5))
    reader, writer = await house.program(b"GET http://home.test/ HTTP/1.1\r\n")

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    try:
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 408 ")
    finally:
        dripping.cancel()


@pytest.mark.parametrize("bounds", [Bounds(idle_time=0.5), Bounds(total_time=0.5)], ids=["idle", "total"])
async def test_a_connection_that_is_held(make_house: Make, bounds: Bounds) -> None:
    """A tunnel ends when nothing moves for too long, and after its whole time even if something does."""
    house = make_house(bounds=bounds)
    server, port = await house.server(echo)
    reader, writer = await tunnel(house, port)
    started = asyncio.get_running_loop().time()
    with contextlib.suppress(ConnectionError):
        while bounds.total_time < 1 and asyncio.get_running_loop().time() < started + 5:
            writer.write(b"x")
            if not await asyncio.wait_for(reader.read(10), 5):
                break
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(reader.read(), 5) == b""
    await asyncio.wait_for(server.gone.wait(), 5)
    assert 0.3 < asyncio.get_running_loop().time() - started < 3


async def test_traffic_keeps_a_connection(make_house: Make) -> None:
    """A tunnel in which something moves now and then is not idle."""
    house = make_house(bounds=Bounds(idle_time=0.4))
    _, port = await house.server(echo)
    reader, writer = await tunnel(house, port)
    for _ in range(8):
        await asyncio.sleep(0.1)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), 5) == b"x"


async def test_a_program_that_does_not_read(make_house: Make) -> None:
    """A server that sends without end is read no faster than the program reads; the stream ends as idle."""
    sent = 0

    async def flood(got: bytearray, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    house = make_house(bounds=Bounds(idle_time=0.5))
    server, port = await house.server(flood)
    await house.program(b"GET http://home.test:%d/ HTTP/1.1\r\n\r\n" % port)
    await asyncio.wait_for(server.gone.wait(), 10)
    assert sent < 32 * 1024 * 1024


async def test_too_many_streams(make_house: Make) -> None:
    """Over the bound for all sandboxes together a stream is refused at once."""
    house = make_house(bounds=Bounds(streams=1))
    _, port = await house.server(echo)
    await tunnel(house, port)
    assert (await house.ask(f"CONNECT home.test:{port} HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


async def test_a_stream_that_is_cancelled(make_house: Make) -> None:
    """When the sandbox ends, so do its connections to the outside."""
    house = make_house()
    server, port = await house.server(echo)
    await tunnel(house, port)
    house.task.cancel()
    await asyncio.wait_for(server.gone.wait(), 5)
    assert house.proxy.open == 0


async def test_a_request_that_ends_early(make_house: Make) -> None:
    """A program that goes away in the middle of its head or its body leaves nothing open."""
    house = make_house()
    server, port = await house.server(http)
    _, writer = await house.program(b"CONNECT home.test")
    writer.close()
    await asyncio.wait_for(house.task, 5)
    _, writer = await house.program(
        b"POST http://home.test:%d/ HTTP/1.1\r\nContent-Length: 9\r\n\r\nab" % port
    )
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.wait_for(house.task, 5)
    await asyncio.wait_for(server.gone.wait(), 5)


# -- what is written down -------------------------------------------------------------------------


async def test_every_decision_is_logged(make_house: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Each stream leaves one line: the run, the host in its normal form, the port, the verdict and why."""
    house = make_house(
        allow=["home.test", "inside.test"], names=Names(home_test=["127.0.0.1"], inside_test=["10.0.0.1"])
    )
    _, port = await house.server(echo)
    with caplog.at_level(logging.INFO, proxy_module.__name__):
        await tunnel(house, port, "HOME.test.")
        await house.ask(f"CONNECT inside.test:{port} HTTP/1.1\r\n\r\n")
        await house.ask(f"CONNECT evil.test:{port} HTTP/1.1\r\n\r\n")
    lines = [LineFormatter().format(record).partition("proxy egress ")[2] for record in caplog.records]
    assert lines == [
        f"run=run_1 verdict=allowed detail=127.0.0.1 host=home.test port={port} kind=connect",
        (
            'run=run_1 verdict=refused why="no address that may be reached" detail="10.0.0.1: private" '
            f"host=inside.test port={port} kind=connect"
        ),
        f'run=run_1 verdict=refused why="host not in the allow list" host=evil.test port={port} kind=connect',
    ]  # fmt: skip


async def test_nothing_hostile_gets_into_the_log(make_house: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Neither control characters and forged lines in a request nor those in an answer are written down."""
    evil = "\x1b[2Jx\x07\nfake verdict=allowed"

    async def answer(got: bytearray, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 {evil}\r\nX: {evil}\r\n\r\n{evil}".encode("latin-1"))

    house = make_house()
    _, port = await house.server(answer)
    requests = [
        f"CONNECT {evil}:443 HTTP/1.1\r\n\r\n",
        f"GET http://{evil}/ HTTP/1.1\r\n\r\n",
        f"{evil} http://home.test/ HTTP/1.1\r\n\r\n",
        f"GET http://home.test:{port}/ HTTP/1.1\r\nX-{evil}: {evil}\r\n\r\n",
        f"GET http://home.test:{port}/ HTTP/1.1\r\n\r\n",
        f"GET http://home.test:{port}/verdict=allowed HTTP/1.1\r\n\r\n",
    ]
    with caplog.at_level(logging.DEBUG):
        back = [await house.ask(text) for text in requests]
    assert evil.encode() in back[-1]
    assert all(b"\x1b" not in answer for answer in back[:4])
    written = [LineFormatter().format(record) for record in caplog.records if "egress" in record.name]
    assert len(written) == len(requests)
    assert all(line.isprintable() and "fake" not in line for line in written)
    assert sum("verdict=allowed" in line for line in written) == 2
