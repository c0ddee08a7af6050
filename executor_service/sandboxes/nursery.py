"""The service's end of one nursery: the process that forks an image's local sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from executor_service import guest as guest_package
from executor_service.errors import BackendUnavailable, SandboxFailed
from executor_service.guest import channel
from executor_service.images import BASE_ENV, THREAD_COUNTS, BuiltImage

log = logging.getLogger(__name__)

START_TIMEOUT = 120.0
CREATE_TIMEOUT = 30.0
HINTS = (
    "local sandboxes need user namespaces: check that /proc/sys/user/max_user_namespaces is above 0, that "
    "/proc/sys/kernel/unprivileged_userns_clone (Debian) is 1, that "
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns (Ubuntu) is 0, and, in a container, that its "
    "seccomp profile allows unshare, clone3, mount and pivot_root and that its /proc is not masked"
)


class NurseryClient:
    """Starts the nursery, asks it for sandboxes and hears how they end."""

    def __init__(
        self,
        image: BuiltImage,
        *,
        many_uids: bool,
        seccomp: bytes,
        runtime_dir: Path,
        ca_bundle: Path | None = None,
    ) -> None:
        self._image = image
        self._ca_bundle = ca_bundle
        self._many_uids = many_uids
        self._seccomp = seccomp
        self._root = runtime_dir / f"root-{image.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready: asyncio.Future[None] | None = None
        self._created: dict[str, asyncio.Future[None]] = {}
        self._on_exit: dict[str, Callable[[], None]] = {}
        self.broken: str | None = None

    async def start(self) -> None:
        """Start it and wait until its interpreters are warm.

        Raises:
            BackendUnavailable: the kernel refuses namespaces, or the image does not start; it says why.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        ours, theirs = channel.pair()
        config = {
            "root": str(self._root),
            "env_dir": str(self._image.env_dir),
            "base_prefix": str(self._image.base_prefix),
            "ca_bundle": None if self._ca_bundle is None else str(self._ca_bundle),
            "many_uids": self._many_uids,
            "preload": list(self._image.preload),
            "seccomp": self._seccomp.hex(),
            "environment": {**BASE_ENV, **dict.fromkeys(THREAD_COUNTS, "1")},
        }
        script = Path(guest_package.__file__).with_name("launcher.py")
        # exec'd, never forked from this process; the environment is empty, so no secret of ours is in it.
        self._process = subprocess.Popen(  # noqa: ASYNC220 - once, and it returns after the exec
            [sys.executable, "-I", "-S", str(script), str(theirs.fileno())],
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C and other signals to our group are not for it: we drain first
        )
        theirs.close()
        channel.send(ours, config)  # the launcher takes it for itself, the nursery gets it again
        channel.send(ours, config)
        ours.setblocking(False)
        self._control = ours
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        loop.add_reader(ours, self._read)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._ready
        except TimeoutError:
            await self.stop()
            raise BackendUnavailable(f"the nursery was not ready within {START_TIMEOUT:g} s") from None
        except BaseException:
            await self.stop()
            raise

    async def create(
        self,
        sandbox_id: str,
        warm: str,
        disk_bytes: int,
        network: bool,
        uid_base: int | None,
        fds: Sequence[int],
        on_exit: Callable[[], None],
    ) -> None:
        """A ready sandbox; `fds` are its listening socket and cgroup files; `on_exit` is called at its end.

        Raises:
            SandboxFailed: it could not be made; `on_exit` is called all the same.
            BackendUnavailable: the nursery is gone.
        """
        created: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._created[sandbox_id] = created
        self._on_exit[sandbox_id] = on_exit
        request = {
            "op": "create",
            "id": sandbox_id,
            "warm": warm,
            "disk_bytes": disk_bytes,
            "network": network,
            "uid_base": uid_base,
        }
        try:
            self._send(request, fds)
            async with asyncio.timeout(CREATE_TIMEOUT):
                await created
        except TimeoutError:
            self.kill(sandbox_id)
            raise SandboxFailed(f"the sandbox was not ready within {CREATE_TIMEOUT:g} s") from None
        except BaseException:
            self.kill(sandbox_id)
            raise
        finally:
            self._created.pop(sandbox_id, None)

    def kill(self, sandbox_id: str) -> None:
        """End a sandbox; its `on_exit` tells when that is done."""
        if sandbox_id in self._on_exit:
            with contextlib.suppress(BackendUnavailable):
                self._send({"op": "kill", "id": sandbox_id}, ())

    async def stop(self) -> None:
        """End the nursery and everything it holds."""
        self._lost("the nursery was stopped")
        process, self._process = self._process, None
        if process:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)

    def _send(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        if self._control is None:
            raise BackendUnavailable(self.broken or "the nursery is not running")
        try:
            channel.send(self._control, message, fds)
        except OSError as error:
            raise BackendUnavailable(f"the nursery does not answer: {error}") from error

    def _read(self) -> None:
        assert self._control is not None
        while self._control is not None:
            try:
                message, fds = channel.receive(self._control)
            except BlockingIOError:
                return
            except (EOFError, OSError):
                self._lost("the nursery ended")
                return
            channel.close(fds)
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        event, sandbox_id = message["event"], message.get("id", "")
        created = self._created.get(sandbox_id)
        if event == "ready" and self._ready and not self._ready.done():
            self._ready.set_result(None)
        elif event == "broken":
            self._lost(f"{message['detail']}; {HINTS}" if "errno" in message else message["detail"])
        elif event == "created" and created and not created.done():
            created.set_result(None)
        elif event == "failed" and created and not created.done():
            created.set_exception(SandboxFailed(f"the sandbox did not start: {message['detail']}"))
        elif event == "exited" and (callback := self._on_exit.pop(sandbox_id, None)):
            callback()

    def _lost(self, why: str) -> None:
        self.broken = self.broken or why
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for future in (self._ready, *self._created.values()):
            if future and not future.done():
                future.set_exception(BackendUnavailable(why))
        callbacks, self._on_exit = list(self._on_exit.values()), {}
        for callback in callbacks:
            callback()
