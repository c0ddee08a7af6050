"""The way out of a sandbox that may use the network: a port of its loopback, spliced to the service.

There is never a network device. The service parks connections here (operation `egress`); a process of
its own, the *porter*, under the relay's uid and without any power, listens on `PORT`, gives each program
that connects one parked connection, and copies bytes both ways. What they mean, and whether they may go
anywhere, is the service's business: nothing here decides, and both sides are taken as hostile.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from executor_service.guest import channel
from executor_service.guest.privileges import Identity, become_relay
from executor_service.guest.protocol import send_json

PORT = 3128
STREAMS = 32  # programs' connections at once, those included that have said nothing yet
MAX_PARKED = 64
BACKLOG = 64  # programs that connect while all streams are taken wait in the kernel
BUFFER = 64 * 1024  # bytes under way in each direction; past it the source is not read
FIRST_BYTE = 30.0  # seconds that a program may keep one of the streams without a word


class Egress:
    """Process 1's part: keeps the port, starts the porter, and hands it what the service parks."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._listener: socket.socket | None = None
        self._control: socket.socket | None = None
        self._pid = 0

    @property
    def serving(self) -> bool:
        """Whether this sandbox has a way out."""
        return self._listener is not None

    def park(self, connection: socket.socket) -> None:
        """Give the porter a connection of the service's; the caller closes its own copy.

        The port is bound at the first, before any code of users runs: nobody inside can take its place.

        Raises:
            OSError: the port is taken, or no process can be started.
        """
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", PORT), backlog=BACKLOG)
        if self._control is None:
            self._start(self._listener)
        assert self._control is not None
        connection.setblocking(False)
        send_json(connection, {"type": "parked"})
        with contextlib.suppress(
            OSError
        ):  # the service sees it closed; an error frame would be a stream's bytes
            channel.send(self._control, {}, [connection.fileno()])

    def reaped(self, pid: int) -> None:
        """A child of process 1 has ended; the next connection starts another porter."""
        if pid == self._pid and self._control is not None:
            self._control.close()
            self._control = None

    def _start(self, listener: socket.socket) -> None:
        ours, theirs = channel.pair()
        self._pid = os.fork()
        if self._pid == 0:
            _porter(listener, theirs, self._identity)
        theirs.close()
        ours.setblocking(False)  # process 1 waits for nobody
        self._control = ours


