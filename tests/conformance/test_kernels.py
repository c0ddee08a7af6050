"""Kernels beside the warm one, on every backend: each with state and processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import pytest

from executor_service.errors import SandboxFailed
from executor_service.events import Error, Stdout
from executor_service.images import BASE_ENV
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.guest import ask
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sandboxes.kernel_start import WARM, KernelStart

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.conformance]

DEADLINE = 60.0
Make = Callable[..., Awaitable[Sandbox]]
IPYKERNEL = ("python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
STAYING = """
import subprocess, sys
_ = subprocess.Popen(["sleep", "{seconds}"], start_new_session=True)
"""


def second(name: str = "second", argv: tuple[str, ...] = IPYKERNEL, **env: str) -> KernelStart:
    """Any program that speaks Jupyter's protocol will do; this image has one."""
    return KernelStart(name=name, argv=argv, env={**BASE_ENV, **env})


async def say(kernel: Kernel, code: str) -> str:
    """What a cell prints, or how it fails."""
    said = ""
    async with asyncio.timeout(DEADLINE):
        async for event in kernel.execute(code, output_bytes=65536):
            if isinstance(event, Stdout):
                said += event.text
            elif isinstance(event, Error):
                said += event.name
            elif isinstance(event, KernelDone) and event.status == "died":
                said += f"died {event.exit_code} {event.signal}"
    return said.strip()


async def sleepers(kernel: Kernel) -> str:
    """The seconds of each `sleep` that goes on in the sandbox."""
    code = "import subprocess; print(subprocess.getoutput('pgrep -a sleep'))"
    lines = (await say(kernel, code)).splitlines()
    return " ".join(sorted(line.split()[-1] for line in lines))


async def test_each_kernel_has_its_own_state_and_variables(make: Make) -> None:
    """The warm one's, and two of the same program under other names."""
    sandbox = await make(warm="kernel")
    async with (
        await Kernel.connect(sandbox) as warm,
        await Kernel.connect(sandbox, second(MINE="a")) as one,
        await Kernel.connect(sandbox, second("third", MINE="b")) as other,
    ):
        for kernel, value in ((warm, 1), (one, 2), (other, 3)):
            await say(kernel, f"x = {value}; import os")
        told = [await say(kernel, "print(x, os.environ.get('MINE'))") for kernel in (warm, one, other)]
    assert told == ["1 None", "2 a", "3 b"]


async def test_a_kernel_is_user_code(make: Make) -> None:
    """The user's uid, no capability, and first to die; as every program."""
    code = "print([l.split()[1] for l in open('/proc/self/status') if l[:4] in ('Uid:', 'CapE', 'NoNe')],"
    code += "open('/proc/self/oom_score_adj').read().strip())"
    sandbox = await make()
    async with await Kernel.connect(sandbox, second()) as kernel:
        assert await say(kernel, code) == "['1000', '0000000000000000', '1'] 1000"


async def test_an_interrupt_reaches_the_kernel_that_is_meant(make: Make) -> None:
    """The other one goes on with what it does, and both keep their state."""
    sandbox = await make(warm="kernel")
    async with await Kernel.connect(sandbox) as warm, await Kernel.connect(sandbox, second()) as other:
        await say(other, "x = 5")
        patient = asyncio.create_task(say(warm, "import time; time.sleep(1.5); print('slept')"))
        busy = asyncio.create_task(say(other, "print('on', flush=True)\nwhile True: pass"))
        await asyncio.sleep(0.3)
        await other.interrupt()
        assert await busy == "on\nKeyboardInterrupt"
        assert await patient == "slept"
        assert await say(other, "print(x)") == "5"


async def test_a_fresh_kernel_takes_only_its_own_processes_with_it(make: Make) -> None:
    """Daemons included; those of the other kernel, and its state, stay."""
    sandbox = await make(warm="kernel")
    async with await Kernel.connect(sandbox) as warm:
        async with await Kernel.connect(sandbox, second()) as other:
            await say(warm, "x = 1\n" + STAYING.format(seconds=1001))
            await say(other, STAYING.format(seconds=1002))
            assert await sleepers(warm) == "1001 1002"
        async with await Kernel.connect(sandbox, second(), fresh=True) as other:
            assert await sleepers(warm) == "1001"
            await say(other, "y = 2\n" + STAYING.format(seconds=1003))
            assert await say(warm, "print(x)") == "1"
            async with await Kernel.connect(sandbox, fresh=True) as fresh:
                assert await sleepers(fresh) == "1003"
                assert await say(fresh, "x") == "NameError"
                assert await say(other, "print(y)") == "2"


