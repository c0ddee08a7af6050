"""Process 1 of a sandbox: accepts connections and forks one handler process for each.

It reaps what nobody waits for, keeps the armed interpreter or the kernel, applies the lease's limits,
and, where no cgroup does it, samples memory and kills. It opens no path that user code can write.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import struct
import time
import traceback
from typing import Any

from executor_service.guest import channel, files, linux, procs, template
from executor_service.guest.privileges import Identity, become_file_helper, become_relay, confine_guest
from executor_service.guest.program import Handler
from executor_service.guest.protocol import MAX_REQUEST, VERSION, ProtocolError, recv_json, send_json
from executor_service.guest.relay import relay
from executor_service.guest.state import Armed, Lease

REQUEST_TIMEOUT = 5.0
ARM_TIMEOUT = 20.0
SAMPLE_INTERVAL = 0.1
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
    cpus = template.rooms(request["disk_bytes"], owner)
    channel.close(cgroup_fds)
    confine_guest(identity)
    guest = Guest(boot, socket.socket(fileno=listen_fd), identity, cpus_fd=cpus)
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

    def __init__(
        self, boot: socket.socket, listener: socket.socket, identity: Identity, cpus_fd: int
    ) -> None:
        self._boot = boot
        self._listener = listener
        self._identity = identity
        self._cpus_fd = cpus_fd
        self._armed: Armed | None = None
        self._lease = Lease()
        self._handlers: set[int] = set()
        self._kills = mmap.mmap(-1, 8)  # shared with handlers: how many processes the sampler killed
        self._peak = 0
        # What the warm interpreter shares with its zygote is not the caller's, read either way.
        self._rough_baseline = self._proportional_baseline = 0
        self._cpu_seen = 0.0
        self._interval = SAMPLE_INTERVAL

    def serve(self) -> None:
        """Until killed."""
        wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        while True:
            timeout = self._interval * 1000 if self._lease.sampled else None
            for fd, _ in poll.poll(timeout):
                if fd == wakeup:
                    os.read(wakeup, 4096)
                    self._reap()
                else:
                    self._accept()
            if self._lease.sampled:
                self._sample()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._handlers.discard(pid)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._interval = SAMPLE_INTERVAL  # whatever begins, a slow rhythm is over
        connection.settimeout(REQUEST_TIMEOUT)
        try:
            self._dispatch(connection, recv_json(connection, MAX_REQUEST))
        except (EOFError, OSError, ProtocolError, KeyError, TypeError, ValueError) as error:
            with contextlib.suppress(OSError):
                send_json(connection, {"type": "error", "code": "sandbox_failed", "detail": repr(error)})
        finally:
            connection.close()

    def _dispatch(self, connection: socket.socket, request: dict[str, Any]) -> None:
        if request.get("v") != VERSION:
            raise ProtocolError(f"version {request.get('v')!r}; this guest speaks {VERSION}")
        op = request["op"]
        if op == "ping":
            send_json(connection, {"type": "pong", "v": VERSION})
        elif op == "configure":
            self._configure(request)
            send_json(connection, {"type": "ok"})
        elif op == "stats":
            send_json(connection, {"type": "stats", **self._stats()})
        elif op == "kernel_limits":
            self._limit_kernel(int(request["open_files"]))
            send_json(connection, {"type": "ok"})
        elif op == "kernel_signal":
            self._signal_kernel(signal.Signals[request["signal"]])
            send_json(connection, {"type": "ok"})
        elif op in ("program", "kernel", "fs"):
            if op == "kernel" and (request.get("fresh") or self._armed is None):
                self._fresh_kernel()
            if request.get("armed") and self._armed and not self._lease.sampled:
                self._run_here(connection)
            else:
                self._fork_handler(connection, request)
        else:
            raise ProtocolError(f"unknown operation {op!r}")

    def arm(self) -> None:
        """Have the nursery fork a warm interpreter into this sandbox.

        Raises:
            TimeoutError, EOFError: it did not come.
        """
        ours, theirs = socket.socketpair()
        status, status_write = os.pipe2(os.O_CLOEXEC)
        channel.send(self._boot, {"word": "arm"}, [theirs.fileno(), status_write])
        theirs.close()
        os.close(status_write)
        ours.settimeout(ARM_TIMEOUT)
        pid = int(recv_json(ours)["pid"])
        ours.settimeout(None)
        self._armed = Armed(control=ours, status=status, pid=pid, pidfd=os.pidfd_open(pid))
        self._limit_armed()

    def _fresh_kernel(self) -> None:
        if not procs.kill_all(lambda: procs.loose_processes(self._handlers)):
            os._exit(1)  # a tree that cannot be killed: give the whole sandbox up
        if self._armed:
            self._armed.close()
            self._armed = None
        self.arm()

    def _signal_kernel(self, number: signal.Signals) -> None:
        if self._armed:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._armed.pidfd, number)

    def _limit_kernel(self, open_files: int) -> None:
        if self._armed:
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(self._armed.pid, resource.RLIMIT_NOFILE)
                soft = min(open_files, hard)
                resource.prlimit(self._armed.pid, resource.RLIMIT_NOFILE, (soft, hard))

    def _configure(self, request: dict[str, Any]) -> None:
        self._lease = Lease(
            memory_bytes=int(request["memory_bytes"]),
            processes=int(request["processes"]),
            sampled=bool(request["sampled"]),
        )
        self._peak = 0
        if self._lease.sampled:
            users = procs.user_processes(procs.snapshot())
            self._rough_baseline = procs.rough_memory(users)
            self._proportional_baseline = procs.proportional_memory(users)
        template.set_cpus(self._cpus_fd, int(request["cpu_count"]))
        self._limit_armed()

    def _limit_armed(self) -> None:
        if self._armed:
            limit = self._lease.processes
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._armed.pid, resource.RLIMIT_NPROC, (limit, limit))

    def _run_here(self, connection: socket.socket) -> None:
        """A run's one program, without a handler of its own: nothing else happens here meanwhile."""
        armed, self._armed = self._armed, None
        assert armed is not None
        connection.settimeout(None)
        try:
            Handler(connection, self._identity, self._lease, self._killed, armed, self._reap).run()
        finally:
            armed.close()

    def _fork_handler(self, connection: socket.socket, request: dict[str, Any]) -> None:
        armed = self._armed
        pid = os.fork()
        if pid:
            self._handlers.add(pid)
            if request["op"] == "program" and request.get("armed") and armed:
                armed.close()  # used once
                self._armed = None
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.settimeout(None)
            self._handle(connection, request, self._keep_needed(connection, request, armed))
            os._exit(0)
        except (EOFError, OSError):
            pass  # the service went away, or the sandbox is ending
        except BaseException:
            with contextlib.suppress(OSError):
                detail = traceback.format_exc()[-1000:]
                send_json(connection, {"type": "error", "code": "sandbox_failed", "detail": detail})
        finally:
            os._exit(1)

    def _keep_needed(
        self, connection: socket.socket, request: dict[str, Any], armed: Armed | None
    ) -> Armed | None:
        """Close every descriptor that this operation has no use for."""
        keep = [connection.fileno()]
        if armed and request["op"] == "kernel":
            keep.append(armed.status)
        elif armed and request["op"] == "program" and request.get("armed"):
            keep += [armed.status, armed.pidfd, armed.control.fileno()]
        channel.close_others(keep)
        return armed

    def _handle(self, connection: socket.socket, request: dict[str, Any], armed: Armed | None) -> None:
        if request["op"] == "fs":
            become_file_helper(self._identity)
            files.serve(connection, recv_json(connection))
        elif request["op"] == "kernel":
            assert armed is not None
            become_relay(self._identity)
            paths = {name: f"/run/kernel/{name}" for name in ("shell", "iopub", "stdin", "control")}
            relay(connection, paths, armed.status)
        else:
            used = armed if request.get("armed") else None
            Handler(connection, self._identity, self._lease, self._killed, used, _nothing).run()

    def _stats(self) -> dict[str, Any]:
        """What a backend without cgroups asks for; programs that a zygote reaped are missing in the time."""
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


def _nothing() -> None:
    """A handler of its own has no orphans but its program's."""
