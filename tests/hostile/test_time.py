"""Hostile programs, cases 1 to 15: time and lifecycle."""

from __future__ import annotations

import math
import time

import pytest
from hostile.watching import PROMPT, kill_sandbox_of, marker, processes_with, stream, until

pytestmark = pytest.mark.hostile

SPIN = "print('before', flush=True)\nwhile True: pass"
# A child in a session of its own, one that was forked twice, and one that ignores hang-ups.
DAEMONS = """
import os, subprocess, time
subprocess.Popen(["sleep", "{mark}"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execlp("sleep", "sleep", "{mark}")
    os._exit(0)
subprocess.Popen("nohup sleep {mark} >/dev/null 2>&1 &", shell=True).wait()
while True:  # until all three are what they will be
    arguments = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments.append(open(f"/proc/{{pid}}/cmdline").read())
        except OSError:
            pass
    if sum("sleep" in text and "{mark}" in text and "nohup" not in text for text in arguments) == 3:
        break
    time.sleep(0.01)
print("started", flush=True)
"""
ZOMBIES = """
import os, time
def zombies():
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            pass
    return found
for _ in range(50):
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
end = time.monotonic() + 10
while (left := zombies()) and time.monotonic() < end:
    time.sleep(0.01)
print(left)
"""


def test_01_endless_loop_in_a_run(attack):
    """A run that spins ends at its wall time, with what it printed."""
    ran = attack.run(SPIN, limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    assert "wall time" in ran["detail"]
    assert ran["duration"] < PROMPT


def test_01_endless_loop_in_a_session(attack):
    """An execution that spins is interrupted; the session's state is kept."""
    session = attack.session()
    session.execute("kept = 7")
    ran = session.execute(SPIN, limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"], ran["state_lost"]) == ("timeout", "before\n", False)
    assert ran["duration"] < PROMPT
    assert session.execute("kept")["result"]["text/plain"] == "7"


def test_01_endless_loop_against_cpu_time(attack):
    """What burns CPU is stopped by the CPU time, long before the wall time."""
    ran = attack.run(SPIN, limits={"cpu_time": 0.5, "wall_time": 120})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    assert "CPU time" in ran["detail"]
    assert ran["duration"] < PROMPT


def test_02_sleep_past_the_limit(attack):
    """What sleeps uses no CPU and is stopped by the wall time, in runs, executions and commands."""
    code, limits = (
        "import time\nprint('before', flush=True)\ntime.sleep(300)",
        {"wall_time": 1, "cpu_time": 60},
    )
    session = attack.session()
    for ran in (
        attack.run(code, limits=limits),
        session.execute(code, limits=limits),
        session.command("echo before; sleep 300", limits=limits),
    ):
        assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
        assert "wall time" in ran["detail"]
        assert ran["duration"] < PROMPT


def test_03_timeout_kills_the_children_of_the_shell(attack):
    """At the timeout every child of the shell goes, not the shell alone."""
    mark = marker()
    script = f"echo before; sleep {mark} & (sleep {mark} &) ; sh -c 'sleep {mark}; true'"
    ran = attack.run(script, language="bash", limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    until(lambda: not processes_with(mark), "the children's end")
    ran = attack.session().command(script, limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    until(lambda: not processes_with(mark), "the children's end")


def test_04_ignoring_every_signal(attack):
    """A program that ignores SIGTERM and all its kin is killed at its limit, or when it is stopped."""
    ignore = "trap '' HUP INT QUIT TERM XCPU USR1; echo up; while :; do sleep 1; done"
    ran = attack.run(ignore, language="bash", limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "up\n")
    session = attack.session()
    with stream(attack.http, f"{session.path}/commands", {"command": ignore, "detach": True}) as events:
        _, started = next(iter(events))
        events.until("up")
        command = f"{session.path}/commands/{started['id']}"
        assert attack.http.post(f"{command}/signal", json={"signal": "SIGTERM"}).status_code == 204
        assert attack.http.get(command).json()["state"] == "running"
        assert attack.http.delete(command).status_code == 204
        assert events.end()["outcome"] == "interrupted"


def test_05_daemons_do_not_outlive_a_run(attack):
    """What left its session or was forked twice is gone after the run, and does not delay its end."""
    mark = marker()
    ran = attack.run(DAEMONS.format(mark=mark))
    assert (ran["outcome"], ran["stdout"]) == ("ok", "started\n")
    assert ran["duration"] < PROMPT
    until(lambda: not processes_with(mark), "the daemons' end")


def test_05_daemons_do_not_outlive_a_command(attack):
    """A command's daemons end with it, while the session goes on."""
    mark = marker()
    session = attack.session()
    session.execute("kept = 7")
    ran = session.command("python3 -", stdin=DAEMONS.format(mark=mark))
    assert (ran["outcome"], ran["stdout"]) == ("ok", "started\n")
    until(lambda: not processes_with(mark), "the daemons' end")
    assert session.execute("kept")["result"]["text/plain"] == "7"


def test_05_daemons_do_not_outlive_their_kernel(attack):
    """What an execution left running ends when the kernel is restarted."""
    mark = marker()
    session = attack.session()
    assert session.execute(DAEMONS.format(mark=mark))["outcome"] == "ok"
    assert len(processes_with(mark)) == 3
    assert attack.http.post(f"{session.path}/restart").status_code == 200
    until(lambda: not processes_with(mark), "the daemons' end")


def test_06_orphans_are_reaped(attack):
    """Orphans that end are nobody's zombies, below a run, a command and a kernel."""
    session = attack.session()
    for ran in (attack.run(ZOMBIES), session.execute(ZOMBIES), session.command("python3 -", stdin=ZOMBIES)):
        assert (ran["outcome"], ran["stdout"]) == ("ok", "0\n")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGXCPU", "SIGALRM"])
def test_07_death_by_its_own_signal(attack, name):
    """A program that kills itself has not timed out: `error` with the signal's name."""
    code = (
        f"import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.{name})\nsignal.pause()"
    )
    ran = attack.run(code, limits={"wall_time": 60, "cpu_time": 60})
    assert (ran["outcome"], ran["signal"], ran["exit_code"], ran["stdout"]) == (
        "error",
        name,
        None,
        "before\n",
    )


def test_07_a_kernel_that_kills_itself(attack):
    """A kernel that kills itself is `error` with KernelDied; the session goes on with a fresh one."""
    session = attack.session()
    ran = session.execute(
        "import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (ran["outcome"], ran["error"]["name"], ran["state_lost"]) == ("error", "KernelDied", True)
    assert ran["stdout"] == "before\n"
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_08_catching_the_interrupt(attack):
    """Code that swallows KeyboardInterrupt loses its kernel; the next execution works."""
    session = attack.session()
    code = (
        "import time\n"
        "print('before', flush=True)\n"
        "while True:\n"
        "  try:\n"
        "    time.sleep(1)\n"
        "  except BaseException: pass"
    )
    ran = session.execute(code, limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"], ran["state_lost"]) == ("timeout", "before\n", True)
    assert ran["duration"] < PROMPT
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_08_ignoring_the_interrupt_of_a_caller(attack):
    """A caller who interrupts such code has no effect; deleting the execution ends it."""
    session = attack.session()
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(1)"
    )
    body = {"code": code, "detach": True, "limits": {"wall_time": 120}}
    with stream(attack.http, f"{session.path}/executions", body) as events:
        _, started = next(iter(events))
        events.until("up")
        assert attack.http.post(f"{session.path}/interrupt").status_code == 204
        assert attack.http.delete(f"{session.path}/executions/{started['id']}").status_code == 204
        ended = events.end()
    assert (ended["outcome"], ended["state_lost"]) == ("interrupted", True)
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_09_c_code_that_never_looks(attack):
    """C code that never looks for signals is killed; the session goes on with a fresh kernel."""
    code = "import itertools\nprint('before', flush=True)\nsum(itertools.repeat(0))"
    ran = attack.run(code, limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"]) == ("timeout", "before\n")
    session = attack.session()
    ran = session.execute(code, limits={"wall_time": 1})
    assert (ran["outcome"], ran["stdout"], ran["state_lost"]) == ("timeout", "before\n", True)
    assert ran["duration"] < PROMPT
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_10_hanging_up_during_a_run(attack):
    """A caller who hangs up stops the run and all that it started."""
    mark = marker()
    body = {"language": "bash", "code": f"echo up; sleep {mark}", "limits": {"wall_time": 300}}
    with stream(attack.http, "/v1/runs", body) as events:
        events.until("up")
        until(lambda: processes_with(mark), "the program")
    until(lambda: not processes_with(mark), "its end")


def test_10_hanging_up_during_an_execution(attack):
    """A caller who hangs up frees the kernel; the next execution works, with the state kept."""
    session = attack.session()
    session.execute("kept = 7")
    body = {"code": "import time\nprint('up', flush=True)\ntime.sleep(300)", "limits": {"wall_time": 300}}
    with stream(attack.http, f"{session.path}/executions", body) as events:
        events.until("up")
        assert attack.http.get(session.path).json()["state"] == "busy"
    until(lambda: attack.http.get(session.path).json()["state"] == "ready", "a free kernel")
    assert session.execute("kept")["result"]["text/plain"] == "7"


def test_11_a_run_whose_sandbox_is_killed(attack):
    """A run whose sandbox vanishes ends at once as `sandbox_died`, with what it printed."""
    mark = marker()
    body = {"language": "bash", "code": f"echo up; sleep {mark}", "limits": {"wall_time": 300}}
    with stream(attack.http, "/v1/runs", body) as events:
        events.until("up")
        until(lambda: processes_with(mark), "the program")
        killed = time.monotonic()
        kill_sandbox_of(processes_with(mark)[0])
        assert events.end()["outcome"] == "sandbox_died"
    assert time.monotonic() - killed < PROMPT


def test_11_a_session_whose_sandbox_is_killed(attack):
    """What goes on in a session whose sandbox vanishes ends as `sandbox_died`; the session is closed."""
    mark = marker()
    session = attack.session()
    sleeping = {"code": "import time\nprint('up', flush=True)\ntime.sleep(300)", "limits": {"wall_time": 300}}
    command = {"command": f"echo up; sleep {mark}", "limits": {"wall_time": 300}}
    with (
        stream(attack.http, f"{session.path}/executions", sleeping) as execution,
        stream(attack.http, f"{session.path}/commands", command) as running,
    ):
        execution.until("up")
        running.until("up")
        until(lambda: processes_with(mark), "the program")
        kill_sandbox_of(processes_with(mark)[0])
        assert execution.end()["outcome"] == "sandbox_died"
        assert running.end()["outcome"] == "sandbox_died"
    until(lambda: attack.http.get(session.path).status_code == 410, "the session's end")
    refused = attack.http.post(f"{session.path}/executions", json={"code": "1"})
    assert (refused.status_code, refused.json()["code"]) == (410, "session_closed")


@pytest.mark.parametrize("value", ["0", "-1", "NaN", "Infinity", "1e999", "1e300", '"5"', "true", "[]"])
def test_12_limits_that_would_mean_for_ever(attack, value):
    """Zero, negative, NaN, infinite and huge limits are refused, wherever a limit may be given."""
    session = attack.session()
    headers = {"content-type": "application/json"}
    for path, start, names in (
        (
            "/v1/runs",
            '"language": "python", "code": "1"',
            ("wall_time", "cpu_time", "memory_bytes", "processes", "cpus", "disk_bytes"),
        ),
        ("/v1/sessions", '"language": "python"', ("memory_bytes", "processes", "cpus", "disk_bytes")),
        (f"{session.path}/executions", '"code": "1"', ("wall_time", "cpu_time", "output_bytes")),
        (f"{session.path}/commands", '"command": "true"', ("wall_time", "cpu_time", "open_files")),
    ):
        for name in names:
            text = f'{{{start}, "limits": {{"{name}": {value}}}}}'
            answer = attack.http.post(path, content=text.encode(), headers=headers)
            assert answer.status_code == 422, (path, name, answer.text)
            assert answer.json()["code"] in ("invalid_request", "limit_too_high")
            assert f"limits.{name}" in answer.json()["detail"]
    for name in ("ttl", "idle_ttl"):
        answer = attack.http.post("/v1/sessions", content=f'{{"{name}": {value}}}'.encode(), headers=headers)
        assert answer.status_code == 422, (name, answer.text)


def test_13_use_after_expiry(attack):
    """A session whose time is over is closed under what runs in it, and answers 410 on every verb."""
    session = attack.session(ttl=2)
    ran = session.execute("import time\nprint('up', flush=True)\ntime.sleep(300)", limits={"wall_time": 300})
    assert (ran["outcome"], ran["stdout"]) == ("interrupted", "up\n")
    until(lambda: attack.http.get(session.path).status_code == 410, "the session's end")
    for method, path, body in (
        ("POST", "/executions", {"code": "1"}),
        ("POST", "/commands", {"command": "true"}),
        ("POST", "/renew", {"ttl": 60}),
        ("POST", "/interrupt", {}),
        ("POST", "/restart", {}),
        ("GET", "/executions", None),
        ("GET", "/files", None),
        ("GET", "/files/x", None),
        ("GET", "", None),
    ):
        refused = attack.http.request(method, session.path + path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (410, "session_closed"), path
        assert refused.json()["detail"]
    assert attack.http.delete(session.path).status_code == 204


def test_13_idle_expiry(attack):
    """A session that nobody uses is closed after its idle time."""
    session = attack.session(idle_ttl=1)
    assert session.execute("1 + 1")["outcome"] == "ok"
    time.sleep(1)  # a look is no use, but nothing can have happened before
    until(lambda: attack.http.get(session.path).status_code == 410, "the session's end")


def test_14_a_limit_shorter_than_the_start(attack):
    """A limit that is over before the program can start is a timeout, not a failure."""
    tiny = {"wall_time": math.nextafter(0, 1)}
    for language, code in (("python", SPIN), ("bash", "sleep 300")):
        ran = attack.run(code, language=language, limits=tiny)
        assert ran["outcome"] == "timeout"
    session = attack.session()
    session.execute("kept = 7")
    ran = session.execute(SPIN, limits=tiny)
    assert ran["outcome"] == "timeout"
    # An interrupt before the code has begun may cost the state, and then says so.
    assert session.execute("'kept' in globals()")["result"]["text/plain"] == str(not ran["state_lost"])
    assert session.command("sleep 300", limits=tiny)["outcome"] == "timeout"


@pytest.mark.slow
def test_15_a_silent_stream_stays_open(attack):
    """A stream in which nothing happens carries comments, and its end arrives."""
    body = {"language": "python", "code": "import time; time.sleep(11); print('late')"}
    with stream(attack.http, "/v1/runs", body) as events:
        events.until("late")
        assert events.comments >= 1
        assert events.end()["outcome"] == "ok"
