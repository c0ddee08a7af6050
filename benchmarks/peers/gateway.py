"""Jupyter Kernel Gateway: a server for kernels on this host, without isolation; one WebSocket a kernel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

from stopwatch import PANDAS, PRINT, Stopwatch, task
from websocket import WebSocket, create_connection


@contextlib.contextmanager
def gateway() -> Iterator[int]:
    """A gateway on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "kernel_gateway", f"--KernelGatewayApp.port={port}"]
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home, "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"]}
        # In a directory without modules: `-m` looks there first.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=env, cwd=home, **quiet)
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError):
                    call(port, "GET", "/api")
                    break
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit("the kernel gateway does not start")
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def call(port: int, method: str, path: str) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, b"{}" if method == "POST" else None)
    data = connection.getresponse().read()
    connection.close()
    return json.loads(data) if data else None


class Kernel:
    def __init__(self, port: int) -> None:
        self._port = port
        self.id = call(port, "POST", "/api/kernels")["id"]
        self._socket: WebSocket = create_connection(
            f"ws://127.0.0.1:{port}/api/kernels/{self.id}/channels", timeout=60
        )
        self.execute("pass")  # a session is ready when it can execute

    def execute(self, code: str) -> str:
        """The text it prints; returns once the kernel is idle and has replied."""
        message_id = uuid.uuid4().hex
        header = {"msg_id": message_id, "msg_type": "execute_request", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {
            "header": {**header, "username": "", "session": ""},
            "parent_header": {},
            "metadata": {},
            "content": content,
            "channel": "shell",
        }
        self._socket.send(json.dumps(message))
        text, waits = "", {"idle", "reply"}
        while waits:
            heard = json.loads(self._socket.recv())
            if heard["parent_header"].get("msg_id") != message_id:
                continue
            if heard["msg_type"] == "stream":
                text += heard["content"]["text"]
            elif heard["msg_type"] == "execute_reply":
                waits.discard("reply")
            elif heard["msg_type"] == "status" and heard["content"]["execution_state"] == "idle":
                waits.discard("idle")
        return text

    def close(self) -> None:
        self._socket.close()
        call(self._port, "DELETE", f"/api/kernels/{self.id}")


def main() -> None:
    given, watch = task(), Stopwatch()
    with gateway() as port:
        for number in range(given["sessions"]):
            kernel: Kernel = watch.time("start", lambda: Kernel(port))
            watch.expect("first", lambda: kernel.execute(PRINT), "1")  # noqa: B023
            watch.expect("pandas", lambda: kernel.execute(PANDAS), "3")  # noqa: B023
            for _ in range(given["prints"] if number == 0 else 0):
                watch.expect("print", lambda: kernel.execute(PRINT), "1")  # noqa: B023
            watch.time("stop", kernel.close)
    watch.report()


main()
