"""The contract of a backend: what `executor_service.sandboxes.base` promises, tried on real sandboxes."""

from __future__ import annotations

import asyncio

import pytest
from conformance.programs import run, shell

from executor_service.errors import ImageNotFound, SandboxFailed
from executor_service.sandboxes.base import Backend, Lease, SandboxSpec
from executor_service.sandboxes.guest import ProgramSpec, ask, start_program

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.conformance]
MiB = 1 << 20
DEVICES = frozenset(
    "core fd full mqueue null ptmx pts random shm stderr stdin stdout system tty urandom zero".split()  # noqa: SIM905
)


async def test_a_created_sandbox_is_ready(make):
    """Its guest answers at once."""
    sandbox = await make()
    assert (await ask(sandbox, {"op": "ping"}))["type"] == "pong"
    assert not sandbox.died.is_set()


async def test_an_unknown_image_is_named_with_the_command_that_builds_it(backend: Backend):
    """The error tells the caller what to do."""
    with pytest.raises(ImageNotFound, match="images build nosuch"):
        await backend.create(SandboxSpec(image="nosuch"))


async def test_close_is_idempotent_and_sets_died(make):
    """Closing twice, also at once, is the same as closing once."""
    sandbox = await make()
    await asyncio.gather(sandbox.close(), sandbox.close())
    await sandbox.close()
    assert sandbox.died.is_set()


async def test_a_closed_sandbox_refuses_clearly(make):
    """Whatever is asked of it afterwards is SandboxFailed, promptly."""
    sandbox = await make()
    await sandbox.close()
    with pytest.raises(SandboxFailed):
        await sandbox.connect()
    with pytest.raises(SandboxFailed):
        await sandbox.configure(Lease(memory_bytes=MiB * 64, processes=8, cpus=1.0))


async def test_a_program_runs_and_tells_how_it_ended(make):
    """Both outputs, the exit code and the time come back."""
    ran = await shell(await make(), "echo out; echo err >&2; exit 3")
    assert (ran.stdout, ran.stderr) == ("out\n", "err\n")
    assert (ran.ended.exit_code, ran.ended.signal, ran.ended.reason) == (3, None, None)
    assert ran.ended.duration > 0


async def test_a_signal_is_reported_by_name(make):
    """A program that a signal ended has no exit code."""
    ran = await shell(await make(), "kill -SEGV $$")
    assert (ran.ended.exit_code, ran.ended.signal) == (None, "SIGSEGV")


async def test_an_unknown_program_ends_with_127(make):
    """As in a shell, and the detail names it."""
    ran = await run(await make(), "no-such-program")
    assert (ran.ended.exit_code, ran.ended.reason) == (127, "spawn")
    assert "no-such-program" in (ran.ended.detail or "")


async def test_standard_input_reaches_the_program(make):
    """Several megabytes in, the same out, then the end of input."""
    data = bytes(range(256)) * (16 * 1024)
    ran = await run(await make(), "sh", "-c", "wc -c; cat >/dev/null", stdin=data)
    assert ran.stdout.strip() == str(len(data))


async def test_the_armed_interpreter_becomes_the_program(make):
    """A Python program starts with the image's packages ready, as `__main__`."""
    ran = await run(
        await make("program"), source="import sys, numpy\nprint(__name__, sys.argv, numpy.arange(3).sum())"
    )
    assert ran.stdout == "__main__ ['main.py'] 3\n", ran.stderr
    assert ran.ended.exit_code == 0


async def test_user_code_has_no_power(make):
    """Uid 1000, no capability, no_new_privs, a seccomp filter."""
    ran = await shell(await make(), "id -u; grep -E '^(CapEff|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status")
    lines = ran.stdout.split("\n")
    assert lines[0] == "1000"
    assert lines[1:5] == [
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ]


async def test_only_the_workspace_and_temporary_places_are_writable(make):
    """Everything else of the file system is read-only or not the user's."""
    script = (
        "for d in / /usr /etc /opt /dev /run /proc/sys /var /bin /lib; do "
        "touch $d/x 2>/dev/null && echo wrote $d; done; touch /workspace/x /tmp/x /dev/shm/x && echo ok"
    )
    ran = await shell(await make(), script)
    assert ran.stdout == "ok\n"


async def test_the_host_is_not_visible(make):
    """No home directory, no process and no device of the host."""
    ran = await shell(
        await make(),
        "for d in /root /home /mnt /srv /boot /sys/block /sys/bus /sys/class /sys/dev /sys/firmware "
        "/sys/module; do ls -A $d 2>/dev/null; done; ls /dev /sys/devices 2>/dev/null",
    )
    assert {word for word in ran.stdout.split() if not word.endswith(":")} <= DEVICES


async def test_there_is_no_network_but_loopback(make):
    """One device, up, and nothing beyond it."""
    ran = await shell(
        await make(), "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '; cat /proc/net/route | wc -l"
    )
    assert ran.stdout.split() == ["lo", "1"]


async def test_wall_time_kills_the_whole_tree(make):
    """Children and those who left their session included; the output so far is kept."""
    sandbox = await make()
    ran = await shell(sandbox, "echo before; setsid sleep 300 & (sleep 301 &) ; sleep 302", wall_time=1.0)
    assert ran.stdout == "before\n"
    assert ran.ended.reason == "wall_time"
    left = await shell(sandbox, "pgrep -c sleep || true")
    assert left.stdout == "0\n"


