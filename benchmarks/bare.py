"""The same work without us: a bare interpreter, and a bare kernel with jupyter_client."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from benchmarks.load import Times
from executor_service import images


def python(image: images.BuiltImage, code: str, count: int) -> Times:
    """`python3 main.py`, once after the other, with the image's packages and its real interpreter."""
    argv, env = images.host_command(image)
    values = []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "main.py")
        file.write_text(code)
        for _ in range(count):
            start = time.perf_counter()
            subprocess.run([*argv, str(file)], env=env, check=True, stdout=subprocess.PIPE)
            values.append((time.perf_counter() - start) * 1e3)
    return Times(values)


def kernel(image: images.BuiltImage, code: str, count: int) -> tuple[float, Times]:
    """Start a kernel (ms until it is ready), then execute `code` again and again (ms until idle)."""
    argv, env = images.host_command(image)
    with tempfile.TemporaryDirectory() as directory:
        _write_kernel_spec(Path(directory, "bare"), argv)
        manager = KernelManager(
            kernel_name="bare", kernel_spec_manager=KernelSpecManager(kernel_dirs=[directory])
        )
        return _measure(manager, {**os.environ, **env}, code, count)


def _write_kernel_spec(directory: Path, argv: list[str]) -> None:
    directory.mkdir()
    spec = {
        "argv": [*argv, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "bare",
        "language": "python",
    }
    (directory / "kernel.json").write_text(json.dumps(spec))


def _measure(manager: KernelManager, env: dict[str, str], code: str, count: int) -> tuple[float, Times]:
    start = time.perf_counter()
    manager.start_kernel(env=env)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        ready = (time.perf_counter() - start) * 1e3
        values = []
        for _ in range(count):
            start = time.perf_counter()
            client.execute_interactive(code, timeout=60, output_hook=lambda _: None)
            values.append((time.perf_counter() - start) * 1e3)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return ready, Times(values)
