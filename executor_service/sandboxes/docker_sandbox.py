"""One sandbox of the Docker backend, from the host's side: its socket, its limits, its life and its end.

No path that was chosen inside is followed here: the guest's socket is opened as a path descriptor, links and
other things are refused, and whoever listens there must have the guest's uid.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from executor_service.errors import CodecellError, SandboxFailed
from executor_service.guest.container import FAILED, SOCKET
from executor_service.guest.protocol import VERSION, ProtocolError, pack_json
from executor_service.result import Reading
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.cgroups import Group
from executor_service.sandboxes.connection import read_json
from executor_service.sandboxes.docker_engine import Engine
from executor_service.sandboxes.docker_options import CPUS_FILE, MEET, Share, share, update
from executor_service.sandboxes.guest import ask, ask_meters

log = logging.getLogger(__name__)

LOOK_INTERVAL = 0.005  # seconds between looks for a new guest's socket
ALIVE_INTERVAL = 1.0  # seconds after which the engine is asked whether a container that is silent still runs
CLOSE_TIMEOUT = 30.0
MAX_WORDS = 4000  # bytes that are read of what a guest says went wrong
STEP = 4 << 20  # what warm interpreters hold is rounded up to this
UNKNOWN_WARM = 128 << 20  # bytes that a warm interpreter may hold, until the first of a kind has told
PREFIX = "codecell-"


class DockerSandbox:
    """One container. `given` is the share that it was made with.

    `on_closed` is told at the end, and whether the container was removed.
    """

    def __init__(
        self,
        sandbox_id: str,
        spec: SandboxSpec,
        given: Share,
        *,
        directory: Path,
        engine: Engine,
        guest_uid: int,
        on_closed: Callable[[DockerSandbox, bool], None],
    ) -> None:
        self.id = sandbox_id
        self.spec = spec
        self.died = asyncio.Event()
        self.directory = directory
        self.guest_uid = guest_uid
        self.warm_bytes = 0
        self.durable = False
        self._engine = engine
        self._on_closed = on_closed
        self._given = given
        self._socket = -1
        self._cpus = 1
        self._group: Group | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<DockerSandbox {self.id} {self.spec.image}/{self.spec.warm}>"

    @property
    def container(self) -> str:
        """The name of its container."""
        return PREFIX + self.id

    async def configure(self, lease: Lease) -> None:
        """Apply memory, processes and cpus. Raises SandboxFailed if the sandbox is gone."""
        wanted = share(lease, self.warm_bytes)
        if wanted != self._given:
            try:
                await self._engine.update(self.container, update(wanted))
            except NotFound:
                raise SandboxFailed("the sandbox is gone") from None
            self._given = wanted
        self.durable = lease.durable
        cpus = math.ceil(lease.cpus)
        if cpus != self._cpus:
            await asyncio.to_thread(_write_cpus, self.directory, cpus)
            self._cpus = cpus
        await ask(self, {"op": "configure", "sampled": False, "cpu_count": 0, **_lease(lease)})

    async def renew(self, expires_in: float) -> None:
        """Live until so many seconds from now at the latest. Raises SandboxFailed if the sandbox is gone."""
        await ask(self, {"op": "renew", "expires_in": expires_in})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection to the guest. Raises SandboxFailed if the sandbox is gone."""
        if self.died.is_set() or self._socket < 0:
            raise SandboxFailed("the sandbox is gone")
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{self._socket}")
        except OSError as error:
            raise SandboxFailed(f"the guest does not answer: {error}") from error
        if (uid := _peer(writer)[1]) != self.guest_uid:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            raise SandboxFailed(f"behind the guest's socket is uid {uid}, not the guest")
        return reader, writer

    async def meters(self) -> Reading:
        """What it has used; the kernel's own word where this host shows it. Raises SandboxFailed."""
        if self.died.is_set():
            raise SandboxFailed("the sandbox is gone")
        return self._group.meters() if self._group else await ask_meters(self)

    async def close(self) -> None:
        """Kill everything inside and leave nothing behind. Idempotent; never raises."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close {self.id}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        removed = False
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._engine.remove(self.container)
            removed = True
        except (CodecellError, TimeoutError) as error:
            # The engine is gone, the guest may not be: it ends itself.
            log.warning("container not removed", extra={"sandbox": self.id, "why": str(error)})
            with contextlib.suppress(CodecellError):
                await ask(self, {"op": "renew", "expires_in": 0.0}, seconds=1.0)
        self.died.set()
        await self.let_go()
        await asyncio.to_thread(shutil.rmtree, self.directory, True)
        self._on_closed(self, removed)

    async def let_go(self) -> None:
        """Stop watching, and hold nothing of it any more; it goes on if it is durable."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._socket >= 0:
            os.close(self._socket)
            self._socket = -1

    async def begin(self, *, adopted: bool = False) -> None:
        """Find the guest's socket, and watch the guest until it is gone.

        Raises:
            SandboxFailed: it did not start, or is none of ours.
            BackendUnavailable: the engine is gone.
        """
        if not adopted:
            await self._wait_for_socket()
        self._socket = _open_socket(self.directory / MEET / SOCKET)
        reader, writer = await self.connect()
        try:
            writer.write(pack_json({"v": VERSION, "op": "watch"}))
            answer = await read_json(reader)
        except (EOFError, ProtocolError) as error:
            writer.close()
            raise SandboxFailed(self._failure() or "the guest ended while starting") from error
        except BaseException:
            writer.close()
            raise
        if answer.get("type") != "ready" or answer.get("v") != VERSION:
            writer.close()
            raise SandboxFailed(f"the guest answered {str(answer)[:200]}")
        if (group := Group.of_process(_peer(writer)[0])) is not None:
            group.limit_sockets()
        self._group = group
        memory = answer.get("memory")
        self.warm_bytes = _round_up(memory if isinstance(memory, int) else UNKNOWN_WARM)
        self._watch = asyncio.create_task(self._watch_guest(reader, writer), name=f"watch {self.id}")

    async def _wait_for_socket(self) -> None:
        """Process 1 makes it as soon as it runs; one that could not leaves a word instead."""
        loop = asyncio.get_running_loop()
        look_again = loop.time() + ALIVE_INTERVAL
        path = self.directory / MEET / SOCKET
        while not os.path.lexists(path):  # noqa: ASYNC240 - a look at our own file system
            if failure := self._failure():
                raise SandboxFailed(failure)
            if loop.time() > look_again:
                look_again = loop.time() + ALIVE_INTERVAL
                if not await self._engine.running(self.container):
                    raise SandboxFailed(self._failure() or "the container ended while starting")
            await asyncio.sleep(LOOK_INTERVAL)

    def _failure(self) -> str | None:
        """What a guest that did not start left, in one line for callers; all of it goes to the log."""
        text = _read_small(self.directory / MEET / FAILED).decode("utf-8", "replace").strip()
        if not text:
            return None
        log.error("the guest of sandbox %s (image %s) did not start: %s", self.id, self.spec.image, text)
        return f"the guest did not start: {text.splitlines()[-1].strip()[-300:]}"

    async def _watch_guest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the guest closes the connection: then all of its container is gone."""
        try:
            with contextlib.suppress(OSError):
                await reader.read(1)
            self.died.set()
        finally:
            writer.close()


def _lease(lease: Lease) -> dict[str, Any]:
    return asdict(lease)


def _round_up(number: int) -> int:
    return -(-number // STEP) * STEP


def _write_cpus(directory: Path, count: int) -> None:
    """In place: the file itself is mounted."""
    with open(directory / CPUS_FILE, "r+") as file:
        file.truncate(0)
        file.write("0\n" if count <= 1 else f"0-{count - 1}\n")


def _read_small(path: Path) -> bytes:
    """The end of what a guest wrote for us; nothing where there is no such file, or it is something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b""
        file.seek(max(0, status.st_size - MAX_WORDS))
        return file.read(MAX_WORDS) or b""


def _open_socket(path: Path) -> int:
    """A descriptor of a socket, and of nothing that a link leads to. Raises SandboxFailed."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxFailed(f"the guest's socket is not there: {error.strerror}") from error
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        os.close(fd)
        raise SandboxFailed("what lies in the place of the guest's socket is no socket")
    return fd


def _peer(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """Pid (0: not of our pid namespace) and uid of the process behind a connection (SO_PEERCRED, unix(7))."""
    sock = writer.get_extra_info("socket")
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", packed)
    return pid, uid
