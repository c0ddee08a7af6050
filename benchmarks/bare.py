"""The same work without us: a bare interpreter, and a bare kernel with jupyter_client."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from benchmarks.load import Times
from executor_service import images


def python(image: images.BuiltImage, code: str, count: int, pause: float = 0.0) -> Times:
    """`python3 main.py`, once after the other, with the image's packages and its real interpreter."""
    argv, env = images.host_command(image)
    values = []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "main.py")
        file.write_text(code)
        for _ in range(count):
            time.sleep(pause)
            start = time.perf_counter()
            subprocess.run([*argv, str(file)], env=env, check=True, stdout=subprocess.PIPE)
            values.append((time.perf_counter() - start) * 1e3)
    return Times(values)


def kernel(
    image: images.BuiltImage, code: str, count: int, pauses: Sequence[float]
) -> tuple[float, list[Times]]:
    """Start a kernel (ms until ready), then execute `code` repeatedly (ms until idle), with each pause."""
    argv, env = images.host_command(image)
    with tempfile.TemporaryDirectory() as directory:
        _write_kernel_spec(Path(directory, "bare"), argv)
        manager = KernelManager(
            kernel_name="bare", kernel_spec_manager=KernelSpecManager(kernel_dirs=[directory])
        )
        return _measure(manager, {**os.environ, **env}, code, count, pauses)


def _write_kernel_spec(directory: Path, argv: list[str]) -> None:
    directory.mkdir()
    spec = {
        "argv": [*argv, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "bare",
        "language": "python",
    }
    (directory / "kernel.json").write_text(json.dumps(spec))


def _measure(
    manager: KernelManager, env: dict[str, str], code: str, count: int, pauses: Sequence[float]
) -> tuple[float, list[Times]]:
    start = time.perf_counter()
    manager.start_kernel(env=env)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        ready = (time.perf_counter() - start) * 1e3
        return ready, [executions(client, code, count, pause) for pause in pauses]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def executions(client: BlockingKernelClient, code: str, count: int, pause: float) -> Times:
    """One after the other, each until it is idle."""
    values = []
    for _ in range(count):
        time.sleep(pause)
        start = time.perf_counter()
        client.execute_interactive(code, timeout=60, output_hook=lambda _: None)
        values.append((time.perf_counter() - start) * 1e3)
    return Times(values)
