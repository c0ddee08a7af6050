"""The relay, between a service that is a socket pair and kernels that libzmq or raw bytes play."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import zmq

from executor_service.guest import channel
from executor_service.guest import relay as relay_module
from executor_service.guest.kernel_frames import (
    CHANNELS,
    CONTROL,
    IOPUB,
    SHELL,
    STDIN,
    pack_message,
    unpack_message,
)
from executor_service.guest.protocol import Kind, ProtocolError, pack, pack_json, parse_json, recv_frame
from executor_service.guest.relay import DELIMITER, relay

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04XPUB"
PARTS = [b"", b'{"msg_id": "1"}', b'{"msg_id": "0"}', b"{}", b"{}"]


class Relayed:
    """A relay in a thread, from the service's side."""

    def __init__(self, directory: Path) -> None:
        self.paths = {name: f"{directory}/{name}" for name in CHANNELS}
        self.conn, theirs = socket.socketpair()
        self.conn.settimeout(30)
        self.died, self.died_write = os.pipe()
        self.thread = threading.Thread(target=self._run, args=(theirs,))
        self.thread.start()

    def _run(self, conn: socket.socket) -> None:
        with conn:
            relay(conn, self.paths, self.died)

    def next(self) -> tuple[int, list[bytes]] | dict[str, Any]:
        """The next frame: a message with its channel, or a JSON object."""
        kind, payload = recv_frame(self.conn)
        return unpack_message(payload) if kind is Kind.KERNEL else parse_json(payload)

    def end(self, status: int | None = None) -> None:
        """The kernel ended."""
        if status is not None:
            os.write(self.died_write, json.dumps({"status": status}).encode())
        os.close(self.died_write)
        self.died_write = -1

    def close(self) -> None:
        """Go, and see that the relay goes too."""
        self.conn.close()
        self.thread.join(30)
        assert not self.thread.is_alive()
        os.close(self.died)
        if self.died_write >= 0:
            os.close(self.died_write)


