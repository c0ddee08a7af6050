"""Hostile programs, cases 26 to 34: processes."""

from __future__ import annotations

import pytest
from hostile.watching import PROMPT, marker, processes_with, stream, until

from executor_service.sandboxes.docker_options import GUEST_PROCESSES

pytestmark = pytest.mark.hostile

FORK_BOMB = """
import os
print('before', flush=True)
while True:
    try:
        os.fork()
    except BaseException:
        pass
"""


def test_26_fork_bomb_in_a_run(attack):
    """A fork bomb that catches its errors ends with all its children at the wall time."""
    ran = attack.run(FORK_BOMB, limits={"processes": 100, "wall_time": 2})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    assert ran["duration"] < PROMPT


def test_26_fork_bomb_as_a_command(attack):
    """A command's fork bomb ends at its wall time; the session's state is kept."""
    session = attack.session(limits={"processes": 100})
    session.execute("kept = 7")
    ran = session.command("python3 -", stdin=FORK_BOMB, limits={"wall_time": 2})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    assert ran["duration"] < PROMPT
    assert session.execute("kept")["result"]["text/plain"] == "7"


def test_26_fork_bomb_in_a_kernel(attack):
    """A kernel's fork bomb ends when the kernel is restarted, and the session goes on."""
    session = attack.session(limits={"processes": 100})
    ran = session.execute(FORK_BOMB, limits={"wall_time": 2})
    assert ran["outcome"] in ("timeout", "error")
    assert attack.http.post(f"{session.path}/restart").status_code == 200
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"
    assert int(session.command("ls -d /proc/[0-9]* | wc -l")["stdout"]) < 20


def test_26_shell_fork_bomb_at_the_ceiling(attack):
    """The classic, with as many processes as a caller may ever have."""
    code = "echo before; bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 300"
    ran = attack.run(code, language="bash", limits={"processes": 1024, "wall_time": 3})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    assert ran["duration"] < PROMPT


CHILDREN = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0:
            time.sleep(300)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made)
"""


# What a container's control group allows beyond the limit, for the guest, which counts in the same group.
MORE = {"local": 0, "docker": GUEST_PROCESSES}


def test_27_as_many_children_as_allowed(attack):
    """A limit of N means the program and N - 1 children, and not one more than is there for the guest."""
    ran = attack.run(CHILDREN, limits={"processes": 20})
    assert ran["outcome"] == "ok"
    assert 19 <= int(ran["stdout"]) <= 19 + MORE[attack.backend]


def test_27_the_limit_is_the_sandbox(attack):
    """A session's kernel and its commands share the limit; what has ended counts no more."""
    session = attack.session(limits={"processes": 40})
    first, second = (session.command("python3 -", stdin=CHILDREN) for _ in range(2))
    assert first["outcome"] == second["outcome"] == "ok"
    assert 20 <= int(first["stdout"]) == int(second["stdout"]) <= 39 + MORE[attack.backend]
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


THREAD_BOMB = """
import threading
print('before', flush=True)
stop = threading.Event()
while True:
    threading.Thread(target=stop.wait, daemon=True).start()
"""


def test_28_thread_bomb(attack):
    """Threads count as processes: an error in the program, whose session still works."""
    ran = attack.run(THREAD_BOMB, limits={"processes": 64})
    assert (ran["outcome"], ran["stdout"]) == ("error", "before\n")
    assert "can't start new thread" in ran["stderr"]
    session = attack.session(limits={"processes": 64})
    ran = session.execute(THREAD_BOMB)
    assert (ran["outcome"], ran["error"]["name"], ran["state_lost"]) == ("error", "RuntimeError", False)
    assert session.execute("stop.set(); 1 + 1")["result"]["text/plain"] == "2"


KILL_ALL = """
import os, signal
print('before', flush=True)
for pid in sorted(map(int, filter(str.isdigit, os.listdir('/proc')))):
    for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        try:
            if pid != os.getpid():
                os.kill(pid, number)
        except OSError:
            pass
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass  # there is nobody else
os.kill(os.getpid(), signal.SIGKILL)
"""


def deaths(attack):
    """With one uid for all, the guest's handlers can be killed too, but for process 1."""
    return {"error"} if attack.own_uids else {"error", "sandbox_died"}


def test_29_killing_all_that_it_can_see_in_a_run(attack):
    """A run that kills everything kills nothing but itself; the end is prompt and typed."""
    ran = attack.run(KILL_ALL)
    assert ran["outcome"] in deaths(attack)
    assert ran["signal"] == "SIGKILL" or ran["outcome"] == "sandbox_died"
    assert ran["stdout"] == "before\n" or ran["outcome"] == "sandbox_died"
    assert ran["duration"] < PROMPT


def test_29_killing_all_that_it_can_see_in_a_session(attack):
    """Code that kills everything costs the kernel, which is told; the session goes on or is closed."""
    session = attack.session()
    session.execute("kept = 7")
    assert session.command("python3 -", stdin=KILL_ALL)["outcome"] in deaths(attack)
    if gone(attack, session):
        return
    again = session.execute("'kept' in globals()")
    assert again["state_lost"] is True
    assert again["outcome"] == "ok" or again["error"]["name"] == "KernelDied"
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"
    ran = session.execute(KILL_ALL)
    assert ran["outcome"] in deaths(attack)
    if not gone(attack, session):
        assert (ran["error"]["name"], ran["state_lost"]) == ("KernelDied", True)
        assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def gone(attack, session):
    """Whether the session was closed, which only an ordinary user's may be."""
    closed = attack.http.get(session.path).status_code == 410
    assert not (closed and attack.own_uids)
    return closed


