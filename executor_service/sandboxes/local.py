"""The local backend: sandboxes made of Linux namespaces on this host, without any daemon.

It never runs code unisolated: where the kernel refuses namespaces, entering it raises and says what to
change. What enforces which limit, and how exactly, depends on the host: see `isolation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import shutil
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from executor_service.errors import BackendUnavailable, ImageNotFound, SandboxFailed
from executor_service.images import BuiltImage
from executor_service.result import Reading
from executor_service.sandboxes import cgroups, seccomp
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.guest import ask, ask_meters
from executor_service.sandboxes.nursery import NurseryClient
from executor_service.sandboxes.uids import NoUidLeft, UidLease, UidRange, configured_range

log = logging.getLogger(__name__)

EXIT_TIMEOUT = 10.0
# Calls that hold memory which a cgroup charges, but which no sampling of processes sees.
UNSEEN_MEMORY = ("memfd_create", "semget", "msgget")


class LocalSandbox:
    """One sandbox of the local backend."""

    def __init__(self, backend: LocalBackend, sandbox_id: str, spec: SandboxSpec) -> None:
        self.id = sandbox_id
        self.spec = spec
        self.died = asyncio.Event()
        self._backend = backend
        self._socket_path = backend.socket_path(sandbox_id)
        self.uids: UidLease | None = None
        self.group: cgroups.Group | None = None
        self.nursery: NurseryClient | None = None
        self._closing: asyncio.Task[None] | None = None

    async def configure(self, lease: Lease) -> None:
        """Apply memory, processes and cpus. Raises SandboxFailed if the sandbox is gone."""
        if self.died.is_set():
            raise SandboxFailed("the sandbox is gone")
        if self.group:
            try:
                self.group.apply(lease)
            except OSError as error:
                raise SandboxFailed(f"a limit could not be set: {error}") from error
        request = {
            "op": "configure",
            "memory_bytes": lease.memory_bytes,
            "processes": lease.processes,
            "sampled": self.group is None,
            "cpu_count": math.ceil(lease.cpus),
            "expires_in": lease.expires_in,
        }
        await ask(self, request)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection to the guest. Raises SandboxFailed if the sandbox is gone."""
        if self.died.is_set():
            raise SandboxFailed("the sandbox is gone")
        try:
            return await asyncio.open_unix_connection(self._socket_path)
        except OSError as error:
            raise SandboxFailed(f"the guest does not answer: {error}") from error

    async def renew(self, expires_in: float) -> None:
        """Live until so many seconds from now at the latest. Raises SandboxFailed if the sandbox is gone."""
        await ask(self, {"op": "renew", "expires_in": expires_in})

    async def meters(self) -> Reading:
        """What it has used. Raises SandboxFailed if the sandbox is gone."""
        return self.group.meters() if self.group else await ask_meters(self)

    async def close(self) -> None:
        """Kill everything inside and leave nothing behind. Idempotent; never raises."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        deadline = asyncio.get_running_loop().time() + EXIT_TIMEOUT
        while not self.died.is_set() and asyncio.get_running_loop().time() < deadline:
            self.kill()
            with contextlib.suppress(TimeoutError):  # a kill that the nursery could not take is sent again
                async with asyncio.timeout(1.0):
                    await self.died.wait()
        if not self.died.is_set():
            log.error("sandbox did not end in time", extra={"sandbox": self.id})
        await self._backend.clean_up(self)

    def kill(self) -> None:
        """Have its nursery kill its first process, and so all of them; a nursery that is gone has done so."""
        if self.nursery is None or self.nursery.broken:
            self.died.set()
        else:
            self.nursery.kill(self.id)


class LocalBackend:
    """Makes local sandboxes; enter it before use."""

    name = "local"
    durable = False

    def __init__(
        self,
        images: Sequence[BuiltImage],
        state_dir: Path,
        instance: str = "default",
        *,
        may_move: bool = True,  # this process, to another cgroup: see `cgroups.find`
        ca_bundle: Path | None = None,  # for sandboxes that have a way out
    ) -> None:
        self._ca_bundle = ca_bundle
        self._images = {image.name: image for image in images}
        self._runtime_dir = state_dir / "run"
        self._remembered = state_dir / "cgroups"
        self._may_move = may_move
        self._instance = instance
        self._root = os.geteuid() == 0
        self._hierarchy: cgroups.Hierarchy | None = None
        self._uids: UidRange | None = None
        self._nurseries: dict[str, NurseryClient] = {}
        self._starting = asyncio.Lock()
        self._live: dict[str, LocalSandbox] = {}
        self._dir_fd = -1
        self._seccomp = b""

    async def __aenter__(self) -> Self:
        self._runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._runtime_dir.chmod(0o700)
        self._dir_fd = os.open(self._runtime_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._hierarchy = cgroups.find(self._instance, may_move=self._may_move)
        if self._hierarchy:
            cgroups.remember(self._hierarchy, self._remembered)
        self._seccomp = seccomp.program(denied=() if self._hierarchy else UNSEEN_MEMORY)
        if self._root:
            self._uids = UidRange(*configured_range())
        try:
            for image in self._images.values():
                await self._start_nursery(image)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _start_nursery(self, image: BuiltImage) -> NurseryClient:
        nursery = NurseryClient(
            image,
            many_uids=self._root,
            seccomp=self._seccomp,
            runtime_dir=self._runtime_dir,
            ca_bundle=self._ca_bundle,
        )
        self._nurseries[image.name] = nursery
        await nursery.start()
        return nursery

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._live.values())))
        for nursery in self._nurseries.values():
            await nursery.stop()
        self._nurseries.clear()
        if self._hierarchy:
            cgroups.remove_parents(self._hierarchy, self._remembered)
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
            self._dir_fd = -1
        shutil.rmtree(self._runtime_dir, ignore_errors=True)

    def socket_path(self, sandbox_id: str) -> str:
        """A short name of the guest's socket, however deep the state directory lies (107 bytes at most)."""
        return f"/proc/self/fd/{self._dir_fd}/{sandbox_id}.sock"

    async def create(self, spec: SandboxSpec) -> LocalSandbox:
        """A ready sandbox, or nothing left behind.

        Raises:
            ImageNotFound: no such image here.
            SandboxFailed: it could not be made.
            BackendUnavailable: the nursery is gone and does not start again.
        """
        nursery = await self._nursery(spec.image)
        sandbox = LocalSandbox(self, "sb_" + secrets.token_hex(8), spec)
        sandbox.nursery = nursery
        self._live[sandbox.id] = sandbox
        fds: list[int] = []
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        exited = sandbox.died.set
        try:
            listener.bind(sandbox._socket_path)
            listener.listen(64)
            if self._uids:
                sandbox.uids = self._uids.lease()
            if self._hierarchy:
                sandbox.group = cgroups.Group(self._hierarchy, sandbox.id)
                fds = sandbox.group.open_joins()
            uid_base = sandbox.uids.base if sandbox.uids else None
            await nursery.create(
                sandbox.id,
                spec.warm,
                spec.disk_bytes,
                spec.network,
                uid_base,
                [listener.fileno(), *fds],
                exited,
            )
        except NoUidLeft as error:
            sandbox.died.set()
            raise BackendUnavailable(str(error)) from error
        except OSError as error:
            sandbox.died.set()
            raise SandboxFailed(f"the sandbox could not be made: {error}") from error
        except BaseException:
            if nursery.broken:
                sandbox.died.set()
            await sandbox.close()
            raise
        finally:
            listener.close()
            for fd in fds:
                os.close(fd)
            if sandbox.died.is_set():
                await sandbox.close()
        return sandbox

    async def _nursery(self, image: str) -> NurseryClient:
        if image not in self._images:
            raise ImageNotFound(
                f"no image named {image!r} is built; build it: codecell-executor images build {image}"
            )
        nursery = self._nurseries[image]
        if nursery.broken is None:
            return nursery
        async with self._starting:  # of many who find it broken one starts another
            nursery = self._nurseries[image]
            if nursery.broken is None:
                return nursery
            log.error("nursery lost, starting another", extra={"image": image, "why": nursery.broken})
            await nursery.stop()
            return await self._start_nursery(self._images[image])

    async def clean_up(self, sandbox: LocalSandbox) -> None:
        """Remove what a dead sandbox leaves on the host."""
        if self._live.pop(sandbox.id, None) is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._runtime_dir / f"{sandbox.id}.sock")
        if sandbox.group and not await asyncio.to_thread(sandbox.group.remove):
            log.error("cgroup could not be removed", extra={"sandbox": sandbox.id})
        if sandbox.uids and sandbox.died.is_set():  # else its processes may still have them
            sandbox.uids.release()

    async def sweep(self) -> int:
        """Remove groups and sockets that a dead predecessor of this instance left."""
        removed = 0
        for path in self._runtime_dir.glob("sb_*.sock"):
            if path.stem not in self._live:
                path.unlink(missing_ok=True)
                removed += 1
        if not self._live:
            removed += await asyncio.to_thread(cgroups.sweep, self._hierarchy, self._remembered)
        return removed

    async def adopt(self, ids: Collection[str]) -> list[LocalSandbox]:  # noqa: ARG002
        """Nothing: local sandboxes end with the service that made them."""
        return []

    async def ping(self) -> None:
        """Raises BackendUnavailable if a nursery is gone and does not start again."""
        for image in self._nurseries:
            await self._nursery(image)  # starts another where one is lost

    def isolation(self) -> Mapping[str, Mapping[str, str]]:
        """What is enforced, by what, and how exactly, on this host."""
        return describe(
            root=self._root, controllers=self._hierarchy.controllers if self._hierarchy else frozenset()
        )


