"""One program: started, fed, listened to, limited, ended with its whole tree. Runs in its own handler.

The handler is a sub-reaper, so whatever the program starts stays below it and is found and killed at
the end. Output is capped here, at the source; reading stops while the service does not read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import resource
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Any

from executor_service.guest import channel, linux, procs
from executor_service.guest.keeping import Dropped, Outbox, hear_keeping
from executor_service.guest.launch import send_with_fds, start_process
from executor_service.guest.privileges import Identity
from executor_service.guest.protocol import (
    CHUNK,
    HEADER,
    Kind,
    pack,
    pack_json,
    parse_header,
    parse_json,
    recv_json,
)
from executor_service.guest.state import Armed, Lease

STDIN_BUFFER = 1024 * 1024  # read ahead of the program; past it the service has to wait
OUT_BUFFER = 1024 * 1024
CPU_INTERVAL = 0.1
LINGER = 5.0  # seconds that the service may take to read the end and close
LAST_WORDS = 1.0  # seconds that output written before the end may take to be read
MANY_FRAMES = 10_000  # of a kept operation: from then on output is read only every `SETTLE` seconds
SETTLE = 0.02


class Handler:
    """The whole of a `program` operation."""

    def __init__(
        self,
        connection: socket.socket,
        identity: Identity,
        lease: Lease,
        kills: Callable[[], int],
        armed: Armed | None,
        reap_others: Callable[[], None] | None,
        keep: tuple[str, socket.socket] | None = None,
    ) -> None:
        """`keep`: the name under which the operation outlives its connection, and its way to process 1."""
        self._out = Outbox(connection, keep[1] if keep else None)
        self._keep = keep
        self._read_after = 0.0
        self._identity = identity
        self._lease = lease
        self._kills = kills
        self._kills_before = kills()
        self._armed = armed
        self._reap_others = reap_others
        self._reason: str | None = None
        self._detail: str | None = None
        self._outputs: dict[int, Kind] = {}
        self._left: dict[Kind, int] = {}
        self._truncated = {Kind.STDOUT: False, Kind.STDERR: False}
        self._incoming = bytearray()
        self._stdin: int | None = None
        self._stdin_data = bytearray()
        self._stdin_ends = False
        self._tty: int | None = None
        self._pid = 0
        self._status_fd = -1
        self._status: dict[str, Any] | None = None

    def run(self) -> None:
        """Serve the operation to its end, or until the service closes the connection."""
        assert self._out.connection is not None
        request = recv_json(self._out.connection)
        limits = request["limits"]
        self._wall_time, self._cpu_time = float(limits["wall_time"]), limits["cpu_time"]
        self._left = {Kind.STDOUT: int(limits["output_bytes"]), Kind.STDERR: int(limits["output_bytes"])}
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        self._started = time.monotonic()
        self._reaped_before = _reaped_cpu()
        try:
            self._start(request)
        except OSError as error:
            self._refuse(error)
            return
        self._begin()
        try:
            gone = self._pump()
            self._end_tree()
            if not gone:
                self._drain()
                self._finish()
        except Dropped:
            self._end_tree()

    def _begin(self) -> None:
        assert self._out.connection is not None
        self._out.connection.setblocking(False)
        if self._keep:
            self._out.keep(self._keep[0])
        self._say({"type": "started", "pid": self._pid})

    # -- starting ---------------------------------------------------------------------------------

    def _start(self, request: dict[str, Any]) -> None:
        child_fds, ours = self._plumb(request)
        try:
            if self._armed:
                message = {key: request[key] for key in ("argv", "cwd", "env", "source", "limits")}
                send_with_fds(self._armed.control, message, child_fds)
                self._pid, self._status_fd = self._armed.pid, self._armed.status
            else:
                self._pid, self._status_fd = start_process(
                    request, child_fds, self._identity, self._lease.processes
                )
        finally:
            channel.close(sorted(set(child_fds)))
        for fd in ours:
            os.set_blocking(fd, False)

    def _plumb(self, request: dict[str, Any]) -> tuple[list[int], list[int]]:
        """The program's three descriptors, and ours."""
        if request.get("tty"):
            master, slave = pty.openpty()
            _resize(master, request["tty"])
            self._tty = self._stdin = master
            self._outputs[master] = Kind.STDOUT
            return [slave, slave, slave], [master]
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self._outputs = {out_read: Kind.STDOUT, err_read: Kind.STDERR}
        if not request.get("stdin"):
            return [os.open("/dev/null", os.O_RDONLY), out_write, err_write], [out_read, err_read]
        in_read, self._stdin = os.pipe()
        return [in_read, out_write, err_write], [out_read, err_read, self._stdin]

    def _refuse(self, error: OSError) -> None:
        self._reason, self._detail = (
            "spawn",
            f"{error.strerror or error}: {error.filename or ''}".rstrip(": "),
        )
        self._status = {"status": 127 << 8, "cpu_time": 0.0}
        self._begin()
        with contextlib.suppress(Dropped):
            self._finish()

    # -- while it runs ----------------------------------------------------------------------------

    def _pump(self) -> bool:
        """Until the main process has ended; True if the service has gone."""
        next_cpu = self._started + CPU_INTERVAL if self._cpu_time else None
        while not self._has_ended():
            now = time.monotonic()
            if now >= self._started + self._wall_time:
                self._stop("wall_time", f"wall time of {self._wall_time:g} s exceeded")
            if next_cpu and now >= next_cpu:
                next_cpu = now + CPU_INTERVAL
                self._check_cpu()
            wake = min(self._started + self._wall_time, next_cpu or float("inf"))
            if self._reason:
                wake = now + procs.KILL_DEADLINE
            # Orphans that ended meanwhile, and perhaps the program.
            self._collect()
            if self._has_ended():
                break
            wake = min(wake, now + 1.0)
            if self._read_after > now:
                wake = min(wake, self._read_after)
            for fd, events in self._poller().poll(max(0.0, wake - now) * 1000 + 1):
                if fd == self._status_fd:
                    self._read_status()
                elif self._armed and fd == self._armed.pidfd:
                    self._collect()
                    if not select.select([self._status_fd], [], [], 0)[0]:
                        time.sleep(0.02)  # it has ended, but something of its own traces it
                elif self._is_line(fd):
                    if not self._hear(fd, events):
                        return True
                elif fd == self._stdin and events & ~select.POLLIN:
                    self._feed()
                    if fd in self._outputs and events & (select.POLLHUP | select.POLLERR):
                        self._read_output(fd)
                elif fd in self._outputs:
                    self._read_output(fd)
        return False

    def _collect(self) -> None:
        """Orphans that ended, and the program, where this process is its parent."""
        if not self._armed:
            self._reap()
        elif self._reap_others is not None:
            self._reap_others()

    def _has_ended(self) -> bool:
        return self._status is not None

    def _poller(self) -> select.poll:
        poll = select.poll()
        poll.register(self._status_fd, select.POLLIN)
        if self._armed and self._armed.child and self._reap_others is not None:
            poll.register(self._armed.pidfd, select.POLLIN)
        self._register_line(poll)
        if not self._out.full(OUT_BUFFER) and time.monotonic() >= self._read_after:
            for fd in self._outputs:
                poll.register(fd, select.POLLIN)
        if self._stdin is not None and (self._stdin_data or self._stdin_ends):
            poll.register(
                self._stdin, select.POLLOUT | (select.POLLIN if self._stdin in self._outputs else 0)
            )
        return poll

    def _register_line(self, poll: select.poll) -> None:
        """The service, and process 1, which may pass on another connection of it."""
        if self._out.connection is not None:
            # Not reading makes the service wait; its closing is seen all the same.
            wants = select.POLLRDHUP | (select.POLLIN if len(self._stdin_data) < STDIN_BUFFER else 0)
            poll.register(self._out.connection, wants | (select.POLLOUT if self._out.waits else 0))
        if self._out.control is not None:
            poll.register(self._out.control, select.POLLIN)

    def _is_line(self, fd: int) -> bool:
        lines = (self._out.connection, self._out.control)
        return any(each is not None and fd == each.fileno() for each in lines)

    def _hear(self, fd: int, events: int) -> bool:
        """Talk with the service or process 1; False when the service has gone and nothing is kept."""
        if self._out.control is not None and fd == self._out.control.fileno():
            self._incoming.clear()
            self._out.heed(stdin=self._stdin is not None and not self._stdin_ends)
            return True
        if self._exchange(events):
            return True
        self._incoming.clear()  # what came in part will not be completed
        return self._out.lose()

    def _read_output(self, fd: int) -> bool:
        """One chunk; False at the end of this output."""
        kind = self._outputs[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody holds the other side of the terminal
            data = b""
        if not data:
            del self._outputs[fd]
            if fd != self._stdin:
                os.close(fd)
            return False
        kept = data[: self._left[kind]]
        self._left[kind] -= len(kept)
        if kept:
            self._out.put(pack(kind, kept))
            if self._out.log is not None and self._out.log.last > MANY_FRAMES:
                self._read_after = time.monotonic() + SETTLE
        if len(kept) < len(data):
            self._truncated[kind] = True
            self._stop("output_limit", f"{kind.name.lower()} passed its limit")
        self._flush()
        return True

    def _exchange(self, events: int) -> bool:
        """Talk with the service; False when it has gone."""
        connection = self._out.connection
        if connection is None or (events & select.POLLOUT and not self._flush()):
            return False
        if events & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) and not events & select.POLLIN:
            return False
        if events & select.POLLIN:
            try:
                data = connection.recv(CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._incoming += data
            self._obey()
        return True

    def _obey(self) -> None:
        while len(self._incoming) >= HEADER.size:
            kind, length = parse_header(bytes(self._incoming[: HEADER.size]))
            if len(self._incoming) < HEADER.size + length:
                return
            payload = bytes(self._incoming[HEADER.size : HEADER.size + length])
            del self._incoming[: HEADER.size + length]
            if kind is Kind.STDIN:
                self._stdin_data += payload
                self._feed()
            elif kind is Kind.JSON:
                self._order(parse_json(payload))

    def _order(self, order: dict[str, Any]) -> None:
        match order.get("type"):
            case "stdin_close":
                self._stdin_ends = True
                self._feed()
            case "signal":
                self._signal(signal.Signals[order["signal"]])
            case "resize" if self._tty is not None:
                _resize(self._tty, order)
            case "kill":
                self._stop("killed", None)
            case _ if self._keep:
                hear_keeping(self._out, order)

    def _feed(self) -> None:
        if self._stdin is None:
            self._stdin_data.clear()
            return
        try:
            while self._stdin_data:
                del self._stdin_data[: os.write(self._stdin, self._stdin_data[: CHUNK * 4])]
        except BlockingIOError:
            return
        except OSError:
            self._stdin_data.clear()
            self._stdin_ends = True
        if self._stdin_ends:
            if self._tty is not None:
                self._stdin_data += b"\x04"
                self._stdin_ends = False
                self._feed()
            else:
                os.close(self._stdin)
                self._stdin = None
                self._stdin_ends = False

    def _signal(self, number: signal.Signals) -> None:
        """To the program's process group; a program that has left its group gets it alone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            try:
                os.killpg(self._pid, number)
            except ProcessLookupError:
                os.kill(self._pid, number)

    def _check_cpu(self) -> None:
        used = sum(process.cpu_time for process in self._tree())
        used -= self._armed.cpu_time if self._armed else 0.0
        used += _reaped_cpu() - self._reaped_before  # orphans that ended, which no living process counts
        if self._cpu_time and used > self._cpu_time:
            self._stop("cpu_time", f"CPU time of {self._cpu_time:g} s exceeded")

    # -- ending -----------------------------------------------------------------------------------

    def _tree(self) -> list[procs.Process]:
        return procs.operation_processes(os.getpid()) if not self._armed else procs.loose_processes(())

    def _stop(self, reason: str, detail: str | None) -> None:
        if self._reason is None:
            self._reason, self._detail = reason, detail
            self._end_tree()

    def _end_tree(self) -> None:
        if not procs.kill_all(self._tree):
            self._give_up()
        if not self._armed:
            self._reap()

    def _give_up(self) -> None:
        """A tree that cannot be killed in time: the service closes the sandbox when it reads this."""
        with contextlib.suppress(OSError):
            if self._out.connection is not None:
                self._out.connection.setblocking(True)
                self._out.connection.sendall(
                    pack_json({"type": "error", "code": "sandbox_failed", "detail": "unkillable"})
                )
        os._exit(1)

    def _read_status(self) -> None:
        if self._armed:
            text = os.read(self._status_fd, 4096)
            self._status = json.loads(text) if text else {"status": signal.SIGKILL, "cpu_time": 0.0}
            return
        self._reap()
        if not self._has_ended():
            time.sleep(0.02)  # it has ended, but something of its own traces it and keeps it from us

    def _reap(self) -> None:
        """Collect ends: orphans are ours, as we are the sub-reaper."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._pid:
                    self._status = {"status": status, "cpu_time": usage.ru_utime + usage.ru_stime}

    def _drain(self) -> None:
        """What was written before the end, but not for ever."""
        deadline = time.monotonic() + LAST_WORDS
        for fd in list(self._outputs):
            while time.monotonic() < deadline and self._read_output(fd):
                if not self._keep and self._out.full(OUT_BUFFER):
                    self._flush(wait=True)

    def _finish(self) -> None:
        status = self._status or {"status": signal.SIGKILL, "cpu_time": 0.0}
        code = status["status"]
        signaled = os.WIFSIGNALED(code)
        used_up = self._cpu_time and status["cpu_time"] >= self._cpu_time  # else it sent the signal itself
        if self._reason is None and used_up and signaled and os.WTERMSIG(code) == signal.SIGXCPU:
            self._reason, self._detail = "cpu_time", f"CPU time of {self._cpu_time:g} s exceeded"
        if self._kills() > self._kills_before:
            self._reason = "memory"
        self._say(
            {
                "type": "ended",
                "exit_code": None if signaled else os.WEXITSTATUS(code),
                "signal": _signal_name(os.WTERMSIG(code)) if signaled else None,
                "reason": self._reason,
                "detail": self._detail,
                "stdout_truncated": self._truncated[Kind.STDOUT],
                "stderr_truncated": self._truncated[Kind.STDERR],
                "duration": time.monotonic() - self._started,
                "cpu_time": status["cpu_time"],
            }
        )
        self._stay()
        if self._flush(wait=True):
            self._linger()

    def _stay(self) -> None:
        """Kept: until the service has dealt with the end and says so. Raises Dropped."""
        while self._out.log is not None:
            poll = select.poll()
            self._register_line(poll)
            for fd, events in poll.poll():
                self._hear(fd, events)

    def _say(self, message: dict[str, Any]) -> None:
        self._out.put(pack_json(message))
        self._flush()

    def _flush(self, wait: bool = False) -> bool:
        """Send what fits (all of it, if `wait`); False when the service has gone."""
        while self._out.flush():
            if not (wait and self._out.waits):
                return True
            try:
                self._await_room()
            except OSError:
                break
        return False

    def _await_room(self) -> None:
        """Once all has ended: wait until the service reads, and take what it still says."""
        connection = self._out.connection
        assert connection is not None
        poll = select.poll()
        poll.register(connection, select.POLLIN | select.POLLOUT)
        if poll.poll()[0][1] & select.POLLIN and not connection.recv(CHUNK):
            raise BrokenPipeError

    def _linger(self) -> None:
        """Let the service close first: to close on unread input would cost it our last words."""
        connection = self._out.connection
        with contextlib.suppress(OSError):
            if connection is not None:
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(LINGER)
                while connection.recv(CHUNK):
                    pass


def _resize(fd: int, size: dict[str, Any]) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", int(size["rows"]), int(size["cols"]), 0, 0))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _reaped_cpu() -> float:
    """CPU seconds of all children that this process has waited for, theirs included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
