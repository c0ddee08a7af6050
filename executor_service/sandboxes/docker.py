"""The Docker backend: one hardened container for each sandbox.

What a container may do is `docker_options.container_options`; what happens in it is the guest's. Each sandbox
has a directory below the state directory, mounted into its container, where process 1 puts its socket. That
mount is the one thing of the host's that the guest can write, and user code cannot reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import socket
import stat
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from docker.errors import ImageNotFound as NoSuchImage
from docker.errors import NotFound

from executor_service import guest as guest_package
from executor_service.errors import BackendUnavailable, CodecellError, ImageNotFound, SandboxFailed
from executor_service.guest.container import CONFIG, FAILED, SOCKET
from executor_service.guest.protocol import VERSION, ProtocolError, pack_json
from executor_service.images import BASE_ENV, THREAD_COUNTS
from executor_service.result import Reading
from executor_service.sandboxes import seccomp
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.cgroups import Group
from executor_service.sandboxes.connection import read_json
from executor_service.sandboxes.docker_engine import About, Engine
from executor_service.sandboxes.docker_guest import install_guest, remove_other_guests
from executor_service.sandboxes.docker_options import (
    Room,
    Share,
    compile_options,
    container_options,
    share,
    update,
)
from executor_service.sandboxes.guest import ask, ask_meters

log = logging.getLogger(__name__)

READY_TIMEOUT = 90.0
LOOK_INTERVAL = 0.005  # seconds between looks for a new guest's socket
ALIVE_INTERVAL = 1.0  # seconds after which the engine is asked whether a container that is silent still runs
CLOSE_TIMEOUT = 30.0
PING_TIMEOUT = 5.0
ADOPT_TIMEOUT = 30.0
ADOPT_AT_ONCE = 8
STEP = 4 << 20  # what warm interpreters hold is rounded up to this
UNKNOWN_WARM = 128 << 20  # until the first sandbox of a kind has told
PREFIX = "codecell-"
INSTANCE_LABEL = "codecell.instance"


class Image(Protocol):
    """What this backend needs to know of an image."""

    @property
    def name(self) -> str: ...

    @property
    def reference(self) -> str:
        """As the engine knows it."""

    @property
    def fingerprint(self) -> str:
        """Names this build."""

    @property
    def preload(self) -> Sequence[str]: ...


class DockerSandbox:
    """One container."""

    def __init__(self, backend: DockerBackend, sandbox_id: str, spec: SandboxSpec, given: Share) -> None:
        self.id = sandbox_id
        self.spec = spec
        self.died = asyncio.Event()
        self.directory = backend.directory(sandbox_id)
        self.warm_bytes = 0
        self.durable = False
        self._backend = backend
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
                await self._backend.engine.update(self.container, update(wanted))
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
        if (uid := _peer(writer)[1]) != self._backend.guest_uid:
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
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._backend.engine.remove(self.container)
        except (CodecellError, TimeoutError) as error:
            # The engine is gone, the guest may not be: it ends itself. What is left, the next sweep removes.
            log.warning("container not removed", extra={"sandbox": self.id, "why": str(error)})
            with contextlib.suppress(CodecellError):
                await ask(self, {"op": "renew", "expires_in": 0.0}, seconds=1.0)
        self.died.set()
        await self.let_go()
        await asyncio.to_thread(shutil.rmtree, self.directory, True)
        self._backend.forget(self)

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
        self._socket = _open_socket(self.directory / SOCKET)
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
        path = self.directory / SOCKET
        while not os.path.lexists(path):  # noqa: ASYNC240 - a look at our own file system
            if failure := self._failure():
                raise SandboxFailed(failure)
            if loop.time() > look_again:
                look_again = loop.time() + ALIVE_INTERVAL
                if not await self._backend.engine.running(self.container):
                    raise SandboxFailed(self._failure() or "the container ended while starting")
            await asyncio.sleep(LOOK_INTERVAL)

    def _failure(self) -> str | None:
        with contextlib.suppress(OSError), open(self.directory / FAILED, "rb") as file:
            if text := file.read(4000).decode("utf-8", "replace").strip():
                return f"the guest did not start: {text[-2000:]}"
        return None

    async def _watch_guest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the guest closes the connection: then all of its container is gone."""
        try:
            await reader.read(1)
            self.died.set()
        finally:
            writer.close()