class FakeKernel:
    """A kernel of libzmq sockets that answers kernel_info and otherwise does as the test says."""

    def __init__(self, directory: Path) -> None:
        self._context = zmq.Context()
        self.sockets = {name: self._socket(directory, name) for name in CHANNELS}

    def _socket(self, directory: Path, name: str) -> zmq.Socket[bytes]:
        sock = self._context.socket(zmq.XPUB if name == "iopub" else zmq.ROUTER)
        sock.linger = 0
        sock.sndhwm = 0
        sock.rcvtimeo = 30_000
        sock.bind(f"ipc://{directory}/{name}")
        return sock

    def answer_kernel_info(self) -> list[bytes]:
        """Receive one request, publish its idle status, reply; the request's frames."""
        frames = self.sockets["shell"].recv_multipart()
        parent = frames[3]
        self.sockets["iopub"].send_multipart(
            [b"status", DELIMITER, b"", b"{}", parent, b"{}", b'{"execution_state": "idle"}']
        )
        self.sockets["shell"].send_multipart([frames[0], DELIMITER, b"", b"{}", parent, b"{}", b"{}"])
        return frames

    def make_ready(self, relayed: Relayed) -> None:
        """Answer until the relay is content: the first statuses may be lost."""
        while not select.select([relayed.conn], [], [], 0)[0]:
            if self.sockets["shell"].poll(10):
                self.answer_kernel_info()
        assert relayed.next() == {"type": "kernel_ready"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets.values():
            sock.close()
        self._context.term()


@pytest.fixture
def relayed(tmp_path: Path) -> Iterator[Relayed]:
    """A relay that waits for a kernel in `tmp_path`."""
    running = Relayed(tmp_path)
    yield running
    running.close()


@pytest.fixture
def kernel(relayed: Relayed, tmp_path: Path) -> Iterator[FakeKernel]:
    """A kernel that the relay has found ready."""
    with FakeKernel(tmp_path) as fake:
        fake.make_ready(relayed)
        yield fake


def test_ready_once_the_subscription_is_proven(relayed: Relayed, tmp_path: Path) -> None:
    """A kernel that comes late and whose first idle status is lost is asked again."""
    time.sleep(0.05)
    with FakeKernel(tmp_path) as fake:
        first = fake.sockets["shell"].recv_multipart()  # never answered
        second = fake.answer_kernel_info()
        assert first[3] != second[3]
        fake.make_ready(relayed)


def test_messages_go_both_ways(relayed: Relayed, kernel: FakeKernel) -> None:
    """Identities and delimiters end at the relay; shell and stdin share an identity."""
    identities = {}
    for number in (SHELL, STDIN, CONTROL):
        relayed.conn.sendall(pack_message(number, [*PARTS, b"buffer"]))
        identity, *frames = kernel.sockets[CHANNELS[number]].recv_multipart()
        identities[number] = identity
        assert frames == [DELIMITER, *PARTS, b"buffer"]
        kernel.sockets[CHANNELS[number]].send_multipart([identity, DELIMITER, *PARTS])
        assert relayed.next() == (number, PARTS)
    assert identities[SHELL] == identities[STDIN]
    kernel.sockets["iopub"].send_multipart([b"a topic", DELIMITER, *PARTS, bytes(100_000)])
    assert relayed.next() == (IOPUB, [*PARTS, bytes(100_000)])


def test_what_is_no_jupyter_message_is_dropped(relayed: Relayed, kernel: FakeKernel) -> None:
    """Frames without a delimiter, or too few, are passed over in silence."""
    for frames in (
        [b""],
        [b"x"] * 10,
        [DELIMITER],
        [b"t", DELIMITER, b"", b"{}"],
        [DELIMITER, DELIMITER, *PARTS[1:]],
    ):
        kernel.sockets["iopub"].send_multipart(frames)
    kernel.sockets["iopub"].send_multipart([DELIMITER, *PARTS])
    assert relayed.next() == (IOPUB, [DELIMITER, *PARTS[1:]])
    assert relayed.next() == (IOPUB, PARTS)


def test_an_oversize_message_is_told_and_dropped(relayed: Relayed, kernel: FakeKernel) -> None:
    """More than 32 MiB: its channel and size are told, the next message comes."""
    size = 40 * 1024 * 1024
    kernel.sockets["iopub"].send_multipart([b"t", DELIMITER, *PARTS[:4], bytes(size)])
    kernel.sockets["iopub"].send_multipart([b"t", DELIMITER, *PARTS])
    told = relayed.next()
    assert isinstance(told, dict)
    assert (told["type"], told["channel"]) == ("oversize", IOPUB)
    assert told["size"] > size
    assert relayed.next() == (IOPUB, PARTS)


def test_a_slow_service_holds_the_kernel_back(relayed: Relayed, kernel: FakeKernel) -> None:
    """What the service does not read stays in the kernel; then all of it comes, in order."""
    for i in range(200):
        kernel.sockets["iopub"].send_multipart([DELIMITER, *PARTS[:4], b"%d" % i, bytes(1 << 20)])
    time.sleep(0.3)
    for i in range(200):
        message = relayed.next()
        assert isinstance(message, tuple)
        assert message[1][4] == b"%d" % i


def test_a_kernel_that_reads_nothing_holds_the_service_back(relayed: Relayed, kernel: FakeKernel) -> None:
    """Requests wait at the service, not in the relay, and the other direction goes on."""
    relayed.conn.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):  # libzmq keeps 1,000 messages, then stops reading
        while sent < 4000:
            relayed.conn.sendall(pack_message(SHELL, [*PARTS, bytes(100_000)]))
            sent += 1
    assert sent < 1500
    relayed.conn.settimeout(30)
    kernel.sockets["iopub"].send_multipart([DELIMITER, *PARTS])
    assert relayed.next() == (IOPUB, PARTS)