async def test_a_kernel_outlives_its_connection(make: Make) -> None:
    """Another connection finds its state; nothing is started twice."""
    sandbox = await make()
    async with await Kernel.connect(sandbox, second()) as kernel:
        await say(kernel, "x = 7")
    async with await Kernel.connect(sandbox, second()) as kernel:
        assert await say(kernel, "print(x)") == "7"


async def test_how_a_kernel_ended_is_told(make: Make) -> None:
    """Its exit code, or its signal; then only a fresh one answers."""
    sandbox = await make()
    async with await Kernel.connect(sandbox, second()) as kernel:
        assert await say(kernel, "import os; os._exit(7)") == "died 7 None"
    with pytest.raises(SandboxFailed):
        await Kernel.connect(sandbox, second())
    async with await Kernel.connect(sandbox, second(), fresh=True) as kernel:
        assert await say(kernel, "import os; os.kill(os.getpid(), 9)") == "died None SIGKILL"


async def test_a_kernel_can_be_ended_by_name(make: Make) -> None:
    """The warm one too, which is armed anew when it is wanted again."""
    sandbox = await make(warm="kernel")
    async with await Kernel.connect(sandbox) as warm, await Kernel.connect(sandbox, second()) as other:
        await say(warm, "x = 1")
        await ask(sandbox, {"op": "kernel_end", "name": WARM})
        await asyncio.wait_for(warm.died.wait(), DEADLINE)
        assert await say(other, "print(6 * 7)") == "42"
        await ask(sandbox, {"op": "kernel_end", "name": "second"})
        await asyncio.wait_for(other.died.wait(), DEADLINE)
    async with await Kernel.connect(sandbox) as warm:
        assert await say(warm, "x") == "NameError"


@pytest.mark.parametrize("argv", [("no-such-kernel",), ("false",), ("sh", "-c", "exit 3")])
async def test_a_kernel_that_does_not_start_is_told_at_once(make: Make, argv: tuple[str, ...]) -> None:
    """And the sandbox goes on."""
    sandbox = await make()
    async with asyncio.timeout(DEADLINE / 2):  # its start time is longer
        with pytest.raises(SandboxFailed):
            await Kernel.connect(sandbox, second(argv=argv))
    async with await Kernel.connect(sandbox, second("other")) as kernel:
        assert await say(kernel, "print(1)") == "1"


async def test_a_kernel_without_an_answer_is_given_up(make: Make) -> None:
    """After its start time."""
    sandbox = await make()
    start = KernelStart(name="mute", argv=("sleep", "100"), env=BASE_ENV, start_time=1.0)
    with pytest.raises(SandboxFailed):
        await Kernel.connect(sandbox, start)


async def test_open_files_are_limited_by_name(make: Make) -> None:
    """Each kernel has its own limit."""
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    sandbox = await make(warm="kernel")
    async with await Kernel.connect(sandbox) as warm, await Kernel.connect(sandbox, second()) as other:
        await other.limit_open_files(200)
        assert [await say(kernel, code) for kernel in (warm, other)] == ["1024", "200"]


async def test_code_that_nobody_waits_for_is_interrupted(make: Make) -> None:
    """Its connection ended: the kernel is free for the next."""
    sandbox = await make()
    async with await Kernel.connect(sandbox, second()) as kernel:
        await say(kernel, "x = 1")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                async for _ in kernel.execute("while True: pass", output_bytes=1000):
                    pass
    async with await Kernel.connect(sandbox, second()) as kernel:
        assert await say(kernel, "print(x)") == "1"


async def test_user_code_in_the_kernels_place_breaks_only_its_own_session(make: Make) -> None:
    """Something else listens where the kernel should, and says nothing that makes sense."""
    liar = """
import json, socket, sys
told = json.load(open(sys.argv[1]))
names = ("shell", "iopub", "stdin", "control")
socks = [socket.create_server(("127.0.0.1", told[f"{name}_port"])) for name in names]
import time
conns = [s.accept()[0] for s in socks[::-1]]
for c in conns: c.sendall(b"nonsense" * 1000)
time.sleep(100)
"""
    sandbox = await make()
    start = KernelStart(
        name="liar", argv=("python", "-c", liar, "{connection_file}"), env=BASE_ENV, start_time=3.0
    )
    with pytest.raises(SandboxFailed):
        await Kernel.connect(sandbox, start)
    assert await alive(sandbox)


async def alive(sandbox: Sandbox) -> bool:
    """Whether the guest answers."""
    answer: Mapping[str, object] = await ask(sandbox, {"op": "ping"})
    return answer["type"] == "pong"
