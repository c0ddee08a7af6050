"""The ZMTP client, against libzmq and against peers that break the protocol."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import zmq

from executor_service.guest.zmtp import MAX_PARTS, Connection, Message, Oversize, ZmtpError

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04XPUB"


def connected(path: str, kind: Literal["SUB", "DEALER"], identity: bytes = b"") -> Connection:
    """A connection to libzmq's socket at `path`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    return Connection(sock, kind, identity=identity)


def pump(connection: Connection, *, until: int = 1, seconds: float = 30) -> list[Message]:
    """Write and read until so many messages came or the peer closed."""
    messages: list[Message] = []
    deadline = time.monotonic() + seconds
    while len(messages) < until and not connection.closed:
        assert time.monotonic() < deadline, messages
        write = [connection] if connection.wants_write else []
        readable, writable, _ = select.select([connection], write, [], 0.1)
        if writable:
            connection.flush()
        if readable:
            messages += connection.receive()
    return messages


@pytest.fixture
def router(tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """A ROUTER of libzmq at `tmp_path/router`."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as bound:
        bound.linger = 0
        bound.rcvtimeo = 30_000
        bound.bind(f"ipc://{tmp_path}/router")
        yield bound


@pytest.fixture
def peer() -> Iterator[tuple[Connection, socket.socket]]:
    """A SUB connection whose peer is ours to write."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Connection(ours, "SUB", max_message=1000)
    yield connection, theirs
    connection.close()
    theirs.close()


@pytest.mark.parametrize("sizes", [(0,), (1, 255), (256, 65_536, 0), (3_000_000,), tuple(range(30))])
def test_dealer_and_router_understand_each_other(
    router: zmq.Socket[bytes], tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    """Messages of short and long frames go there, with our identity, and come back."""
    connection = connected(f"{tmp_path}/router", "DEALER", b"me")
    sent = [random.randbytes(size) for size in sizes]
    connection.send(sent)
    while not router.poll(0):
        pump(connection, until=0)
        select.select([connection], [connection] if connection.wants_write else [], [], 0.01)
        connection.flush()
        connection.receive()
    identity, *got = router.recv_multipart()
    assert (identity, got) == (b"me", sent)
    router.send_multipart([identity, *got])
    assert pump(connection) == [sent]
    connection.close()


def test_a_subscription_is_made_after_ready(tmp_path: Path) -> None:
    """XPUB sees it, and what is then published comes."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.linger = 0
        publisher.bind(f"ipc://{tmp_path}/pub")
        connection = connected(f"{tmp_path}/pub", "SUB")
        while not publisher.poll(10):
            connection.flush()
            connection.receive()
        assert publisher.recv() == b"\x01"
        publisher.send_multipart([b"topic", b"1"])
        assert pump(connection) == [[b"topic", b"1"]]
        connection.close()


def test_pings_of_libzmq_are_answered(tmp_path: Path) -> None:
    """A socket with heartbeats keeps the connection for longer than its timeout."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.linger = 0
        publisher.setsockopt(zmq.HEARTBEAT_IVL, 50)
        publisher.setsockopt(zmq.HEARTBEAT_TIMEOUT, 200)
        publisher.bind(f"ipc://{tmp_path}/pub")
        connection = connected(f"{tmp_path}/pub", "SUB")
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            select.select([connection], [], [], 0.05)
            connection.flush()
            assert connection.receive() == []
        assert not connection.closed
        publisher.send(b"still here")
        assert pump(connection) == [[b"still here"]]
        connection.close()


def test_a_ping_gets_its_context_back(peer: tuple[Connection, socket.socket]) -> None:
    """PONG carries what PING brought."""
    connection, theirs = peer
    theirs.sendall(GREETING + READY + b"\x04\x0a\x04PING\x00\x0aabc")
    pump(connection, until=0)
    assert connection.receive() == []
    assert theirs.recv(4096).endswith(b"\x00\x01\x01\x04\x08\x04PONGabc")


def test_messages_split_anywhere_come_whole(peer: tuple[Connection, socket.socket]) -> None:
    """One byte at a time gives the same messages."""
    connection, theirs = peer
    long = b"\x02" + struct.pack(">Q", 300) + b"y" * 300
    data = GREETING + READY + b"\x01\x01a\x00\x02bc" + long + b"\x00\x00"
    got: list[Message] = []
    for byte in data:
        theirs.sendall(bytes([byte]))
        got += connection.receive()
    assert got == [[b"a", b"bc"], [b"y" * 300], [b""]]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 64,
        b"\xff" + bytes(8) + b"\x7e" + bytes(54),  # no version 3 signature
        GREETING[:10] + b"\x01" + GREETING[11:],  # version 1
        GREETING[:12] + b"PLAIN".ljust(20, b"\0") + bytes(32),
        GREETING + b"\x00\x01a",  # a message before READY
        GREETING + READY + READY,
        GREETING + b"\x04\x00",  # an empty command
        GREETING + b"\x04\x02\x05R",  # a command shorter than its name
        GREETING + b"\x04\x0f\x05ERROR\x08go away.",
        GREETING + READY + b"\x05\x01a",  # a command with MORE
        GREETING + READY + b"\x06" + struct.pack(">Q", 1 << 40),  # a huge command
        GREETING + READY + b"\xf8\x01a",  # reserved flags
    ],
)
def test_garbage_is_an_error(peer: tuple[Connection, socket.socket], data: bytes) -> None:
    """Whoever breaks the protocol is told apart at once, and nothing else happens."""
    connection, theirs = peer
    theirs.sendall(data)
    with pytest.raises(ZmtpError):
        connection.receive()