@pytest.mark.parametrize(
    ("status", "exit_code", "name"),
    [
        (0, 0, None),
        (3 << 8, 3, None),
        (signal.SIGKILL, None, "SIGKILL"),
        (45, None, "SIG45"),
        (None, None, None),
    ],
)
def test_the_end_comes_after_what_was_sent(
    relayed: Relayed, kernel: FakeKernel, status: int | None, exit_code: int | None, name: str | None
) -> None:
    """A dead kernel's last messages are passed on, then how it ended; then the relay is gone."""
    for i in range(100):
        kernel.sockets["iopub"].send_multipart([DELIMITER, *PARTS[:4], b"%d" % i, bytes(10_000)])
    time.sleep(0.2)
    relayed.end(status)
    for i in range(100):
        message = relayed.next()
        assert isinstance(message, tuple)
        assert message[1][4] == b"%d" % i
    assert relayed.next() == {"type": "kernel_died", "exit_code": exit_code, "signal": name}
    with pytest.raises(EOFError):
        relayed.next()


def test_the_end_is_told_when_no_kernel_ever_came(relayed: Relayed) -> None:
    """A kernel that dies before it binds is noticed at once."""
    relayed.end(1 << 8)
    assert relayed.next() == {"type": "kernel_died", "exit_code": 1, "signal": None}


def test_sockets_left_by_a_dead_kernel_are_waited_out(relayed: Relayed, tmp_path: Path) -> None:
    """Stale files, plain files, and listeners that close at once do not end the relay."""
    (tmp_path / "control").touch()
    for name in ("iopub", "shell"):
        left = socket.socket(socket.AF_UNIX)
        left.bind(f"{tmp_path}/{name}")
        left.close()
    time.sleep(0.05)
    for name in CHANNELS:
        (tmp_path / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as dying:
            dying.bind(f"{tmp_path}/{name}")
            dying.listen()
            time.sleep(0.01)
    with FakeKernel(tmp_path) as fake:
        fake.make_ready(relayed)


def test_the_service_may_go_at_any_time(tmp_path: Path) -> None:
    """Its end ends the relay: before a kernel is there, and after."""
    Relayed(tmp_path).close()
    with FakeKernel(tmp_path):
        Relayed(tmp_path).close()


@pytest.mark.parametrize(
    "frame", [b"\xff\0\0\0\0", pack(Kind.KERNEL, b"\x09"), pack(Kind.KERNEL, b"\0\0\0\0\x05a")]
)
def test_a_service_that_speaks_nonsense_is_left(relayed: Relayed, kernel: FakeKernel, frame: bytes) -> None:
    """The relay closes."""
    relayed.conn.sendall(frame)
    with pytest.raises((EOFError, ConnectionError)):
        relayed.next()


def _close(conn: socket.socket) -> None:
    conn.close()


def _garbage(conn: socket.socket) -> None:
    conn.sendall(os.urandom(100_000))


def _silence(conn: socket.socket) -> None:
    conn.recv(1)


def _greeting_only(conn: socket.socket) -> None:
    conn.sendall(GREETING)


def _no_idle(conn: socket.socket) -> None:
    conn.sendall(GREETING + READY)


def _flood_of_pings(conn: socket.socket) -> None:
    conn.settimeout(0.2)
    conn.sendall(GREETING + READY)
    conn.sendall(b"\x04\x17\x04PING\x00\x00" + bytes(16) * 200_000)


def _endless_frame(conn: socket.socket) -> None:
    conn.sendall(GREETING + READY + b"\x02" + b"\x7f" * 8)
    for _ in range(100):
        conn.sendall(bytes(100_000))


@pytest.mark.parametrize(
    "behave", [_close, _garbage, _silence, _greeting_only, _no_idle, _flood_of_pings, _endless_frame]
)
def test_a_hostile_kernel_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behave: Callable[[socket.socket], None]
) -> None:
    """Whatever sits behind the sockets: after the time to start, its end is told, calmly."""
    monkeypatch.setattr(relay_module, "START_TIME", 1.0)
    with _listening(tmp_path, behave):
        running = Relayed(tmp_path)
        try:
            assert running.next() == {"type": "kernel_died", "exit_code": None, "signal": None}
        finally:
            running.close()


@contextlib.contextmanager
def _listening(directory: Path, behave: Callable[[socket.socket], None]) -> Iterator[None]:
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        for name in CHANNELS:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(f"{directory}/{name}")
            listener.listen()
            listener.settimeout(0.05)
            thread = threading.Thread(target=_serve, args=(listener, stop, behave))
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        yield