async def test_cpu_time_counts_children(make):
    """Two busy children are stopped although neither passes the limit alone for long."""
    script = "for i in 1 2; do (while :; do :; done) & done; wait"
    ran = await shell(await make(), script, cpu_time=1.0, wall_time=60.0)
    assert ran.ended.reason == "cpu_time"


async def test_output_is_cut_at_its_limit(make):
    """The program is killed, what fits is kept, the stream is marked."""
    ran = await run(await make(), "yes", output_bytes=10_000)
    assert len(ran.stdout) == 10_000
    assert (ran.ended.reason, ran.ended.stdout_truncated, ran.ended.stderr_truncated) == (
        "output_limit",
        True,
        False,
    )


async def test_closing_the_connection_kills_the_tree(make):
    """A caller that goes away leaves nothing running."""
    sandbox = await make()
    spec = ProgramSpec(
        argv=("sh", "-c", "echo up; sleep 300 & sleep 300"),
        env={"PATH": "/usr/bin"},
        wall_time=300,
        output_bytes=1000,
        open_files=64,
    )
    async with start_program(sandbox, spec) as program:
        async for _, data in program:
            assert data == b"up\n"
            break
    async with asyncio.timeout(30):  # the end is only visible from inside, by asking
        while (await shell(sandbox, "pgrep -c sleep || true")).stdout != "0\n":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_memory_is_limited_and_the_kill_is_counted(make):
    """A program over the limit is killed; the guest survives and says so."""
    sandbox = await make(lease=Lease(memory_bytes=96 * MiB, processes=64, cpus=1.0))
    before = (await sandbox.meters()).oom_kills
    ran = await run(sandbox, "python3", "-c", "x = bytearray(400 << 20); import time; time.sleep(20)")
    assert ran.ended.signal == "SIGKILL"
    assert (await sandbox.meters()).oom_kills > before
    assert (await shell(sandbox, "echo alive")).stdout == "alive\n"


async def test_processes_are_limited(make):
    """A fork bomb ends at the limit, and the sandbox still works."""
    sandbox = await make(lease=Lease(memory_bytes=512 * MiB, processes=20, cpus=1.0))
    ran = await shell(sandbox, "for i in $(seq 60); do sleep 30 & done; wait -n; exit 0", wall_time=20.0)
    assert "fork" in ran.stderr
    assert (await shell(sandbox, "echo alive")).stdout == "alive\n"


async def test_disk_is_limited_in_bytes_and_inodes(make):
    """Writing past the size fails with ENOSPC; so does making too many files."""
    sandbox = await make(disk_bytes=8 * MiB)
    ran = await shell(
        sandbox,
        "head -c 20000000 /dev/zero > big; stat -c %s big; rm big; "
        "for i in $(seq 6000); do : > f$i || break; done; ls | wc -l",
    )
    size, count = map(int, ran.stdout.split())
    assert size <= 8 * MiB
    assert count < 6000
    assert "No space left" in ran.stderr


async def test_cpu_count_follows_the_lease(make):
    """`nproc`-like questions by the C library give the leased number."""
    sandbox = await make(lease=Lease(memory_bytes=256 * MiB, processes=64, cpus=1.0))
    ran = await run(sandbox, "python3", "-c", "import os; print(os.cpu_count())")
    assert ran.stdout == "1\n", ran.stderr


async def test_usage_counts_cpu(make):
    """CPU seconds grow with work, where the backend can tell."""
    sandbox = await make()
    await shell(sandbox, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    usage = (await sandbox.meters()).usage
    assert usage.cpu_time is None or usage.cpu_time > 0.05


async def test_sandboxes_share_nothing(make):
    """A file, a process and an abstract socket of one are not there in the other."""
    one, two = await make(), await make()
    await shell(one, "echo secret > /tmp/s; echo secret > /dev/shm/s")
    ran = await shell(two, "ls /tmp /dev/shm; ps -e | wc -l")
    assert "s\n" not in ran.stdout.split("/dev/shm:")[0].replace("/tmp:", "")
    assert "secret" not in ran.stdout


async def test_a_terminal_is_a_terminal(make):
    """With a tty the program sees one of the asked size, and echo comes back."""
    spec = ProgramSpec(
        argv=("bash", "-c", "tty; stty size; read x; echo got $x"),
        env={"PATH": "/usr/bin:/bin"},
        tty=(33, 77),
        wall_time=60,
        output_bytes=10_000,
        open_files=64,
    )
    seen = b""
    async with start_program(await make(), spec) as program:
        await program.write_stdin(b"hello\n")
        async for _, data in program:
            seen += data
    assert b"/dev/pts/" in seen
    assert b"33 77" in seen
    assert b"got hello" in seen
    assert program.ended is not None
    assert program.ended.exit_code == 0


async def test_many_sandboxes_at_once_leave_nothing_behind(backend: Backend):
    """Thirty created and closed together; the guest processes are gone."""

    async def cycle() -> None:
        sandbox = await backend.create(SandboxSpec(image="python"))
        try:
            assert (await ask(sandbox, {"op": "ping"}))["type"] == "pong"
        finally:
            await sandbox.close()

    await asyncio.gather(*(cycle() for _ in range(30)))
    assert await backend.sweep() == 0


async def test_isolation_is_described(backend: Backend):
    """Every aspect names what enforces it, and how exactly."""
    described = backend.isolation()
    assert {"filesystem", "network", "memory", "processes", "cpus", "system_calls"} <= set(described)
    assert {aspect["enforced"] for aspect in described.values()} <= {"exact", "sampled", "none"}
