"""Process 1 of a sandbox: accepts connections and forks one handler process for each.

It reaps what nobody waits for, keeps the armed interpreter or the kernel, applies the lease's limits,
and, where no cgroup does it, samples memory and kills. It opens no path that user code can write.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import resource
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Sequence
from typing import Any

from executor_service.guest import channel, files, ledger, linux, procs, template
from executor_service.guest.egress import Egress
from executor_service.guest.kernel_frames import CHANNELS
from executor_service.guest.kernels import Kernels, Started
from executor_service.guest.place import Nested, Place
from executor_service.guest.privileges import Identity, become_file_helper, become_relay, confine_guest
from executor_service.guest.program import Handler
from executor_service.guest.protocol import MAX_REQUEST, VERSION, ProtocolError, recv_json, send_json
from executor_service.guest.relay import rehearse, relay
from executor_service.guest.state import Armed, Lease

PYTHON = "python"  # the name of the warm interpreter's kernel; others are started by exec
REQUEST_TIMEOUT = 5.0
WATCH_TIMEOUT = 60.0  # seconds that a service has to begin to watch a guest that is not durable
KERNEL_KILL_TIME = 5.0
ALARM_LATER = 1.0  # seconds after the deadline; the loop is first, if it is free
SAMPLE_INTERVAL = 0.1
LEFT_BUSY = 3  # a relay's exit status: the service went while code ran for it
IDLE_INTERVAL = 0.5  # between samples when nothing used the CPU since the last one
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def start(
    boot: socket.socket, listen_fd: int, cgroup_fds: list[int], request: dict[str, Any], identity: Identity
) -> None:
    """Make the sandbox's rooms, then serve until killed. In the first process of its namespaces."""
    channel.receive(boot)  # the id maps are written
    for fd in cgroup_fds:
        os.write(fd, b"0")
    linux.unshare(linux.CLONE_NEWCGROUP)
    owner = template.USER
    if identity.many_uids:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    os.setsid()
    linux.set_hostname("sandbox")
    _loopback_up()
    cpus = template.rooms(request["disk_bytes"], owner, ca_bundle=request["network"])
    channel.close(cgroup_fds)
    confine_guest(identity)
    guest = Guest(socket.socket(fileno=listen_fd), identity, Nested(boot, cpus))
    if request["warm"] != "none":
        guest.arm()
    channel.send(boot, {"word": "ready"})
    guest.serve()


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        packed = bytearray(struct.pack("16sH14x", b"lo", 0))
        fcntl.ioctl(sock, _SIOCGIFFLAGS, packed)
        flags = struct.unpack("16sH14x", packed)[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


class Guest:
    """The loop of process 1."""

    def __init__(self, listener: socket.socket, identity: Identity, place: Place) -> None:
        self._listener = listener
        self._identity = identity
        self._place = place
        self._armed: Armed | None = None
        self._egress = Egress(identity)
        self._kernels = Kernels(identity)
        self._lease = Lease()
        self._handlers: set[int] = set()
        self._relayed: dict[int, Armed | Started] = {}  # a relay's pid -> its kernel
        self._ledger = ledger.Ledger()
        self._kills = mmap.mmap(-1, 8)  # shared with handlers: how many processes the sampler killed
        self._peak = 0
        # What the warm interpreter shares with its zygote is not the caller's, read either way.
        self._rough_baseline = self._proportional_baseline = 0
        self._cpu_seen = 0.0
        self._interval = SAMPLE_INTERVAL
        self._watch: socket.socket | None = None  # the service holds its other end while it is there
        self._durable = False
        self._deadline = math.inf

    def serve(self) -> None:
        """Until killed."""
        wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(wakeup, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll(self._patience()):
                if fd == wakeup:
                    os.read(wakeup, 4096)
                    self._reap()
                elif fd == self._listener.fileno():
                    self._accept()
                elif self._watch is not None and fd == self._watch.fileno():
                    self._unwatch()
            if self._lease.sampled:
                self._sample()
            if time.monotonic() >= self._deadline:
                os._exit(0)  # the whole sandbox ends with process 1

    def _patience(self) -> float | None:
        """Milliseconds until something is due though nothing happens."""
        due = [self._deadline - time.monotonic()] if self._deadline < math.inf else []
        if self._lease.sampled:
            due.append(self._interval)
        return max(0.0, min(due)) * 1000 + 1 if due else None

    def _begin_watch(self, connection: socket.socket) -> None:
        """One service at a time: a later one takes the place of an earlier that may not know it is dead."""
        if self._watch is not None:
            self._poll.unregister(self._watch)
            self._watch.close()
        elif not self._durable:
            self._live_until(math.inf)
        self._watch = connection.dup()
        self._poll.register(self._watch, select.POLLIN)
        send_json(connection, {"type": "ready", "v": VERSION, **self._place.ready()})

    def _unwatch(self) -> None:
        """The service has gone. What was not meant to outlive it ends."""
        assert self._watch is not None
        if not self._durable:
            os._exit(0)
        self._poll.unregister(self._watch)
        self._watch.close()
        self._watch = None

    def require_watch(self) -> None:
        """End unless a service comes and watches, soon; for a guest that nobody else ends."""
        self._live_until(time.monotonic() + WATCH_TIMEOUT)

    def _live_until(self, instant: float) -> None:
        """End then, by a signal too: user code may have found a way to keep process 1 waiting."""
        self._deadline = instant
        left = 0.0 if instant == math.inf else max(0.001, instant - time.monotonic()) + ALARM_LATER
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, left)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._handlers.discard(pid)
                self._ledger.ended(pid)
                kernel = self._relayed.pop(pid, None)
                if kernel is not None and status == LEFT_BUSY << 8:
                    self._interrupt_left(kernel)
                self._egress.reaped(pid)
                self._place.reaped(pid, status, usage.ru_utime + usage.ru_stime)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._interval = SAMPLE_INTERVAL  # whatever begins, a slow rhythm is over
        connection.settimeout(REQUEST_TIMEOUT)
        try:
            self._dispatch(connection, recv_json(connection, MAX_REQUEST))
        except (EOFError, OSError, ProtocolError, KeyError, TypeError, ValueError) as error:
            code = getattr(error, "code", "sandbox_failed")
            with contextlib.suppress(OSError):
                send_json(connection, {"type": "error", "code": code, "detail": repr(error)})
        finally:
            connection.close()

    def _dispatch(self, connection: socket.socket, request: dict[str, Any]) -> None:
        if request.get("v") != VERSION:
            raise ProtocolError(f"version {request.get('v')!r}; this guest speaks {VERSION}")
        op = request["op"]
        if op == "ping":
            send_json(connection, {"type": "pong", "v": VERSION})
        elif op == "watch":
            self._begin_watch(connection)
        elif op == "configure":
            self._configure(request)
            send_json(connection, {"type": "ok"})
        elif op == "renew":
            self._live_until(time.monotonic() + float(request["expires_in"]))
            send_json(connection, {"type": "ok"})
        elif op == "stats":
            send_json(connection, {"type": "stats", **self._stats()})
        elif op == "kernel_limits":
            self._limit_kernel(request.get("name", PYTHON), int(request["open_files"]))
            send_json(connection, {"type": "ok"})
        elif op == "kernel_signal":
            self._signal_kernel(request.get("name", PYTHON), signal.Signals[request["signal"]])
            send_json(connection, {"type": "ok"})
        elif op == "kernel_end":
            self._end_kernel(request["name"])
            send_json(connection, {"type": "ok"})
        elif op == "egress":
            self._egress.park(connection)
        elif op in ("program", "kernel", "fs"):
            if op == "kernel":
                self._ready_kernel(request)
            busy = self._lease.sampled or self._egress.serving  # process 1 has more to do meanwhile
            if request.get("armed") and self._armed and not busy:
                self._run_here(connection)
            else:
                self._fork_handler(connection, request)
        elif op == "store":
            memory = self._ledger.open(request["name"], request.get("seconds"))
            self._fork_handler(connection, request, memory)
        elif op == "fetch":
            self._fork_handler(connection, request, self._ledger.find(request["name"]))
        elif not ledger.answer(connection, self._ledger, request):
            raise ProtocolError(f"unknown operation {op!r}")

    def arm(self) -> None:
        """Get a warm interpreter. Raises TimeoutError, EOFError, OSError: it did not come."""
        self._armed = self._place.arm()
        self._limit_armed()

    def rehearse(self) -> None:
        """Have a fresh kernel do once what it would do slowly for its first caller."""
        armed = self._armed
        assert armed is not None
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        try:
            channel.close_others([armed.status])
            become_relay(self._identity)
            rehearse({name: f"/run/kernel/{name}" for name in CHANNELS}, armed.status)
        finally:
            os._exit(0)

    def _ready_kernel(self, request: dict[str, Any]) -> None:
        """See that there is the kernel that is asked for; with `fresh` a new one."""
        name, fresh = request.get("name", PYTHON), request.get("fresh")
        if name == PYTHON:
            if fresh or self._armed is None:
                self._end_kernel(name)
                self.arm()
        elif fresh or self._kernels.get(name) is None:
            self._handlers.add(self._kernels.start(request, self._lease).keeper)

    def _end_kernel(self, name: str) -> None:
        """Kill a kernel and what it started, if it is there."""
        if name != PYTHON:
            self._kernels.end(name)
            return
        # In a container a kernel's fork bomb has the same share of the CPU as we have.
        if not procs.kill_all(lambda: procs.loose_processes(self._handlers), KERNEL_KILL_TIME):
            os._exit(1)  # a tree that cannot be killed: give the whole sandbox up
        self._reap()  # a container counts what has ended until then, after a fork bomb all it may have
        if self._armed:
            self._armed.close()
            self._armed = None

    def _kernel(self, name: str) -> Armed | Started | None:
        return self._armed if name == PYTHON else self._kernels.get(name)

    def _signal_kernel(self, name: str, number: signal.Signals) -> None:
        kernel = self._kernel(name)
        if isinstance(kernel, Started):
            kernel.send_signal(number)
        elif kernel:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(kernel.pidfd, number)

    def _interrupt_left(self, kernel: Armed | Started) -> None:
        """What is attached ends with its connection."""
        if isinstance(kernel, Started):
            if kernel is self._kernels.get(kernel.name) and not kernel.by_message:
                kernel.send_signal(signal.SIGINT)
        elif kernel is self._armed:
            self._signal_kernel(PYTHON, signal.SIGINT)

    def _limit_kernel(self, name: str, open_files: int) -> None:
        kernel = self._kernel(name)
        if kernel:
            self._place.limit_open_files(kernel.pid, open_files)

    def _configure(self, request: dict[str, Any]) -> None:
        self._lease = Lease(
            memory_bytes=int(request["memory_bytes"]),
            processes=self._place.process_limit(int(request["processes"])),
            sampled=bool(request["sampled"]),
        )
        self._peak = 0
        if self._lease.sampled:
            users = procs.user_processes(procs.snapshot())
            self._rough_baseline = procs.rough_memory(users)
            self._proportional_baseline = procs.proportional_memory(users)
        self._place.set_cpus(int(request["cpu_count"]))
        self._limit_armed()
        self._durable = bool(request.get("durable"))
        if request.get("expires_in") is not None:
            self._live_until(time.monotonic() + float(request["expires_in"]))

    def _limit_armed(self) -> None:
        if self._armed and self._lease.processes is not None:
            self._place.limit_processes(self._armed, self._lease.processes)

    def _run_here(self, connection: socket.socket) -> None:
        """A run's one program, without a handler of its own: nothing else happens here meanwhile."""
        armed, self._armed = self._armed, None
        assert armed is not None
        connection.settimeout(None)
        try:
            Handler(connection, self._identity, self._lease, self._killed, armed, self._reap).run()
        finally:
            armed.close()

    def _fork_handler(
        self, connection: socket.socket, request: dict[str, Any], memory: int | None = None
    ) -> None:
        """`memory` is the item of the stash that the handler fills or pours out."""
        armed = self._armed
        kept = bool(request.get("keep")) and not request.get("armed")
        pair = channel.pair() if kept and ledger.check_name(request["keep"]) else None
        pid = os.fork()
        if pid:
            self._handlers.add(pid)
            if request["op"] == "kernel" and (kernel := self._kernel(request.get("name", PYTHON))):
                self._relayed[pid] = kernel
            if pair:
                pair[1].close()
                self._ledger.keep(request["keep"], pair[0], pid)
            if request["op"] == "program" and request.get("armed") and armed:
                armed.close()  # used once
                self._armed = None
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.settimeout(None)
            control = pair[1] if pair else None
            extra = [fd for fd in (memory, control.fileno() if control else None) if fd is not None]
            self._keep_needed(connection, request, armed, extra)
            os._exit(self._handle(connection, request, armed, memory, control))
        except (EOFError, OSError):
            pass  # the service went away, or the sandbox is ending
        except BaseException:
            with contextlib.suppress(OSError):
                detail = traceback.format_exc()[-1000:]
                send_json(connection, {"type": "error", "code": "sandbox_failed", "detail": detail})
        finally:
            os._exit(1)

    def _keep_needed(
        self, connection: socket.socket, request: dict[str, Any], armed: Armed | None, extra: Sequence[int]
    ) -> None:
        """Close every descriptor that this operation has no use for."""
        keep = [connection.fileno(), *extra]
        if request["op"] == "kernel" and (kernel := self._kernel(request.get("name", PYTHON))):
            keep.append(kernel.status)
        elif armed and request["op"] == "program" and request.get("armed"):
            keep += [armed.status, armed.pidfd, armed.control.fileno()]
        channel.close_others(keep)

    def _handle(
        self,
        connection: socket.socket,
        request: dict[str, Any],
        armed: Armed | None,
        memory: int | None,
        control: socket.socket | None,
    ) -> int:
        """In the handler; its exit status."""
        if request["op"] == "fs":
            call = recv_json(connection)  # may come much later; until then user code has no power over us
            become_file_helper(self._identity)
            files.serve(connection, call)
        elif request["op"] == "kernel":
            return LEFT_BUSY if self._relay(connection, request, control) else 0
        elif memory is not None:
            become_relay(self._identity)
            (ledger.fill if request["op"] == "store" else ledger.pour)(connection, memory)
        else:
            used = armed if request.get("armed") else None
            kept = (request["keep"], control) if control else None
            Handler(connection, self._identity, self._lease, self._killed, used, None, kept).run()
        return 0

    def _relay(
        self, connection: socket.socket, request: dict[str, Any], control: socket.socket | None
    ) -> bool:
        kernel = self._kernel(request.get("name", PYTHON))
        assert kernel is not None
        become_relay(self._identity)
        if isinstance(kernel, Started):
            return relay(
                connection,
                kernel.ports,
                kernel.status,
                control,
                key=kernel.key,
                start_time=float(request["start_time"]),
                by_message=kernel.by_message,
            )
        paths = {name: f"/run/kernel/{name}" for name in CHANNELS}
        return relay(connection, paths, kernel.status, control)

    def _stats(self) -> dict[str, Any]:
        """What a backend asks for that reads no cgroups itself.

        Where there are none, the time lacks that of programs which a zygote reaped.
        """
        if (counted := self._place.stats()) is not None:
            return dict(counted)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        alive = sum(process.cpu_time for process in procs.snapshot().values() if process.pid != 1)
        return {
            "kills": self._killed(),
            "peak_memory_bytes": self._peak,
            "cpu_time": ended.ru_utime + ended.ru_stime + alive,
        }

    def _killed(self) -> int:
        return int(struct.unpack("Q", self._kills[:])[0])

    def _sample(self) -> None:
        users = procs.user_processes(procs.snapshot())
        cpu = sum(process.cpu_time for process in users)
        self._interval = SAMPLE_INTERVAL if cpu != self._cpu_seen else min(self._interval * 2, IDLE_INTERVAL)
        self._cpu_seen = cpu
        used = self._memory(users)
        self._peak = max(self._peak, used)
        if used <= self._lease.memory_bytes:
            return
        victims = sorted(users, key=lambda p: procs.proportional_memory([p]), reverse=True)
        for victim in victims[:1]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(victim.pid, signal.SIGKILL)
                self._kills[:] = struct.pack("Q", self._killed() + 1)
        time.sleep(0.005)

    def _memory(self, users: list[procs.Process]) -> int:
        """Bytes that user code has of its own. Both readings are too high, each for a reason of its own."""
        used = procs.rough_memory(users) - self._rough_baseline
        if used > self._lease.memory_bytes:
            used = min(used, procs.proportional_memory(users) - self._proportional_baseline)
        return max(0, used)
