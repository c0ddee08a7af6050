"""What outlives a connection: kept programs and executions, and what is stashed, on real sandboxes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conformance.programs import shell

from executor_service.errors import SandboxFailed
from executor_service.events import InputRequest, Result, Stdout
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.guest import (
    Ended,
    NotKept,
    Program,
    ProgramSpec,
    attach_program,
    start_program,
)
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sandboxes.stash import drop, fetch, kept, store

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.conformance]
ENV = {"PATH": "/usr/bin:/bin"}
KERNEL = "kernel/python"


def bash(
    script: str, *, wall_time: float = 60.0, stdin: bool = False, output_bytes: int = 1 << 20
) -> ProgramSpec:
    """A shell script."""
    return ProgramSpec(
        argv=("bash", "-c", script),
        env=ENV,
        stdin=stdin,
        wall_time=wall_time,
        output_bytes=output_bytes,
        open_files=256,
    )


async def leave(program: Program, *, after: bytes) -> None:
    """Listen until `after` was said, then drop the connection."""
    async with program:
        heard = b""
        async for _, data in program:
            heard += data
            if after in heard:
                return


async def take_up(
    sandbox: Sandbox, spec: ProgramSpec, name: str
) -> tuple[list[tuple[str, bytes]], Ended | None]:
    """All that a kept program says, and its end."""
    async with attach_program(sandbox, spec, name) as program:
        return [each async for each in program], program.ended


async def gone(sandbox: Sandbox, name: str) -> None:
    """Until nothing is kept under that name."""
    async with asyncio.timeout(10):
        while name in await kept(sandbox):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_kept_program_outlives_its_connection(make):
    """What it says meanwhile, before and afterwards comes in one row, as often as it is asked for."""
    sandbox, spec = await make(), bash("for n in 1 2 3 4 5; do echo $n; sleep 0.2; done; exit 3")
    await leave(start_program(sandbox, spec, keep="cmd_1"), after=b"2\n")
    said, ended = await take_up(sandbox, spec, "cmd_1")
    assert b"".join(data for _, data in said) == b"1\n2\n3\n4\n5\n"
    assert ended is not None
    assert ended.exit_code == 3
    assert await take_up(sandbox, spec, "cmd_1") == (said, ended)
    await drop(sandbox, "cmd_1")
    await gone(sandbox, "cmd_1")
    with pytest.raises(NotKept):
        await take_up(sandbox, spec, "cmd_1")


async def test_an_attached_program_still_ends_with_its_connection(make):
    """Keeping is asked for, never a default."""
    sandbox = await make()
    await leave(start_program(sandbox, bash("echo on; sleep 300")), after=b"on")
    assert await kept(sandbox) == []
    async with asyncio.timeout(10):
        while (await shell(sandbox, "pgrep -c sleep || true")).stdout != "0\n":
            pass


async def test_a_kept_program_takes_input_from_a_later_connection(make):
    """And says whether its input is still open."""
    sandbox, spec = await make(), bash("echo on; cat; echo end", stdin=True)
    await leave(start_program(sandbox, spec, keep="cmd_1"), after=b"on")
    async with attach_program(sandbox, spec, "cmd_1") as program:
        assert program.stdin_open
        await program.write_stdin(b"hello\n")
        await program.close_stdin()
        assert b"".join([data async for _, data in program]) == b"on\nhello\nend\n"
    async with attach_program(sandbox, spec, "cmd_1") as program:
        assert not program.stdin_open


async def test_a_kept_program_is_ended_by_its_limits_and_when_it_is_dropped(make):
    """Wall time is the guest's to enforce, service or no service; dropping kills the tree."""
    sandbox, spec = await make(), bash("echo on; sleep 300", wall_time=1.0)
    await leave(start_program(sandbox, spec, keep="cmd_1"), after=b"on")
    await asyncio.sleep(1.5)
    _, ended = await take_up(sandbox, spec, "cmd_1")
    assert ended is not None
    assert ended.reason == "wall_time"
    await leave(start_program(sandbox, bash("echo on; setsid sleep 300"), keep="cmd_2"), after=b"on")
    await drop(sandbox, "cmd_2")
    await gone(sandbox, "cmd_2")
    assert (await shell(sandbox, "pgrep -c sleep || true")).stdout == "0\n"


async def test_a_kept_program_waits_when_nobody_listens(make):
    """Its output is not lost: past what is held, it is not read."""
    sandbox = await make()
    spec = bash("echo on; sleep 0.5; yes 0123456789 | head -c 20000000", output_bytes=64 << 20)
    await leave(start_program(sandbox, spec, keep="cmd_1"), after=b"on")
    await asyncio.sleep(2)
    async with attach_program(sandbox, spec, "cmd_1") as program:
        size, events = 0, 0
        async for _, data in program:
            size, events = size + len(data), events + 1
            await program.mark(lambda: {"events": events})  # noqa: B023
    assert size == 20_000_003
    async with attach_program(sandbox, spec, "cmd_1") as program:
        tail = [data async for _, data in program]
    assert program.state["events"] + len(tail) == events
    assert 7_000_000 < sum(map(len, tail)) < 11_000_000