@pytest.mark.parametrize("how", ["os._exit(0)", "sys.exit(0)", "exit(0)", "quit()", "raise SystemExit"])
def test_30_exits_of_a_run(attack, how):
    """However a run exits with 0, it is `ok` with what it printed, and nothing after it happens."""
    ran = attack.run(f"import os, sys\nprint('before', flush=True)\n{how}\nprint('after')")
    assert (ran["outcome"], ran["exit_code"], ran["stdout"]) == ("ok", 0, "before\n")


def test_30_exits_of_a_kernel(attack):
    """Leaving a kernel is an `error`, never `ok`, and the next execution works at once."""
    session = attack.session()
    session.execute("import os, sys\nkept = 7")
    for how in ("sys.exit(0)", "exit(0)", "quit()", "raise SystemExit"):
        ran = session.execute(f"print('before', flush=True)\n{how}\nprint('after')")
        assert (ran["outcome"], ran["error"]["name"], ran["stdout"]) == ("error", "SystemExit", "before\n")
        again = session.execute("kept")
        assert (again["outcome"], again["result"]) == ("ok", {"text/plain": "7"})
    ran = session.execute("print('before', flush=True)\nos._exit(0)")
    assert (ran["outcome"], ran["error"]["name"], ran["stdout"]) == ("error", "KernelDied", "before\n")
    assert ran["state_lost"] is True
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_31_segfault(attack):
    """A crash of the interpreter is `error` with its signal; a session goes on with a fresh kernel."""
    code = "import ctypes\nprint('before', flush=True)\nctypes.string_at(0)"
    ran = attack.run(code)
    assert (ran["outcome"], ran["signal"], ran["stdout"]) == ("error", "SIGSEGV", "before\n")
    session = attack.session()
    ran = session.execute(code)
    assert (ran["outcome"], ran["error"]["name"], ran["stdout"]) == ("error", "KernelDied", "before\n")
    assert "SIGSEGV" in ran["error"]["value"]
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_32_exec_replaces_the_interpreter(attack):
    """The run is what it replaced itself with; a kernel that does so has died."""
    code = "import os\nprint('before', flush=True)\nos.execlp('echo', 'echo', 'replaced')"
    ran = attack.run(code)
    assert (ran["outcome"], ran["stdout"]) == ("ok", "before\nreplaced\n")
    session = attack.session()
    ran = session.execute(code)
    assert (ran["outcome"], ran["error"]["name"], ran["state_lost"]) == ("error", "KernelDied", True)
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_32_exec_of_what_stays(attack):
    """A kernel replaced by a program that goes on has no channels: its end comes at the limit or before."""
    mark = marker()
    session = attack.session()
    ran = session.execute(f"import os\nos.execlp('sleep', 'sleep', '{mark}')", limits={"wall_time": 2})
    assert ran["outcome"] in ("error", "timeout")
    assert ran["state_lost"] is True
    assert ran["duration"] < PROMPT
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"
    until(lambda: not processes_with(mark), "its end")


def test_33_a_thread_prints_after_its_execution(attack):
    """What a thread of an earlier execution prints is shown to no later one."""
    session = attack.session()
    code = """
import os, threading, time
def chatter():
    while True:
        print('late', flush=True)
        time.sleep(0.005)
threading.Thread(target=chatter, daemon=True).start()
"""
    assert session.execute(code)["outcome"] == "ok"
    for _ in range(3):
        ran = session.execute("time.sleep(0.3)\nprint('mine')\n'value'")
        assert ran["outcome"] == "ok"
        assert ran["stdout"] == "mine\n"
        assert ran["result"] == {"text/plain": "'value'"}


LEGITIMATE = """
import multiprocessing, subprocess, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(abs, range(-3, 0)))
    with ThreadPoolExecutor(8) as pool:
        print(sum(pool.map(abs, range(-100, 0))))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(list(pool.map(abs, range(-2, 0))))
    print(subprocess.run(["tr", "a-z", "A-Z"], input="piped", capture_output=True, text=True).stdout)
"""


def test_34_legitimate_use(attack):
    """Pools of processes, threads, and subprocesses work under the default limits."""
    expected = "[3, 2, 1]\n5050\n[2, 1]\nPIPED\n"
    ran = attack.run(LEGITIMATE)
    assert (ran["outcome"], ran["stdout"], ran["stderr"]) == ("ok", expected, "")
    ran = attack.session().execute(LEGITIMATE, limits={"wall_time": 60})
    assert (ran["outcome"], ran["stdout"]) == ("ok", expected), ran


def test_34_a_server_in_a_session(attack):
    """A server that runs as a detached command answers the session's other code, until it is stopped."""
    session = attack.session()
    server = (
        "import http.server\n"
        "s = http.server.HTTPServer(('127.0.0.1', 8000), http.server.SimpleHTTPRequestHandler)\n"
        "print('up', flush=True)\n"
        "s.serve_forever()"
    )
    body = {"argv": ["python3", "-c", server], "detach": True}
    with stream(attack.http, f"{session.path}/commands", body) as events:
        _, started = next(iter(events))
        events.until("up")
    ran = session.execute("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:8000').status")
    assert ran["result"]["text/plain"] == "200"
    assert attack.http.delete(f"{session.path}/commands/{started['id']}").status_code == 204