def _serve(listener: socket.socket, stop: threading.Event, behave: Callable[[socket.socket], None]) -> None:
    kept: list[socket.socket] = []
    while not stop.is_set():
        with contextlib.suppress(OSError):
            conn, _ = listener.accept()
            kept.append(conn)
            behave(conn)
    for conn in kept:
        conn.close()


def test_a_kernel_that_closes_a_channel_later_does_not_end_the_relay(
    relayed: Relayed, kernel: FakeKernel
) -> None:
    """The other channels go on, and the loop does not spin."""
    kernel.sockets["control"].close()
    kernel.sockets["shell"].close()
    relayed.conn.sendall(pack_message(SHELL, PARTS))
    kernel.sockets["iopub"].send_multipart([DELIMITER, *PARTS])
    assert relayed.next() == (IOPUB, PARTS)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.2
    relayed.end()
    assert relayed.next() == {"type": "kernel_died", "exit_code": None, "signal": None}


@pytest.mark.parametrize(
    "payload", [b"", b"\x04", b"\0", b"\0\0\0\0\x01", b"\0\0\0\0\x01a\0", b"\0" + b"\0\0\0\0" * 4]
)
def test_unpack_refuses_what_does_not_fit(payload: bytes) -> None:
    """No channel, cut lengths, too few parts."""
    with pytest.raises(ProtocolError):
        unpack_message(payload)


def test_an_execution_that_is_kept_goes_on_without_its_service(tmp_path: Path) -> None:
    """Another connection hears it from the start; one whose request never came is not waited for."""
    ours, theirs = socket.socketpair()
    control, far = channel.pair()
    died, died_write = os.pipe()
    paths = {name: f"{tmp_path}/{name}" for name in CHANNELS}
    left: list[bool] = []
    thread = threading.Thread(target=lambda: left.append(relay(theirs, paths, died, control)))
    thread.start()
    ours.settimeout(30)
    with FakeKernel(tmp_path) as kernel:
        while not select.select([ours], [], [], 0)[0]:
            if kernel.sockets["shell"].poll(10):
                kernel.answer_kernel_info()
        assert parse_json(recv_frame(ours)[1]) == {"type": "kernel_ready"}
        ours.sendall(pack_json({"type": "keep", "operation": "exe_1"}))
        assert parse_json(recv_frame(ours)[1]) == {"type": "keeping", "operation": "exe_1"}
        request = [b"", b'{"msg_id": "1", "msg_type": "execute_request"}', b"{}", b"{}", b"{}"]
        ours.sendall(pack_message(SHELL, request))
        frames = kernel.sockets["shell"].recv_multipart()
        ours.close()
        body = [DELIMITER, b"", b"{}", frames[3], b"{}", b'{"name": "stdout", "text": "a"}']
        kernel.sockets["iopub"].send_multipart([b"stream", *body])
        here, there = socket.socketpair()
        here.settimeout(30)
        channel.send(far, {"word": "attach", "after": 0}, [there.fileno()])
        there.close()
        answer = parse_json(recv_frame(here)[1])
        assert (answer["operation"], answer["from"], answer["busy"]) == ("exe_1", 0, True)
        assert unpack_message(recv_frame(here)[1])[0] == IOPUB
        here.sendall(pack_json({"type": "keep", "operation": "exe_2"}))
        while parse_json_or_none(recv_frame(here)) != {"type": "keeping", "operation": "exe_2"}:
            pass
        kernel.sockets["shell"].send_multipart([frames[0], DELIMITER, b"", b"{}", frames[3], b"{}", b"{}"])
        assert unpack_message(recv_frame(here)[1])[0] == SHELL
        here.sendall(pack_json({"type": "forget"}) + pack_json({"type": "keep", "operation": "exe_3"}))
        while parse_json_or_none(recv_frame(here)) != {"type": "keeping", "operation": "exe_3"}:
            pass
        here.close()
        thread.join(30)
        assert left == [False]
    for fd in (died, died_write):
        os.close(fd)
    for each in (control, far, theirs):
        each.close()


def parse_json_or_none(frame: tuple[Kind, bytes]) -> dict[str, Any] | None:
    """The object of a JSON frame."""
    return parse_json(frame[1]) if frame[0] is Kind.JSON else None
