"""Carries whole Jupyter messages between a kernel's ZMQ sockets and one connection to the service.

One thread, one loop, bounded buffers: when the service reads slowly, the kernel's sockets are not
read, and the kernel (whose queue is unlimited) runs into its own memory limit. Both sides are taken
as hostile: garbage ends a channel, never the relay. Not here: what the messages mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Self

from executor_service.guest import protocol
from executor_service.guest.keeping import Dropped, Outbox, hear_keeping
from executor_service.guest.kernel_frames import (
    CHANNELS,
    CONTROL,
    IOPUB,
    MIN_PARTS,
    SHELL,
    STDIN,
    pack_message,
    unpack_message,
)
from executor_service.guest.protocol import Kind, ProtocolError
from executor_service.guest.zmtp import Connection, Message, Oversize, ZmtpError

DELIMITER = b"<IDS|MSG>"
HIGH_WATER = 1024 * 1024  # bytes that may wait in a buffer before its source is not read any more
START_TIME = 20.0  # seconds that a kernel has to answer
RETRY = 0.003  # seconds between attempts to connect to a socket that is not there yet
LOOPBACK_TIME = 0.5  # seconds that a port of the loopback has to take a connection
ASK_AGAIN = 0.1  # seconds after which kernel_info is asked again
ASK_SOON = 0.01  # the same, once the kernel has answered: then only the idle status is missing
REHEARSAL_TIME = 5.0  # seconds that a rehearsal may take
_NOTHING = json.dumps(
    {"code": "None", "silent": True, "store_history": False, "allow_stdin": False, "stop_on_error": False}
).encode()
DRAIN_TIME = 10.0  # seconds that the service has to take what a dead kernel left


class _HostGone(Exception):
    """The service closed the connection, or broke the protocol."""


class _KernelDied(Exception):
    """The kernel ended, or did not answer in time."""


def relay(
    conn: socket.socket,
    sockets: Mapping[str, str | int],
    died_fd: int,
    control: socket.socket | None = None,
    *,
    key: bytes = b"",
    start_time: float = START_TIME,
    by_message: bool = False,
) -> bool:
    """Relay until either side ends. Never raises because of what a peer does.

    Args:
        conn: the service's connection, whose first frame was read already.
        sockets: the path of the kernel's socket of each of `CHANNELS`, or its port on the loopback.
        died_fd: readable once the kernel has ended. If a JSON object with its wait `status` can be
            read from it, the last frame says how it ended.
        control: leads to process 1, where executions may outlive their connection (see `keeping`).
        key: messages to the kernel are signed with it; none are without. Its own are taken as they are.
        start_time: seconds that it has to answer.
        by_message: code that nobody waits for any more is interrupted here, by a message.

    Returns:
        Whether the service went while code ran for it, which nobody waits for any more.
    """
    with _Relay(conn, died_fd, control, key) as running:
        try:
            try:
                running.start(sockets, start_time)
                running.loop()
            except _KernelDied:
                running.drain()
                running.tell_end()
        except (_HostGone, Dropped):
            return running.busy and not (by_message and running.interrupt())
    return False


def rehearse(sockets: Mapping[str, str | int], died_fd: int) -> None:
    """Have a kernel do once, while nobody waits, what takes it long the first time; it leaves no trace."""
    ours, _theirs = socket.socketpair()
    with ours, _theirs, _Relay(ours, died_fd, None, b"") as running, contextlib.suppress(_KernelDied):
        running.start(sockets, START_TIME)
        running.execute_nothing(REHEARSAL_TIME)


class _Relay:
    """The state of one relay: the service's connection, the kernel's, and what waits between."""

    def __init__(self, conn: socket.socket, died_fd: int, control: socket.socket | None, key: bytes) -> None:
        conn.setblocking(False)
        self._key = key
        if control is not None:
            control.setblocking(False)
        self._died_fd = died_fd
        self._out = Outbox(conn, control)  # for the service
        self.busy = False  # code runs for the service
        self._in = bytearray()  # from the service
        self._channels: dict[int, Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._interest: dict[int, int] = {}
        self._out.before_close = lambda fd: self._watch(fd, 0, "host")
        self._died = False
        self._asked: list[bytes] = []  # ids of our own requests, whose answers are not the service's

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_channels()
        self._selector.close()

    def _close_channels(self) -> None:
        for number in self._channels:
            self._drop(number)
        self._channels.clear()

    def _drop(self, number: int) -> None:
        """Close a channel, if that was not done yet, and forget its descriptor."""
        fd = self._channels[number].fileno()
        if fd >= 0:
            self._watch(fd, 0, number)
            self._channels[number].close()

    # -- start ----------------------------------------------------------------------------------

    def start(self, sockets: Mapping[str, str | int], start_time: float) -> None:
        """Connect until the kernel answers on every channel, then tell the service.

        A connection that ends early was one to the sockets of a kernel that died: try again.
        """
        deadline = time.monotonic() + start_time
        while True:
            self._open(sockets, deadline)
            if self._prove_subscription(deadline):
                break
            self._close_channels()
            time.sleep(RETRY)
        self._out.put(protocol.pack_json({"type": "kernel_ready"}))

    def _open(self, sockets: Mapping[str, str | int], deadline: float) -> None:
        identity = os.urandom(8).hex().encode()  # input requests go to the shell's identity
        for number, name in reversed(list(enumerate(CHANNELS))):
            kind: Literal["SUB", "DEALER"] = "SUB" if name == "iopub" else "DEALER"
            sock = self._connect(sockets[name], deadline)
            self._channels[number] = Connection(sock, kind, identity=identity)

    def _connect(self, address: str | int, deadline: float) -> socket.socket:
        poll = select.poll()
        conn = self._out.connection
        assert conn is not None
        poll.register(conn, select.POLLRDHUP)
        poll.register(self._died_fd, select.POLLIN)
        while True:
            sock = _try_connect(address)
            if sock is not None:
                return sock
            ready = [fd for fd, _ in poll.poll(RETRY * 1000)]
            if conn.fileno() in ready:
                raise _HostGone
            if self._died_fd in ready or time.monotonic() > deadline:
                raise _KernelDied

    def _prove_subscription(self, deadline: float) -> bool:
        """Ask for kernel_info until its idle status comes on iopub; false if a channel ends first.

        Messages published before a subscription has arrived are lost; this one came.
        """
        ask_at = 0.0
        answered = idle = False
        while not (answered and idle):
            now = time.monotonic()
            if self._died or now > deadline:
                raise _KernelDied
            if any(channel.closed for channel in self._channels.values()):
                return False
            if now >= ask_at:
                self._ask_kernel_info()
                ask_at = now + ASK_AGAIN
            for number, message in self._wait(min(ask_at, deadline) - now):
                parts = _wire_parts(message)
                if parts is not None and self._answers_us(parts):
                    if number == SHELL and not answered:
                        answered, ask_at = True, time.monotonic() + ASK_SOON
                    idle |= number == IOPUB and b'"idle"' in parts[4]
        return True

    def execute_nothing(self, seconds: float) -> None:
        """Silently, and wait for its end so long at most."""
        self._asked.clear()
        deadline = time.monotonic() + seconds
        self._request(SHELL, "execute_request", _NOTHING)
        idle = False
        while not idle and not self._died and (left := deadline - time.monotonic()) > 0:
            for number, message in self._wait(left):
                parts = _wire_parts(message)
                if parts is not None and number == IOPUB and self._answers_us(parts):
                    idle |= b'"idle"' in parts[4]

    def _ask_kernel_info(self) -> None:
        self._request(SHELL, "kernel_info_request")

    def _request(self, number: int, kind: str, content: bytes = b"{}") -> None:
        """Send a request of our own, whose answers nobody else hears."""
        msg_id = os.urandom(16).hex()
        self._asked.append(msg_id.encode())
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "username": "codecell",
            "session": msg_id,
            "date": datetime.now(UTC).isoformat(),
            "version": "5.3",
        }
        self._to_kernel(number, [b"", json.dumps(header).encode(), b"{}", b"{}", content])

    def _answers_us(self, parts: Sequence[bytes]) -> bool:
        return any(msg_id in parts[2] for msg_id in self._asked)

    # -- the loop -------------------------------------------------------------------------------

    def loop(self) -> None:
        """Relay until an end."""
        while True:
            self._flush()
            log = self._out.log
            if self._out.connection is None and not self.busy and log is not None and not log.last:
                raise _HostGone  # it was to be kept, and its request never came
            for number, message in self._wait(None):
                self._to_host(number, message)
            if self._died:
                raise _KernelDied
            self._from_host()

    def _wait(self, timeout: float | None) -> list[tuple[int, Message]]:
        """Wait until something moves; what the kernel sent by then. Reads the service too."""
        self._set_interest()
        got: list[tuple[int, Message]] = []
        for key, events in self._selector.select(timeout):
            if key.data == "died":
                self._died = True
            elif key.data == "control":
                self._take_over()
            elif key.data == "host":
                if events & selectors.EVENT_READ:
                    self._read_host()
                self._flush()
            else:
                if events & selectors.EVENT_WRITE:
                    self._channels[key.data].flush()
                if events & selectors.EVENT_READ:
                    got += [(key.data, message) for message in self._receive(key.data)]
        return got

    def _set_interest(self) -> None:
        read, write = selectors.EVENT_READ, selectors.EVENT_WRITE
        full = self._out.full(HIGH_WATER)
        self._watch(self._died_fd, 0 if self._died else read, "died")
        behind = len(self._in) > protocol.MAX_FRAME
        for number, channel in self._channels.items():
            if channel.closed:
                self._drop(number)
            else:
                behind |= channel.buffered >= HIGH_WATER
                wanted = 0 if full or channel.buffered >= HIGH_WATER else read
                self._watch(channel.fileno(), wanted | (write if channel.wants_write else 0), number)
        self._watch_host((0 if behind else read) | (write if self._out.waits else 0))

    def _watch_host(self, events: int) -> None:
        if self._out.connection is not None:
            self._watch(self._out.connection.fileno(), events, "host")
        if self._out.control is not None:
            self._watch(self._out.control.fileno(), selectors.EVENT_READ, "control")

    def _watch(self, fd: int, events: int, data: object) -> None:
        before = self._interest.get(fd, 0)
        if events == before:
            return
        if not before:
            self._selector.register(fd, events, data)
        elif not events:
            self._selector.unregister(fd)
        else:
            self._selector.modify(fd, events, data)
        self._interest[fd] = events

    # -- kernel to service ----------------------------------------------------------------------

    def _receive(self, number: int) -> list[Message]:
        channel = self._channels[number]
        messages: list[Message] = []
        try:
            messages = channel.receive()
        except ZmtpError:
            channel.closed = True
        if channel.closed:
            self._drop(number)
        return messages

    def _to_host(self, number: int, message: Message) -> None:
        if isinstance(message, Oversize):
            self._tell({"type": "oversize", "channel": number, "size": message.size})
            return
        parts = _wire_parts(message)
        if parts is not None and not self._answers_us(parts):
            self._out.put(pack_message(number, parts))
            if number != IOPUB:
                self._note("replied" if number == SHELL else "asked")
                self.busy &= number != SHELL

    def _tell(self, notice: dict[str, object]) -> None:
        self._out.put(protocol.pack_json(notice))

    def _note(self, what: str) -> None:
        """Say when something happened, to a service that may hear of it much later."""
        if self._out.log is not None:
            self._tell({"type": "at", "what": what, "at": time.time()})

    def _flush(self) -> None:
        if not self._out.flush():
            raise _HostGone

    # -- service to kernel ----------------------------------------------------------------------

    def _read_host(self) -> None:
        conn = self._out.connection
        if conn is None:
            return
        try:
            data = conn.recv(protocol.CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._in += data
        if not data:
            self._lose_host()

    def _lose_host(self) -> None:
        """The service has gone, or broke the protocol; a kept execution goes on without it."""
        self._in.clear()
        if not self._out.lose():
            raise _HostGone

    def _take_over(self) -> None:
        """Process 1 passes on another connection of the service's."""
        self._in.clear()
        self._out.heed(busy=self.busy)

    def _from_host(self) -> None:
        header = protocol.HEADER.size
        try:
            while len(self._in) >= header:
                kind, length = protocol.parse_header(bytes(self._in[:header]))
                if len(self._in) < header + length:
                    return
                payload = bytes(self._in[header : header + length])
                del self._in[: header + length]
                if kind is Kind.KERNEL:
                    self._to_kernel(*unpack_message(payload))
                elif kind is Kind.JSON and self._out.control is not None:
                    hear_keeping(self._out, protocol.parse_json(payload))
        except (ProtocolError, KeyError):
            self._lose_host()

    def _to_kernel(self, number: int, parts: Sequence[bytes]) -> None:
        channel = self._channels.get(number)
        if channel is not None and not channel.closed and number != IOPUB:
            channel.send([DELIMITER, *(_signed(parts, self._key) if self._key else parts)])
            self.busy |= number == SHELL and b'"execute_request"' in parts[1]
            if number == STDIN:
                self._note("answered")

    # -- the end --------------------------------------------------------------------------------

    def interrupt(self) -> bool:
        """Interrupt what runs, by a message; whether that could be sent."""
        channel = self._channels.get(CONTROL)
        if channel is None or channel.closed:
            return False
        self._request(CONTROL, "interrupt_request")
        return not channel.buffered

    def drain(self) -> None:
        """Pass on what a dead kernel had still sent; what it wrote is in our sockets already."""
        deadline = time.monotonic() + DRAIN_TIME
        for number, channel in self._channels.items():
            poll = select.poll()
            if not channel.closed:
                poll.register(channel.fileno(), select.POLLIN)
            while not channel.closed and poll.poll(0) and time.monotonic() < deadline:
                for message in self._receive(number):
                    self._to_host(number, message)
                self._flush_all(deadline)

    def tell_end(self) -> None:
        """Tell the service that the kernel ended, and how if that is known."""
        exit_code, name = self._how_it_ended()
        self.busy = False
        self._note("replied")
        self._tell({"type": "kernel_died", "exit_code": exit_code, "signal": name})
        self._flush()
        while self._out.log is not None:  # until the service has dealt with it
            self._wait(None)
            self._from_host()
        self._flush_all(time.monotonic() + DRAIN_TIME)

    def _how_it_ended(self) -> tuple[int | None, str | None]:
        """Exit code, or the name of the signal; neither if that is not known."""
        try:
            os.set_blocking(self._died_fd, False)
            status = protocol.parse_json(os.read(self._died_fd, 4096)).get("status")
            code = os.waitstatus_to_exitcode(status) if isinstance(status, int) else None
        except (OSError, ProtocolError, ValueError, OverflowError):
            return None, None
        if code is None or code >= 0:
            return code, None
        try:
            return None, signal.Signals(-code).name
        except ValueError:  # a real-time signal
            return None, f"SIG{-code}"

    def _flush_all(self, deadline: float) -> None:
        self._flush()
        while self._out.waits and self._out.log is None:
            poll = select.poll()
            assert self._out.connection is not None
            poll.register(self._out.connection, select.POLLOUT)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _HostGone
            self._flush()


def _try_connect(address: str | int) -> socket.socket | None:
    """A connection, or None: not there yet, left by a dead kernel, not yet open to us, or busy."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(address, int):
            sock.settimeout(LOOPBACK_TIME)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(("127.0.0.1", address))
        else:
            sock.setblocking(False)
            sock.connect(address)
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def _signed(parts: Sequence[bytes], key: bytes) -> list[bytes]:
    """The parts of a message with the signature in place that its kernel asks for."""
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts[1:MIN_PARTS]:
        digest.update(part)
    return [digest.hexdigest().encode(), *parts[1:]]


def _wire_parts(message: Message) -> list[bytes] | None:
    """What follows the delimiter, or None if this is no Jupyter message."""
    if isinstance(message, Oversize) or DELIMITER not in message:
        return None
    parts = message[message.index(DELIMITER) + 1 :]
    return parts if len(parts) >= MIN_PARTS else None
