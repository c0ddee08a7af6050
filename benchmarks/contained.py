"""The same work in plain containers of the same image, without us: `docker run` and `exec`, a bare kernel."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient

from benchmarks.bare import executions
from benchmarks.load import Times

NO_NETWORK = ("--network", "none")  # starts faster than with a device
PORTS = ("shell", "iopub", "stdin", "control", "hb")
START_TIME = 120.0


def reference(name: str) -> str:
    """What the engine calls the image; raises where it is not built."""
    import docker

    from executor_service import images
    from executor_service.docker_images import find_image

    known = images.definitions()
    with contextlib.closing(docker.APIClient(**docker.utils.kwargs_from_env())) as client:
        return find_image(client, known[name], known).reference


def fresh(image: str, code: str, count: int) -> Times:
    """`docker run --rm` for each program."""
    return _repeat(["docker", "run", "--rm", *NO_NETWORK, image, "python3", "-c", code], count)


def again(image: str, code: str, count: int) -> Times:
    """`docker exec` into one container."""
    with _container(image, ["sleep", "3600"]) as container:
        return _repeat(["docker", "exec", container, "python3", "-c", code], count)


def kernel(image: str, code: str, count: int, pauses: Sequence[float]) -> tuple[float, list[Times]]:
    """ipykernel in a container, over ipc sockets: ms until ready, then ms until idle, with each pause."""
    with tempfile.TemporaryDirectory(prefix="codecell-benchmark-") as directory:
        Path(directory).chmod(0o755)
        file = Path(directory, "connection.json")
        file.write_text(json.dumps(_connection(f"{directory}/kernel")))
        command = ["python3", "-m", "ipykernel_launcher", "-f", str(file)]
        user = f"{os.getuid()}:{os.getgid()}"
        options = ["--volume", f"{directory}:{directory}", "--env", "HOME=/tmp", "--user", user]
        start = time.perf_counter()
        with _container(image, command, options), _client(file) as client:
            ready = (time.perf_counter() - start) * 1e3
            return ready, [executions(client, code, count, pause) for pause in pauses]


def _connection(path: str) -> dict[str, object]:
    ports = {f"{name}_port": n for n, name in enumerate(PORTS, 1)}
    return {
        **ports,
        "ip": path,
        "transport": "ipc",
        "key": uuid.uuid4().hex,
        "signature_scheme": "hmac-sha256",
    }


@contextlib.contextmanager
def _client(file: Path) -> Iterator[BlockingKernelClient]:
    """Once its sockets are there: to connect before costs retries, and no heartbeat yet counts as death."""
    deadline = time.monotonic() + START_TIME
    while len(list(file.parent.glob("kernel-*"))) < len(PORTS):
        if time.monotonic() > deadline:
            raise RuntimeError("the bare kernel does not start")
        time.sleep(0.005)
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels(hb=False)
    try:
        client.kernel_info(reply=True, timeout=START_TIME)
        yield client
    finally:
        client.stop_channels()


@contextlib.contextmanager
def _container(image: str, command: Sequence[str], options: Sequence[str] = ()) -> Iterator[str]:
    name = f"codecell-benchmark-{uuid.uuid4().hex[:12]}"
    start = ["docker", "run", "--detach", "--rm", "--name", name, *NO_NETWORK, *options, image, *command]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
    try:
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)


def _repeat(command: Sequence[str], count: int) -> Times:
    values = []
    for _ in range(count):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        values.append((time.perf_counter() - start) * 1e3)
    return Times(values)