@pytest.mark.parametrize("seed", range(50))
def test_random_bytes_are_survived(peer: tuple[Connection, socket.socket], seed: int) -> None:
    """Whatever comes after a good start gives messages or an error, in bounded memory."""
    connection, theirs = peer
    theirs.sendall(GREETING + READY + random.Random(seed).randbytes(5000))
    theirs.close()
    with contextlib.suppress(ZmtpError):
        while not connection.closed:
            connection.receive()
    assert connection.buffered < 10_000


def test_an_oversize_message_is_skipped(peer: tuple[Connection, socket.socket]) -> None:
    """Its bytes are read and not kept; the next message comes."""
    connection, theirs = peer
    big = b"\x01\x02ab\x02" + struct.pack(">Q", 50_000) + bytes(50_000)
    theirs.sendall(GREETING + READY + big + b"\x00\x02ok")
    assert pump(connection, until=2) == [Oversize(size=50_002), [b"ok"]]


def test_a_frame_without_end_takes_no_memory(peer: tuple[Connection, socket.socket]) -> None:
    """A frame that claims 2**63 bytes is skipped as it comes."""
    connection, theirs = peer
    theirs.sendall(GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 63))
    for _ in range(100):
        theirs.sendall(bytes(50_000))
        assert connection.receive() == []
    decoder = connection._decoder
    assert len(decoder._buffer) + len(decoder._frame) < 1000


def test_too_many_parts_are_skipped(peer: tuple[Connection, socket.socket]) -> None:
    """A message of endless empty parts is not collected."""
    connection, theirs = peer
    theirs.sendall(GREETING + READY + b"\x01\x00" * (MAX_PARTS + 5) + b"\x00\x00\x00\x02ok")
    assert pump(connection, until=2) == [Oversize(size=0), [b"ok"]]


def test_a_peer_that_reads_nothing_does_not_block_us(peer: tuple[Connection, socket.socket]) -> None:
    """What it does not take waits, is counted, and goes once it reads."""
    connection, theirs = peer
    theirs.sendall(GREETING + READY)
    connection.receive()
    connection.send([bytes(5_000_000)])
    assert connection.wants_write
    assert connection.buffered > 1_000_000
    total = 0
    while connection.wants_write:
        total += len(theirs.recv(1 << 20))
        connection.flush()
    assert total + connection.buffered > 4_000_000


def test_a_peer_that_goes_is_noticed(peer: tuple[Connection, socket.socket]) -> None:
    """Reading and writing after it neither raise nor hang."""
    connection, theirs = peer
    theirs.close()
    connection.send([b"x"])
    assert connection.receive() == []
    assert connection.closed
    connection.flush()
