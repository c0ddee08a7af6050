"""The Docker backend: one hardened container for each sandbox.

What a container may do is `docker_options.container_options`; what happens in it is the guest's. Each sandbox
has a directory below the state directory, mounted into its container, where process 1 puts its socket. That
mount is the one thing of the host's that the guest can write, and user code cannot reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from docker.errors import ImageNotFound as NoSuchImage
from docker.errors import NotFound

from executor_service import guest as guest_package
from executor_service.errors import (
    BackendUnavailable,
    CodecellError,
    DiskFull,
    ImageNotFound,
    SandboxFailed,
)
from executor_service.images import BASE_ENV, THREAD_COUNTS
from executor_service.sandboxes import seccomp
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.docker_engine import About, Engine
from executor_service.sandboxes.docker_guest import copy_guest, place_of, remove_other_guests
from executor_service.sandboxes.docker_isolation import describe
from executor_service.sandboxes.docker_options import (
    CONFIG_FILE,
    CPUS_FILE,
    MEET,
    Room,
    Share,
    compile_options,
    container_options,
    share,
)
from executor_service.sandboxes.docker_sandbox import UNKNOWN_WARM, DockerSandbox
from executor_service.tasks import Tasks

log = logging.getLogger(__name__)

READY_TIMEOUT = 90.0
PING_TIMEOUT = 5.0
ADOPT_TIMEOUT = 10.0
ADOPT_AT_ONCE = 16
TIDY_INTERVAL = 2.0
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
        self._left: set[str] = set()
        self._tasks = Tasks()
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
        self._tasks.start(self._tidy(), name="tidy containers")
        return self

    def _meet(self, about: About) -> None:
        """Which uid the guest has here, and the group that lets service and guest share a directory.

        Raises:
            BackendUnavailable: an engine that maps users.
        """
        if "rootless" in about.security:
            self.guest_uid = os.geteuid()
        elif "userns" in about.security:
            raise BackendUnavailable("the engine maps users (userns-remap), so no guest can write for us")
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
        await self._tasks.cancel()
        await self._remove_left()
        self.engine.close()

    def _directory(self, sandbox_id: str) -> Path:
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
        sandbox = self._sandbox("sb_" + secrets.token_hex(16), spec, given)
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
            if error.errno == errno.ENOSPC:
                raise DiskFull("the service's state directory has no space left") from error
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
                place = await asyncio.to_thread(self._place_of, image)
                if not place.is_dir():
                    await self._compile(image, place)
                self._guests[image.name] = place
            return self._guests[image.name]

    def _place_of(self, image: Image) -> Path:
        return place_of(self._runtime_dir, _guest_source(), image.fingerprint)

    async def _compile(self, image: Image, place: Path) -> None:
        made = await asyncio.to_thread(copy_guest, place, _guest_source())
        options = compile_options(
            image.reference, made, self._instance, user=os.geteuid(), group=os.getegid()
        )
        if (status := await self.engine.run(options)) != 0:
            log.warning("guest not compiled", extra={"image": image.name, "status": status})
        await asyncio.to_thread(made.rename, place)

    def _sandbox(self, sandbox_id: str, spec: SandboxSpec, given: Share) -> DockerSandbox:
        sandbox = self._live[sandbox_id] = DockerSandbox(
            sandbox_id,
            spec,
            given,
            directory=self._directory(sandbox_id),
            engine=self.engine,
            guest_uid=self.guest_uid,
            on_closed=self._forget,
        )
        return sandbox

    def _room(self, sandbox: DockerSandbox, guest: Path) -> Room:
        return Room(
            sandbox_id=sandbox.id,
            instance=self._instance,
            directory=sandbox.directory,
            guest=guest,
            group=self._inside_group,
            ca_bundle=self._ca_bundle,
            auto_remove=self._about is None or self._about.removes_by_itself,
        )

    def _make_room(self, directory: Path, spec: SandboxSpec, image: Image) -> None:
        directory.mkdir(mode=0o700)
        (directory / MEET).mkdir()
        (directory / MEET).chmod(0o770)  # whatever our umask: the guest is in our group
        config = {
            "spec": asdict(spec),
            "warm": spec.warm,
            "preload": list(image.preload),
            "seccomp": self._seccomp,
            "environment": {**BASE_ENV, **dict.fromkeys(THREAD_COUNTS, "1")},
        }
        for name, text in ((CONFIG_FILE, json.dumps(config)), (CPUS_FILE, "0\n")):
            path = directory / name
            path.write_text(text)
            path.chmod(0o644)

    def _forget(self, sandbox: DockerSandbox, removed: bool = True) -> None:
        """It was closed."""
        self._live.pop(sandbox.id, None)
        if not removed:
            self._left.add(sandbox.container)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_INTERVAL)
            await self._remove_left()

    async def _remove_left(self) -> None:
        """Remove, once the engine is back, what was closed while it was away."""
        for container in list(self._left):
            with contextlib.suppress(CodecellError):
                await self.engine.remove(container)
                self._left.discard(container)

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
            config = json.loads((self._directory(sandbox_id) / CONFIG_FILE).read_text())
            spec = SandboxSpec(**config["spec"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sandbox = self._sandbox(sandbox_id, spec, Share(memory=0, pids=0, quota=0))
        sandbox.durable = True
        try:
            async with asyncio.timeout(ADOPT_TIMEOUT):
                await sandbox.begin(adopted=True)
        except (CodecellError, OSError, TimeoutError) as error:
            log.warning("sandbox not adopted", extra={"sandbox": sandbox_id, "why": str(error)})
            await sandbox.let_go()
            self._forget(sandbox)
            return None
        return sandbox

    async def sweep(self) -> int:
        """Remove containers and directories of this instance that are none of ours any more."""
        mine = await self.engine.labelled(f"{INSTANCE_LABEL}={self._instance}")
        lost = [each for each in mine if each["Labels"].get("codecell.sandbox") not in self._live]
        ends = await asyncio.gather(*(self.engine.remove(e["Id"]) for e in lost), return_exceptions=True)
        for container, end in zip(lost, ends, strict=True):
            if isinstance(end, BackendUnavailable):
                raise end
            if isinstance(end, BaseException):  # one that cannot be removed must not keep us from starting
                log.error("container not removed", extra={"container": container["Id"], "why": str(end)})
        directories = [path for path in self._runtime_dir.glob("sb_*") if path.name not in self._live]
        for path in directories:
            await asyncio.to_thread(shutil.rmtree, path, True)
        present = {await asyncio.to_thread(self._place_of, image) for image in self._images.values()}
        await asyncio.to_thread(remove_other_guests, self._runtime_dir, present, bool(self._live))
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


def _no_image(name: str) -> ImageNotFound:
    return ImageNotFound(
        f"the engine has no image {name!r}; build it: codecell-executor images build {name} --backend docker"
    )


def _copy_public(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    target.chmod(0o644)


def _guest_source() -> Path:
    return Path(guest_package.__file__).parent
