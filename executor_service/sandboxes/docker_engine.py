"""Talking to a container engine: the `docker` package's calls, in threads, with errors of ours.

The package blocks, so each call runs in a thread of `Engine`'s own; nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from executor_service.errors import BackendUnavailable, CodecellError, SandboxFailed

TIMEOUT = 60  # seconds that the engine has for one answer
THREADS = 16
_NOT_NOW = frozenset({502, 503, 504})  # of a proxy before the engine, or of one that is starting


@dataclass(frozen=True, kw_only=True)
class About:
    """What an engine says of itself."""

    version: str
    api_version: str
    host: str
    storage_driver: str
    cgroup_version: str
    live_restore: bool
    runtimes: tuple[str, ...]
    default_runtime: str
    security: tuple[str, ...]
    """`seccomp`, `apparmor`, `userns`, `rootless`, ... as the engine lists them."""

    @property
    def removes_by_itself(self) -> bool:
        """Whether it may be told to remove what has ended, and does so to nothing else.

        With live-restore, engines before 24.0.8 remove such containers when they start, though they run
        (moby issue 46308).
        """
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])
        return not self.live_restore or numbers >= (24, 0, 8)


class Engine:
    """One engine. `close` ends the connections; until `ping` succeeds nothing is known of it."""

    def __init__(self, host: str | None = None) -> None:
        self._host = host
        self._client: docker.APIClient | None = None
        self._connecting = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")

    async def call(self, work: Callable[[docker.APIClient], Any]) -> Any:
        """`work` in a thread, with the client.

        Raises:
            BackendUnavailable: the engine does not answer.
            NotFound: what was asked for is not there; the caller knows what that means.
            SandboxFailed: it refuses.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)

    def _do(self, work: Callable[[docker.APIClient], Any]) -> Any:
        try:
            return work(self._connected())
        except NotFound:
            raise
        except (DockerException, requests.RequestException, OSError) as error:
            raise fault(error, self.address) from error

    def _connected(self) -> docker.APIClient:
        with self._connecting:
            if self._client is None:
                # DOCKER_HOST and the TLS variables, where no address was given.
                _reach(self.address)
                given = {"base_url": self._host} if self._host else docker.utils.kwargs_from_env()
                self._client = docker.APIClient(timeout=TIMEOUT, max_pool_size=THREADS, **given)
            return self._client

    @property
    def address(self) -> str:
        return self._host or docker.utils.kwargs_from_env().get("base_url") or "unix:///var/run/docker.sock"

    async def ping(self) -> None:
        """Raises BackendUnavailable."""
        await self.call(lambda client: client.ping())

    async def about(self) -> About:
        """Raises BackendUnavailable."""
        version = await self.call(lambda client: client.version())
        info = await self.call(lambda client: client.info())
        return About(
            version=str(version.get("Version")),
            api_version=str(version.get("ApiVersion")),
            host=self.address,
            storage_driver=str(info.get("Driver")),
            cgroup_version=str(info.get("CgroupVersion", "1")),
            live_restore=bool(info.get("LiveRestoreEnabled")),
            runtimes=tuple(sorted(info.get("Runtimes") or ())),
            default_runtime=str(info.get("DefaultRuntime")),
            security=tuple(_security(info.get("SecurityOptions") or ())),
        )

    async def start(self, name: str, options: Mapping[str, Any]) -> str:
        """Create a container and start it; its id. One that does not start is removed.

        Raises:
            NotFound: the image is not there.
            BackendUnavailable, SandboxFailed: see `call`.
        """

        def work(client: docker.APIClient) -> str:
            made = str(client.create_container_from_config(dict(options), name=name)["Id"])
            try:
                client.start(made)
            except BaseException:
                remove_now(client, made)
                raise
            return made

        return str(await self.call(work))

    async def run(self, options: Mapping[str, Any]) -> int:
        """Create a container, wait for its end and remove it; its exit status.

        Raises:
            NotFound: the image is not there.
            BackendUnavailable, SandboxFailed: see `call`.
        """

        def work(client: docker.APIClient) -> int:
            made = str(client.create_container_from_config(dict(options))["Id"])
            try:
                client.start(made)
                return int(client.wait(made)["StatusCode"])
            finally:
                remove_now(client, made)

        return int(await self.call(work))

    async def update(self, container: str, options: Mapping[str, Any]) -> None:
        """Give a live container other limits. Raises NotFound, BackendUnavailable, SandboxFailed."""

        def work(client: docker.APIClient) -> None:
            # The package's own method knows no limit of processes.
            answer = client._post_json(client._url("/containers/{0}/update", container), data=dict(options))
            client._raise_for_status(answer)

        await self.call(work)

    async def remove(self, container: str) -> None:
        """Kill a container and remove it; nothing if it is gone. Raises BackendUnavailable, SandboxFailed."""
        await self.call(lambda client: remove_now(client, container))

    async def running(self, container: str) -> bool:
        """Whether it runs. Raises BackendUnavailable."""
        try:
            found = await self.call(lambda client: client.inspect_container(container))
        except NotFound:
            return False
        return bool(found["State"]["Running"])

    async def labelled(self, label: str) -> Sequence[Mapping[str, Any]]:
        """All containers with a label, those that ended too. Raises BackendUnavailable."""
        found: Sequence[Mapping[str, Any]] = await self.call(
            lambda client: client.containers(all=True, filters={"label": label})
        )
        return found

    def close(self) -> None:
        """End the connections and threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()


def _reach(address: str) -> None:
    """Raises OSError: nobody listens. (The package leaks a descriptor where it finds that out itself.)"""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address.removeprefix("unix://"))


def remove_now(client: docker.APIClient, container: str) -> None:
    """Kill and remove; that somebody else does it at the same time is as good."""
    try:
        client.remove_container(container, force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:
            raise


def fault(error: Exception, address: str) -> CodecellError:
    """Our error for one of the package's or of what lies below it."""
    if isinstance(error, APIError):
        said = str(error.explanation or error)[:500]
        if "bind source path does not exist" in said:
            return BackendUnavailable(
                f"the engine at {address} does not see this service's state directory ({said}); an engine "
                "elsewhere needs it shared under the same path"
            )
        if error.status_code in _NOT_NOW:
            return BackendUnavailable(f"the container engine at {address} cannot answer now: {said}")
        return SandboxFailed(f"the container engine refused: {said}")
    return BackendUnavailable(f"no container engine answers at {address}: {str(error)[:300]}")


def _security(options: Sequence[str]) -> list[str]:
    """``name=seccomp,profile=default`` as ``seccomp``."""
    return [dict(part.partition("=")[::2] for part in each.split(",")).get("name", each) for each in options]
