"""The keeper against guests that lie: it costs the service no more than a guest that behaves."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from executor_service.egress import keeper as keeper_module
from executor_service.egress.keeper import BURST, PARKED, RATE, Egress
from executor_service.egress.policy import Grant
from executor_service.egress.proxy import Bounds, Proxy
from executor_service.errors import SandboxFailed
from executor_service.guest.egress import STREAMS
from executor_service.guest.protocol import Kind, pack, pack_json

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GRANT = Grant(allow=None, ports=frozenset(range(1, 65536)), networks=(ipaddress.ip_network("127.0.0.0/8"),))


async def honest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the connection, as process 1 does."""
    await reader.readexactly(5)
    writer.write(pack_json({"type": "parked"}))


class LyingSandbox:
    """A sandbox whose guest is a coroutine of the test's."""

    id = "sb_test"

    def __init__(self, answer: Answer) -> None:
        self.died = asyncio.Event()
        self.answer = answer
        self.connections: list[Streams] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> Streams:
        ours, theirs = socket.socketpair()
        guest = await asyncio.open_connection(sock=theirs)
        self.connections.append(guest)
        self.tasks.append(asyncio.create_task(self._answer(*guest)))
        try:
            return await asyncio.open_connection(sock=ours)
        except BaseException:  # cancelled, with its keeper
            ours.close()
            raise

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await self.answer(reader, writer)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for _, writer in self.connections:
            writer.close()


Make = Callable[[Answer], LyingSandbox]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes sandboxes."""
    async with contextlib.AsyncExitStack() as stack:

        def sandbox(answer: Answer) -> LyingSandbox:
            made = LyingSandbox(answer)
            stack.push_async_callback(made.close)
            return made

        yield sandbox


async def settle(sandbox: LyingSandbox, count: int) -> None:
    """Until so many connections were made, and a little longer."""
    async with asyncio.timeout(10):
        while len(sandbox.connections) < count:  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)


async def test_connections_wait_in_the_sandbox(make: Make) -> None:
    """A few are parked; each that a program takes is replaced, up to the bound, and given back at its end."""
    sandbox = make(honest)
    async with Egress() as egress:
        keeper = await egress.open(sandbox, GRANT, {})
        await settle(sandbox, PARKED)
        assert len(sandbox.connections) == PARKED
        for number in range(STREAMS + 10):  # programs that never finish their request
            async with asyncio.timeout(5):
                while len(sandbox.connections) <= number < STREAMS + PARKED:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            if number < len(sandbox.connections):
                sandbox.connections[number][1].write(b"G")
        await asyncio.sleep(0.2)
        assert len(sandbox.connections) == STREAMS + PARKED
        assert egress.numbers()["streams"] == STREAMS + PARKED
        sandbox.connections[0][1].close()
        await settle(sandbox, STREAMS + PARKED + 1)
        await keeper.close()
        assert egress.numbers()["streams"] == 0
        for reader, _ in sandbox.connections[1:]:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)  # each has ended


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says no, at length."""
    await reader.readexactly(5)
    writer.write(pack_json({"type": "error", "detail": "\x1b[2J" + "x" * 10_000}))


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closes at once."""
    writer.close()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends what is no frame, without end."""
    while True:
        writer.write(b"\xff" * 65536)
        await writer.drain()


async def huge_frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announces two gigabytes."""
    writer.write(b"\0\x7f\xff\xff\xff")


async def wrong_kind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says it in the wrong kind of frame."""
    writer.write(pack(Kind.STDOUT, b'{"type": "parked"}'))


async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends JSON that is no object."""
    writer.write(pack(Kind.JSON, b'["parked"]'))


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing."""
    await asyncio.sleep(60)


@pytest.mark.parametrize("answer", [refuse, hang_up, babble, huge_frame, wrong_kind, nonsense, silence])
async def test_a_guest_that_takes_nothing(
    make: Make, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the way out fails, in time, whatever the guest answers; nothing is left open."""
    monkeypatch.setattr(keeper_module, "ANSWER_TIME", 0.5)
    sandbox = make(answer)
    async with Egress() as egress:
        with pytest.raises(SandboxFailed) as caught:
            await asyncio.wait_for(egress.open(sandbox, GRANT, {}), 5)
        assert len(str(caught.value)) < 1000
        assert str(caught.value).isprintable()
    assert len(sandbox.connections) == 1


async def test_a_guest_that_drops_what_it_took(make: Make) -> None:
    """One that closes parked connections at once is asked ever more slowly."""

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await honest(reader, writer)
        writer.close()

    sandbox = make(drop)
    async with Egress() as egress:
        await egress.open(sandbox, GRANT, {})
        await asyncio.sleep(2)
    assert len(sandbox.connections) < 20


async def test_a_guest_that_is_busy_without_end(make: Make) -> None:
    """One stream after the other, as fast as can be, is held to the pace: logs and lookups are bounded."""

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await honest(reader, writer)
        writer.write(b"CONNECT 10.0.0.1:1 HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()

    sandbox, started = make(ask), time.monotonic()
    async with Egress() as egress:
        await egress.open(sandbox, GRANT, {})
        await asyncio.sleep(2)
        passed = time.monotonic() - started
        assert BURST / 2 < egress.numbers()["refused"] < BURST + RATE * passed + PARKED + 1


async def test_a_guest_that_floods(make: Make) -> None:
    """Megabytes before any head is complete are not taken in."""
    taken = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await honest(reader, writer)
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            taken += 65536

    sandbox = make(flood)
    async with Egress(Proxy(bounds=Bounds(head_time=1))) as egress:
        keeper = await egress.open(sandbox, GRANT, {})
        await asyncio.sleep(1)
        await keeper.close()
    assert egress.numbers()["allowed"] == 0
    assert taken < (BURST + 4 * RATE) * (2 << 20)


async def test_a_sandbox_that_dies(make: Make) -> None:
    """Its keeper stops asking."""
    sandbox = make(honest)
    async with Egress() as egress:
        await egress.open(sandbox, GRANT, {})
        await settle(sandbox, PARKED)
        sandbox.died.set()
        for _, writer in sandbox.connections:
            writer.close()
        await asyncio.sleep(1)
        assert len(sandbox.connections) <= PARKED + 1