def _porter(listener: socket.socket, control: socket.socket, identity: Identity) -> None:
    """The porter process; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close_others([listener.fileno(), control.fileno()])
        become_relay(identity)
        Porter(listener, control).serve()
    finally:
        os._exit(1)


class Porter:
    """The loop that pairs programs with parked connections and copies bytes between them."""

    def __init__(self, listener: socket.socket, control: socket.socket) -> None:
        self._listener = listener
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._parked: deque[socket.socket] = deque()
        self._silent: dict[
            socket.socket, float
        ] = {}  # programs that said nothing yet, and until when they may
        self._ready: deque[socket.socket] = deque()  # programs that wait for a parked connection
        self._streams: set[Stream] = set()

    def serve(self) -> None:
        """Until process 1 is gone."""
        self._listener.setblocking(False)
        self._control.setblocking(False)
        self._watch(self._control, selectors.EVENT_READ, self._on_control)
        while True:
            room = len(self._silent) + len(self._ready) + len(self._streams) < STREAMS
            self._watch(self._listener, selectors.EVENT_READ if room else 0, self._on_program)
            for key, events in self._selector.select(self._patience()):
                now = self._selector.get_map().get(key.fd)
                if now is not None and now.fileobj is key.fileobj:  # not dropped by what came before it
                    now.data(events)
            self._drop_silent()
            self._pair()

    def _watch(self, sock: socket.socket, events: int, call: Callable[[int], None] | None = None) -> None:
        known = sock in self._selector.get_map()
        if known and not events:
            self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events, call)
        elif events:
            self._selector.register(sock, events, call)

    def _close(self, sock: socket.socket) -> None:
        self._watch(sock, 0)
        sock.close()

    # -- what arrives -----------------------------------------------------------------------------

    def _on_control(self, _events: int) -> None:
        try:
            _, fds = channel.receive(self._control)
        except BlockingIOError:
            return
        except EOFError:
            os._exit(0)
        for fd in fds:
            sock = socket.socket(fileno=fd)
            if len(self._parked) >= MAX_PARKED:
                sock.close()
                continue
            sock.setblocking(False)
            self._parked.append(sock)
            self._watch(sock, selectors.EVENT_READ, partial(self._unpark, sock))

    def _unpark(self, sock: socket.socket, _events: int) -> None:
        """The service has nothing to say to a parked connection: it has closed it."""
        self._parked.remove(sock)
        self._close(sock)

    def _on_program(self, _events: int) -> None:
        try:
            program, _ = self._listener.accept()
        except OSError:
            return
        program.setblocking(False)
        self._silent[program] = time.monotonic() + FIRST_BYTE
        self._watch(program, selectors.EVENT_READ, partial(self._speaks, program))

    def _speaks(self, program: socket.socket, _events: int) -> None:
        """Its first bytes are there, or its end."""
        del self._silent[program]
        try:
            more = program.recv(1, socket.MSG_PEEK)
        except OSError:
            more = b""
        if more:
            self._watch(program, 0)
            self._ready.append(program)
        else:
            self._close(program)

    def _patience(self) -> float | None:
        """Seconds until the first silent program has been silent for too long."""
        return max(0.0, min(self._silent.values()) - time.monotonic()) if self._silent else None

    def _drop_silent(self) -> None:
        now = time.monotonic()
        for program in [program for program, until in self._silent.items() if until <= now]:
            del self._silent[program]
            self._close(program)

    # -- streams ----------------------------------------------------------------------------------

    def _pair(self) -> None:
        while self._ready and self._parked:
            program, service = self._ready.popleft(), self._parked.popleft()
            stream = Stream(program, service)
            self._streams.add(stream)
            self._tend(stream)

    def _tend(self, stream: Stream) -> None:
        """Wait for what the stream can do next, or end it."""
        if stream.over:
            self._streams.discard(stream)
            for sock in stream.ends:
                self._close(sock)
            return
        for sock in stream.ends:
            self._watch(sock, stream.interest(sock), partial(self._move, stream, sock))

    def _move(self, stream: Stream, sock: socket.socket, events: int) -> None:
        stream.move(sock, events)
        self._tend(stream)


class Stream:
    """Two connections and the bytes under way between them; each direction ends by itself."""

    def __init__(self, program: socket.socket, service: socket.socket) -> None:
        self.ends = (program, service)
        self.over = False
        self._other = {program: service, service: program}
        self._toward = {program: bytearray(), service: bytearray()}
        self._ended: set[socket.socket] = set()  # nothing more comes from these
        self._shut: set[socket.socket] = set()  # these were told that nothing more comes

    def interest(self, sock: socket.socket) -> int:
        """What to wait for at one end."""
        reads = sock not in self._ended and len(self._toward[self._other[sock]]) < BUFFER
        writes = bool(self._toward[sock])
        return (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if writes else 0)

    def move(self, sock: socket.socket, events: int) -> None:
        """Copy what is possible now."""
        try:
            if events & selectors.EVENT_READ:
                self._read(sock)
            for end in self.ends:
                self._write(end)
        except OSError:  # either side is gone: so is the stream
            self.over = True
        if len(self._shut) == len(self.ends):
            self.over = True

    def _read(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            data = sock.recv(BUFFER)
            self._toward[self._other[sock]] += data
            if not data:
                self._ended.add(sock)

    def _write(self, sock: socket.socket) -> None:
        waiting = self._toward[sock]
        with contextlib.suppress(BlockingIOError):
            while waiting:
                del waiting[: sock.send(waiting)]
        if not waiting and self._other[sock] in self._ended and sock not in self._shut:
            self._shut.add(sock)
            sock.shutdown(socket.SHUT_WR)
