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

# Each orphan stays below its own limit and is reaped by process 1 when nobody looks.
ORPHANS = """
import os, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
end = time.time() + 60
while time.time() < end:
    read, write = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            burn(0.5)
            os.write(write, b"x")
        os._exit(0)
    os.wait()
    os.close(write)
    os.read(read, 1)
    os.close(read)
"""

STOPPER = """
import os, signal, time
seen = set()
end = time.time() + 60
while time.time() < end:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) > 1 and name not in seen:
            try:
                session = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[3]
            except OSError:
                continue
            seen.add(name)
            until = time.time() + 0.002
            while session == "1" and time.time() < until:
                try:
                    os.kill(int(name), signal.SIGSTOP)
                    break
                except PermissionError:
                    pass
                except OSError:
                    break
"""

SPEAKS_FIRST = """
import os, site
directory = site.getusersitepackages()
os.makedirs(directory, exist_ok=True)
line = "import os,time;[os.write(3, b) or time.sleep(20) for b in (bytes([0, 2, 0, 0, 0]), *[b'x'] * 30)]"
open(directory + "/first.pth", "w").write(line)
print(directory)
"""


@pytest.mark.root  # with one uid for all, orphans of a warm program are reaped where nobody adds them up
def test_cpu_time_of_orphans_counts(attack):
    """Children of children that end unseen are added up all the same."""
    ran = attack.run(ORPHANS, limits={"cpu_time": 2.0, "wall_time": 60.0})
    assert (ran["outcome"], ran["detail"]) == ("timeout", "CPU time of 2 s exceeded")


@pytest.mark.root  # with one uid for all, user code can stop every handler of its own sandbox
def test_a_helper_that_user_code_stops_does_not_stop_process_1(attack):
    """What has the user's uid may be stopped by it: nobody waits for that without a limit."""
    session = attack.session()
    start = f"import subprocess\nopen('stop.py', 'w').write({STOPPER!r})\n"
    start += "others = [subprocess.Popen(['python3', 'stop.py'], start_new_session=True) for _ in range(2)]"
    session.execute(start)
    for number in range(12):
        begun = time.monotonic()
        session.http.post(
            f"{session.path}/executions", json={"code": "1", "limits": {"open_files": 900 + number}}
        )
        assert time.monotonic() - begun < 60.0
    assert session.http.delete(session.path).status_code == 204


def test_what_speaks_first_in_a_fresh_interpreter_does_not_stop_process_1(attack):
    """A session's own start-up files run before ours in its second interpreter; only that session suffers."""
    session = attack.session()
    session.execute(SPEAKS_FIRST)
    session.http.post(f"{session.path}/restart", timeout=150.0)
    assert session.http.delete(session.path).status_code == 204


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
