"""The sandbox's end of the way out: a real porter process between programs and parked connections."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor_service.guest import channel
from executor_service.guest.egress import BUFFER, MAX_PARKED, STREAMS

SILENCE = 0.5
PROGRAM = """
import socket, sys
from executor_service.guest import egress
egress.FIRST_BYTE = %r
egress.Porter(socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))).serve()
"""


class Porter:
    """A porter, and both of its sides."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.control, theirs = channel.pair()
        self.stack.enter_context(self.control)
        with theirs:
            fds = (self.listener.fileno(), theirs.fileno())
            command = [sys.executable, "-c", PROGRAM % SILENCE, *map(str, fds)]
            self.process = subprocess.Popen(command, pass_fds=fds)

    def park(self) -> socket.socket:
        """The service's end of a parked connection."""
        ours, theirs = socket.socketpair()
        with theirs:
            channel.send(self.control, {}, [theirs.fileno()])
        ours.settimeout(10)
        return self.stack.enter_context(ours)

    def program(self, says: bytes = b"") -> socket.socket:
        """A program that has connected."""
        sock = self.stack.enter_context(socket.create_connection(self.listener.getsockname(), 10))
        sock.sendall(says)
        return sock

    def descriptors(self) -> int:
        """How many it holds."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Its resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096

    def close(self) -> None:
        """It ends when process 1 does."""
        self.control.close()
        assert self.process.wait(10) == 0
        self.stack.close()


@pytest.fixture
def porter() -> Iterator[Porter]:
    """A porter with nothing parked."""
    made = Porter()
    yield made
    made.close()


def silent(sock: socket.socket, seconds: float = 0.2) -> bool:
    """Whether nothing comes."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)
    return False


def read_all(sock: socket.socket) -> bytes:
    """All to the end."""
    data = bytearray()
    while more := sock.recv(65536):
        data += more
    return bytes(data)


def test_a_program_gets_a_parked_connection(porter: Porter) -> None:
    """Bytes go both ways, and each direction ends by itself."""
    service, program = porter.park(), porter.program(b"request")
    assert service.recv(100) == b"request"
    program.shutdown(socket.SHUT_WR)
    assert service.recv(100) == b""
    service.sendall(b"answer")
    service.close()
    assert read_all(program) == b"answer"


def test_the_other_direction_may_end_first(porter: Porter) -> None:
    """A service that has said all may still be spoken to."""
    service, program = porter.park(), porter.program(b"a")
    assert service.recv(1) == b"a"
    service.shutdown(socket.SHUT_WR)
    assert program.recv(1) == b""
    program.sendall(b"b")
    assert service.recv(1) == b"b"
    program.close()
    assert service.recv(1) == b""


def test_each_program_has_its_own(porter: Porter) -> None:
    """Two programs at once never see each other's bytes."""
    services, programs = [porter.park() for _ in range(8)], [porter.program(b"%d" % n) for n in range(8)]
    for service in services:
        service.sendall(b"<" + service.recv(1) + b">")
    assert [program.recv(9) for program in programs] == [b"<%d>" % n for n in range(8)]


def test_programs_wait_for_the_service(porter: Porter) -> None:
    """Without a parked connection a program waits; it is served when one comes, in its turn."""
    first, second = porter.program(b"1"), porter.program()
    assert silent(first)
    second.sendall(b"2")
    time.sleep(0.1)
    assert porter.park().recv(1) == b"1"
    assert porter.park().recv(1) == b"2"


def test_silent_programs_take_nothing(porter: Porter) -> None:
    """A program that says nothing takes no parked connection, and is put out after a while."""
    service = porter.park()
    quiet = [porter.program() for _ in range(STREAMS - 1)]
    assert silent(service)
    talking = porter.program(b"x")
    assert service.recv(1) == b"x"
    assert all(program.recv(1) == b"" for program in quiet)
    talking.sendall(b"y")
    assert service.recv(1) == b"y"


def test_more_programs_than_streams(porter: Porter) -> None:
    """Silent programs hold the later ones up only as long as they may be silent."""
    service, started = porter.park(), time.monotonic()
    for _ in range(STREAMS):
        porter.program()
    porter.program(b"late")
    assert service.recv(10) == b"late"
    assert time.monotonic() - started < SILENCE + 5


def test_streams_are_bounded(porter: Porter) -> None:
    """No more programs are served at once than there are streams; one that ends makes room for the next."""
    services = [porter.park() for _ in range(STREAMS + 1)]
    programs = [porter.program(b"x") for _ in range(STREAMS)]
    for service in services[:-1]:
        assert service.recv(1) == b"x"
    porter.program(b"z")
    assert silent(services[-1], 1.0)
    programs[0].close()
    services[0].close()
    assert services[-1].recv(1) == b"z"


def test_a_parked_connection_that_the_service_closed(porter: Porter) -> None:
    """It is forgotten: a program gets a living one."""
    dead = [porter.park() for _ in range(4)]
    for service in dead:
        service.close()
    time.sleep(0.2)
    living = porter.park()
    porter.program(b"x")
    assert living.recv(1) == b"x"


def test_a_service_that_speaks_first(porter: Porter) -> None:
    """Bytes on a parked connection are nobody's: it is closed."""
    service = porter.park()
    service.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert service.recv(1) == b""


def test_parked_connections_are_bounded(porter: Porter) -> None:
    """What is parked beyond the bound is closed."""
    services = [porter.park() for _ in range(MAX_PARKED + 4)]
    assert [read_all(service) for service in services[MAX_PARKED:]] == [b""] * 4
    porter.program(b"x")
    assert services[0].recv(1) == b"x"


@pytest.mark.parametrize("forth", [True, False])
def test_what_is_under_way_is_bounded(porter: Porter, forth: bool) -> None:
    """A side that does not read stops the other; the porter does not fill up."""
    service, program = porter.park(), porter.program(b"x")
    assert service.recv(1) == b"x"
    before = porter.memory()
    source, target = (program, service) if forth else (service, program)
    source.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:
            sent += source.send(bytes(65536))
    assert sent < 32 << 20
    assert porter.memory() - before < 16 * BUFFER
    source.settimeout(10)
    source.shutdown(socket.SHUT_WR)
    assert len(read_all(target)) == sent


def test_programs_that_tear_off(porter: Porter) -> None:
    """Programs that vanish at every stage, by reset too, leave no descriptor behind."""
    before = porter.descriptors()
    for stage in range(200):
        program = porter.program(b"x" if stage % 2 else b"")
        if stage % 3 == 0:
            program.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if stage % 5 == 0:
            service = porter.park()
            if stage % 2 == 0:
                service.close()
        program.close()
    deadline = time.monotonic() + 10
    while porter.descriptors() > before + MAX_PARKED and time.monotonic() < deadline:
        time.sleep(0.05)
    assert porter.process.poll() is None
    for service in [porter.park() for _ in range(4)]:
        program = porter.program(b"still here")
        with contextlib.suppress(TimeoutError):
            service.settimeout(0.2)
            service.recv(100)
    assert porter.descriptors() <= before + MAX_PARKED + STREAMS * 2