def describe(*, root: bool, controllers: frozenset[str]) -> Mapping[str, Mapping[str, str]]:
    """The answer of `LocalBackend.isolation`, as a function of what the host allows."""

    def aspect(by: str, enforced: str = "exact", detail: str | None = None) -> dict[str, str]:
        return {"by": by, "enforced": enforced} | ({"detail": detail} if detail else {})

    memory = "memory" in controllers
    return {
        "filesystem": aspect("mount namespace, private read-only root"),
        "processes_seen": aspect("pid namespace"),
        "network": aspect("network namespace without a device but loopback"),
        "ipc": aspect("ipc and uts namespaces"),
        "users": aspect(
            "user namespace, host uids of its own" if root else "user namespace, one host uid",
            detail=None if root else "user code has its own user namespace below the guest's",
        ),
        "system_calls": aspect("seccomp allow-list, no_new_privs, no capabilities, nosuid mounts"),
        "memory": aspect("cgroup, swap included")
        if memory
        else aspect(
            "sum of memory read every 100 ms, then kill",
            "sampled",
            "kernel memory (socket buffers, pipes) is not counted",
        ),
        "processes": aspect(
            "RLIMIT_NPROC" + (" and cgroup" if "pids" in controllers else " in the user namespace")
        ),
        "cpus": aspect("cgroup quota")
        if "cpu" in controllers
        else aspect("nothing", "none", "no writable cpu cgroup"),
        "cpu_time": aspect("RLIMIT_CPU a process, sum read every 100 ms", "sampled"),
        "wall_time": aspect("the guest's clock, then SIGKILL to the whole tree"),
        "disk": aspect("tmpfs size and inodes"),
        "output": aspect("counted in the guest"),
        "open_files": aspect("RLIMIT_NOFILE"),
    }