class DockerBackend:
    """Makes containers; enter it before use. `images` are those that it can use."""

    name = "docker"
    durable = True

    def __init__(
        self,
        images: Sequence[Image],
        state_dir: Path,
        instance: str = "default",
        *,
        docker_host: str | None = None,
        runtime: str | None = None,
        usual: Lease | None = None,
        ca_bundle: Path | None = None,
    ) -> None:
        """`usual` is the lease that most sandboxes get: containers are made with it and need no change."""
        self._images = {image.name: image for image in images}
        self._runtime_dir = state_dir.absolute() / "run"
        self._instance = instance
        self._runtime = runtime
        self._usual = usual or Lease(memory_bytes=512 << 20, processes=128, cpus=1.0)
        self._ca_bundle = ca_bundle
        self._live: dict[str, DockerSandbox] = {}
        self._warm_bytes: dict[tuple[str, str], int] = {}
        self._guests: dict[str, Path] = {}  # the guest's code for each image, compiled by its interpreter
        self._preparing = asyncio.Lock()
        self._seccomp = ""
        self._about: About | None = None
        self.engine = Engine(docker_host)
        self.guest_uid = 0
        self._inside_group = 0

    async def __aenter__(self) -> Self:
        """Raises BackendUnavailable: no engine answers, or it lacks the runtime that was asked for."""
        self._runtime_dir.mkdir(parents=True, exist_ok=True)
        # Through it the engine mounts; only the service lists it, and each sandbox's own directory is closed.
        self._runtime_dir.chmod(0o711)
        try:
            self._about = await self.engine.about()
            if self._runtime is not None and self._runtime not in self._about.runtimes:
                known = ", ".join(self._about.runtimes)
                raise BackendUnavailable(f"the engine has no runtime {self._runtime!r}; it has {known}")
            self._meet(self._about)
            if self._ca_bundle is not None:  # the engine need not see it where it lies
                copy = self._runtime_dir / "ca.crt"
                await asyncio.to_thread(_copy_public, self._ca_bundle, copy)
                self._ca_bundle = copy
        except BaseException:
            self.engine.close()
            raise
        self._seccomp = seccomp.program().hex()
        return self

    def _meet(self, about: About) -> None:
        """Which uid the guest has here, and the group that lets service and guest share a directory.

        Raises:
            BackendUnavailable: an engine with user namespaces, and this service may not give files away.
        """
        if "rootless" in about.security:
            self.guest_uid = os.geteuid()
        elif "userns" in about.security:
            found = re.search(r"/(\d+)\.\d+$", about.root_dir)
            if found is None or os.geteuid() != 0:
                raise BackendUnavailable(
                    "the engine maps users (userns-remap): that needs a service that is root on its host"
                )
            self.guest_uid = int(found[1])
        else:
            self._inside_group = os.getegid()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        live = list(self._live.values())
        await asyncio.gather(*(each.let_go() if each.durable else each.close() for each in live))
        self._live.clear()
        self.engine.close()

    def directory(self, sandbox_id: str) -> Path:
        """Where the service and the guest of one sandbox meet."""
        return self._runtime_dir / sandbox_id

    async def create(self, spec: SandboxSpec) -> DockerSandbox:
        """A ready sandbox, or nothing left behind.

        Raises:
            ImageNotFound: no such image here.
            SandboxFailed: it could not be made.
            BackendUnavailable: the engine does not answer.
        """
        image = self._images.get(spec.image)
        if image is None:
            raise _no_image(spec.image)
        key = (spec.image, spec.warm)
        given = share(self._usual, self._warm_bytes.get(key, UNKNOWN_WARM))
        sandbox = DockerSandbox(self, "sb_" + secrets.token_hex(16), spec, given)
        self._live[sandbox.id] = sandbox
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                room = self._room(sandbox, await self._guest(image))
                await asyncio.to_thread(self._make_room, sandbox.directory, spec, image)
                options = container_options(spec, image.reference, room, given, runtime=self._runtime)
                await self.engine.start(sandbox.container, options)
                await sandbox.begin()
        except NoSuchImage:
            await sandbox.close()
            raise _no_image(spec.image) from None
        except NotFound as error:
            await sandbox.close()
            raise SandboxFailed(f"the container was removed while it started: {error.explanation}") from None
        except TimeoutError:
            await sandbox.close()
            raise SandboxFailed(f"the sandbox was not ready within {READY_TIMEOUT:g} s") from None
        except OSError as error:
            await sandbox.close()
            raise SandboxFailed(f"the sandbox could not be made: {error}") from error
        except BaseException:
            await sandbox.close()
            raise
        sandbox.warm_bytes = self._warm_bytes.setdefault(key, sandbox.warm_bytes)
        return sandbox

    async def _guest(self, image: Image) -> Path:
        """The guest's code for an image; the first time it is compiled, which halves what a start costs."""
        async with self._preparing:
            if image.name not in self._guests:
                place, fresh = await asyncio.to_thread(
                    install_guest, self._runtime_dir, _guest_source(), image.fingerprint
                )
                options = compile_options(image.reference, place, os.geteuid(), os.getegid())
                if fresh and (status := await self.engine.run(options)) != 0:
                    log.warning("guest not compiled", extra={"image": image.name, "status": status})
                self._guests[image.name] = place
            return self._guests[image.name]

    def _room(self, sandbox: DockerSandbox, guest: Path) -> Room:
        return Room(
            sandbox_id=sandbox.id,
            instance=self._instance,
            directory=sandbox.directory,
            guest=guest,
            group=self._inside_group,
            ca_bundle=self._ca_bundle,
        )

    def _make_room(self, directory: Path, spec: SandboxSpec, image: Image) -> None:
        directory.mkdir(mode=0o770)
        directory.chmod(0o770)  # whatever our umask: the guest is in our group
        if self.guest_uid not in {0, os.geteuid()}:
            os.chown(directory, self.guest_uid, -1)
        config = {
            "spec": asdict(spec),
            "warm": spec.warm,
            "preload": list(image.preload),
            "seccomp": self._seccomp,
            "environment": {**BASE_ENV, **dict.fromkeys(THREAD_COUNTS, "1")},
        }
        for name, text in ((CONFIG, json.dumps(config)), ("cpus", "0\n")):
            path = directory / name
            path.write_text(text)
            path.chmod(0o644)

    def forget(self, sandbox: DockerSandbox) -> None:
        """It was closed."""
        self._live.pop(sandbox.id, None)

    async def adopt(self, ids: Collection[str]) -> list[DockerSandbox]:
        """Those of `ids` whose guest still lives and speaks our version. Ids come from our own database."""
        gate = asyncio.Semaphore(ADOPT_AT_ONCE)  # many at once would make each other late

        async def adopt(sandbox_id: str) -> DockerSandbox | None:
            async with gate:
                return await self._adopt(sandbox_id)

        found = await asyncio.gather(*map(adopt, ids))
        return [sandbox for sandbox in found if sandbox is not None]

    async def _adopt(self, sandbox_id: str) -> DockerSandbox | None:
        try:
            # Written by us; a guest that was broken into could change it, so it decides nothing of weight.
            config = json.loads((self.directory(sandbox_id) / CONFIG).read_text())
            spec = SandboxSpec(**config["spec"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sandbox = DockerSandbox(self, sandbox_id, spec, Share(memory=0, pids=0, quota=0))
        sandbox.durable = True
        self._live[sandbox.id] = sandbox
        try:
            async with asyncio.timeout(ADOPT_TIMEOUT):
                await sandbox.begin(adopted=True)
        except (CodecellError, OSError, TimeoutError) as error:
            log.warning("sandbox not adopted", extra={"sandbox": sandbox_id, "why": str(error)})
            await sandbox.let_go()
            self.forget(sandbox)
            return None
        return sandbox

    async def sweep(self) -> int:
        """Remove containers and directories of this instance that are none of ours any more."""
        mine = await self.engine.labelled(f"{INSTANCE_LABEL}={self._instance}")
        lost = [each for each in mine if each["Labels"].get("codecell.sandbox") not in self._live]
        await asyncio.gather(*(self.engine.remove(each["Id"]) for each in lost))
        directories = [path for path in self._runtime_dir.glob("sb_*") if path.name not in self._live]
        for path in directories:
            await asyncio.to_thread(shutil.rmtree, path, True)
        await asyncio.to_thread(
            remove_other_guests, self._runtime_dir, set(self._guests.values()), bool(self._live)
        )
        return max(len(lost), len(directories))

    async def ping(self) -> None:
        """Raises BackendUnavailable if the engine does not answer, or not in time."""
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self.engine.ping()
        except TimeoutError:
            raise BackendUnavailable(f"the engine did not answer within {PING_TIMEOUT:g} s") from None

    def isolation(self) -> Mapping[str, Mapping[str, str]]:
        """What is enforced, by what, and how exactly."""
        assert self._about is not None
        return describe(self._about, self._runtime)


def describe(about: About, runtime: str | None) -> Mapping[str, Mapping[str, str]]:
    """The answer of `DockerBackend.isolation`, as a function of the engine."""

    def aspect(by: str, enforced: str = "exact", detail: str | None = None) -> dict[str, str]:
        return {"by": by, "enforced": enforced} | ({"detail": detail} if detail else {})

    used = runtime or about.default_runtime
    modules = [name for name in about.security if name in {"apparmor", "selinux"}]
    remapped = {"userns", "rootless"} & {*about.security}
    return {
        "container": aspect(
            f"runtime {used}", detail=f"engine {about.version}, control groups version {about.cgroup_version}"
        ),
        "filesystem": aspect("read-only root of the image; tmpfs for the workspace, /tmp and /dev/shm"),
        "processes_seen": aspect("pid namespace"),
        "network": aspect("network namespace without a device but loopback"),
        "ipc": aspect("ipc and uts namespaces"),
        "users": aspect(
            "uid 1000" + (", in a user namespace of the engine's" if remapped else ""),
            detail=None if remapped else "the same host uid in every container",
        ),
        "system_calls": aspect(
            "seccomp allow-list, no_new_privs, no capabilities" + "".join(f", {name}" for name in modules)
        ),
        "memory": aspect("cgroup, swap included"),
        "processes": aspect("cgroup", detail="threads included; a few more for the guest"),
        "cpus": aspect("cgroup quota"),
        "cpu_time": aspect("RLIMIT_CPU a process, sum read every 100 ms", "sampled"),
        "wall_time": aspect("the guest's clock, then SIGKILL to the whole tree"),
        "disk": aspect("tmpfs size and inodes"),
        "output": aspect("counted in the guest"),
        "open_files": aspect("RLIMIT_NOFILE"),
    }


def _lease(lease: Lease) -> dict[str, Any]:
    return asdict(lease)


def _round_up(number: int) -> int:
    return -(-number // STEP) * STEP


def _no_image(name: str) -> ImageNotFound:
    return ImageNotFound(
        f"the engine has no image {name!r}; build it: codecell-executor images build {name} --backend docker"
    )


def _write_cpus(directory: Path, count: int) -> None:
    """In place: the file itself is mounted."""
    with open(directory / "cpus", "r+") as file:
        file.truncate(0)
        file.write("0\n" if count <= 1 else f"0-{count - 1}\n")


def _copy_public(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    target.chmod(0o644)


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


def _guest_source() -> Path:
    return Path(guest_package.__file__).parent