async def test_what_writes_byte_by_byte_makes_few_frames(make):
    """However long it goes on: each frame costs its keeper."""
    sandbox = await make()
    spec = bash("while :; do printf x; done", wall_time=6.0)
    async with start_program(sandbox, spec, keep="cmd_1") as program:
        chunks = [data async for _, data in program]
    assert len(chunks) < 10_500


async def cell(kernel: Kernel, code: str, **more: Any) -> list[Any]:
    """What an execution shows, and its end."""
    return [each async for each in kernel.execute(code, output_bytes=1 << 20, **more)]


async def leave_cell(kernel: Kernel, code: str, text: str, **more: Any) -> None:
    """Execute until `text` was shown, then drop the connection."""
    async for event in kernel.execute(code, output_bytes=1 << 20, **more):
        if (isinstance(event, Stdout) and text in event.text) or isinstance(event, InputRequest):
            break
    await kernel.close()


async def test_a_kept_execution_outlives_its_connection(make):
    """Its events are the same for every service that comes, and the kernel goes on after it."""
    sandbox = await make("kernel")
    kernel = await Kernel.connect(sandbox, keep=KERNEL)
    code = "import time\nfor n in range(5):\n    print(n, flush=True); time.sleep(0.2)\nn"
    await leave_cell(kernel, code, "1", keep="exe_1")
    shown = []
    for _ in range(2):
        kernel = await Kernel.attach(sandbox, KERNEL, "exe_1", output_bytes=1 << 20)
        shown.append([each async for each in kernel.resume()])
        assert kernel.times.ended_at is not None
        if len(shown) == 1:
            await kernel.close()
    assert shown[0] == shown[1]
    assert "".join(each.text for each in shown[0] if isinstance(each, Stdout)) == "0\n1\n2\n3\n4\n"
    assert isinstance(shown[0][-1], KernelDone)
    with pytest.raises(NotKept):
        await Kernel.attach(sandbox, KERNEL, "exe_other", output_bytes=1)
    async with kernel:
        await kernel.forget()
    async with await Kernel.connect(sandbox, keep=KERNEL) as kernel:
        assert any(isinstance(each, Result) for each in await cell(kernel, "n + 1"))


async def test_an_execution_that_is_not_kept_is_interrupted(make):
    """When its connection ends; state and kernel stay."""
    sandbox = await make("kernel")
    kernel = await Kernel.connect(sandbox, keep=KERNEL)
    code = (
        "import time\ntry:\n    print('on', flush=True); time.sleep(300)\n"
        "except KeyboardInterrupt:\n    x = 1"
    )
    await leave_cell(kernel, code, "on")
    async with await Kernel.connect(sandbox, keep=KERNEL) as kernel:
        assert [each.data for each in await cell(kernel, "x") if isinstance(each, Result)] == [
            {"text/plain": "1"}
        ]


async def test_an_answer_reaches_a_kept_execution_once(make):
    """A later service knows whether it waits, and for how long it did."""
    sandbox = await make("kernel")
    kernel = await Kernel.connect(sandbox, keep=KERNEL)
    await leave_cell(kernel, "a = input('?'); print(a)", "never", keep="exe_1", allow_input=True)
    await asyncio.sleep(0.5)
    kernel = await Kernel.attach(sandbox, KERNEL, "exe_1", output_bytes=1 << 20)
    async for event in kernel.resume():
        if isinstance(event, InputRequest):
            await kernel.caught_up.wait()
            assert kernel.waits
            await kernel.answer("yes")
    await kernel.close()
    async with await Kernel.attach(sandbox, KERNEL, "exe_1", output_bytes=1 << 20) as kernel:
        shown = [each async for each in kernel.resume()]
        assert Stdout(text="yes\n") in shown
        assert not kernel.waits
        assert 0.4 < kernel.times.waited < 10
        await kernel.forget()


async def test_the_stash_holds_what_it_was_given(make):
    """Megabytes as well as nothing; user code sees none of it."""
    sandbox = await make()
    data = bytes(range(256)) * 16384
    await store(sandbox, "env", data)
    await store(sandbox, "empty", b"", seconds=60)
    assert (await fetch(sandbox, "env"), await fetch(sandbox, "empty")) == (data, b"")
    assert await fetch(sandbox, "other") is None
    with pytest.raises(SandboxFailed):
        await store(sandbox, "large", bytes(17 << 20))
    ran = await shell(
        sandbox, "ls /proc/1/fd 2>&1; grep -l stash /proc/[0-9]*/maps 2>/dev/null; ls -l /proc/self/fd"
    )
    assert "stash" not in ran.stdout
