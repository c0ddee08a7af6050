"""Attacks that a reviewer found, beyond the numbered list: each starved more than its own sandbox."""

from __future__ import annotations

import threading
import time

import pytest

pytestmark = pytest.mark.hostile
PROMPT = 20.0  # seconds: a stalled service took as long as the attacker liked, the calm one milliseconds

TRACED_END = """
import ctypes, os, time
libc = ctypes.CDLL(None)
ready, tell = os.pipe()
parent = os.getpid()
if os.fork() == 0:
    libc.ptrace(0x4206, parent, 0, 0)  # PTRACE_SEIZE
    os.write(tell, b"seized")
    time.sleep(600)
print(os.read(ready, 50).decode(), flush=True)
os._exit(0)
"""

FLOOD = """
import json
from jupyter_client.jsonutil import json_default
kernel = get_ipython().kernel
parent = kernel.get_parent()["header"]
header = kernel.session.msg_header("status")
parts = [json.dumps(each, default=json_default).encode() for each in (header, parent)]
body = b'{"metadata":{},"transient":{},"data":{"x":[' + b"[]," * 10_000_000 + b"0]}}"
for _ in range(8):
    kernel.iopub_socket.send_multipart([b"x", b"<IDS|MSG>", b"", *parts, b"{}", body])
print("sent")
"""


def test_an_end_that_is_held_by_a_tracer_delays_nobody_else(attack):
    """A program whose own child traces it cannot be reaped when it ends; other runs go on meanwhile."""
    limits = {"wall_time": 30.0}
    attacker = threading.Thread(target=lambda: attack.run(TRACED_END, limits=limits))
    attacker.start()
    try:
        slowest = 0.0
        while attacker.is_alive() and slowest < PROMPT:
            start = time.monotonic()
            assert attack.run("print(1)")["stdout"] == "1\n"
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < PROMPT
    finally:
        attacker.join()


def test_messages_of_millions_of_empty_lists_do_not_stall_the_service(attack):
    """Forged kernel messages that are cheap to send and dear to parse are not parsed."""
    session = attack.session(limits={"memory_bytes": 1 << 30})
    done = threading.Event()
    slowest = 0.0

    def probe() -> None:
        nonlocal slowest
        while not done.is_set():
            start = time.monotonic()
            attack.http.get("/healthz").raise_for_status()
            slowest = max(slowest, time.monotonic() - start)
            done.wait(0.05)

    watcher = threading.Thread(target=probe)
    watcher.start()
    try:
        session.execute(FLOOD, limits={"wall_time": 60.0})
    finally:
        done.set()
        watcher.join()
    assert slowest < 6.0  # it was a second for each message
    assert session.execute("6 * 7")["result"]["text/plain"] == "42"
