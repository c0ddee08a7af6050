"""The kernel from the host's side, against a real ipykernel behind a real relay."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from executor_service.errors import NotWaitingForInput, SandboxFailed
from executor_service.events import (
    ClearOutput,
    Display,
    Error,
    Event,
    InputRequest,
    Result,
    Stderr,
    Stdout,
    to_json,
)
from executor_service.sandboxes.connection import send_json
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sessions.ports import Guest

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
DEADLINE = 60.0


class SocketSandbox:
    """A sandbox as far as a kernel needs one: a place to connect to."""

    id = "test"

    def __init__(self, path: str) -> None:
        self.path = path

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection."""
        return await asyncio.open_unix_connection(self.path)


@contextlib.contextmanager
def serving(directory: Path, *modules: str) -> Iterator[SocketSandbox]:
    """A test guest that has preloaded `modules`."""
    python = os.environ["CODECELL_TEST_PYTHON"]
    home, path = directory / "home", directory / "guest"
    home.mkdir()
    script = ROOT / "tests" / "sandboxes" / "kernel_guest.py"
    environment = {
        "HOME": str(home),
        "TMPDIR": str(directory),
        "PATH": f"{Path(python).parent}:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MPLCONFIGDIR": str(directory),
    }
    process = subprocess.Popen(
        [python, str(script), str(ROOT), str(path), *modules], env=environment, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield SocketSandbox(str(path))
        asyncio.run(_stop(str(path)))
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _stop(path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    await send_json(writer, {"op": "stop"})
    await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketSandbox]:
    """One guest for all tests of this file."""
    with serving(tmp_path_factory.mktemp("guest")) as sandbox:
        yield sandbox


@pytest.fixture
async def kernel(guest: SocketSandbox) -> AsyncIterator[Kernel]:
    """A fresh kernel."""
    async with await Kernel.connect(guest, fresh=True) as started:  # type: ignore[arg-type]
        yield started


async def run(kernel: Kernel, code: str, *, output_bytes: int = MIB) -> tuple[list[Event], KernelDone]:
    """What an execution shows, and its end; past a limit it is interrupted, as sessions do it."""
    kernel.over_limit.clear()
    watch = asyncio.create_task(_interrupt_at_limit(kernel))
    try:
        async with asyncio.timeout(DEADLINE):
            events = [event async for event in kernel.execute(code, output_bytes=output_bytes)]
    finally:
        watch.cancel()
        await asyncio.wait([watch])
    done = events.pop()
    assert isinstance(done, KernelDone)
    return events, done  # type: ignore[return-value]


async def _interrupt_at_limit(kernel: Kernel) -> None:
    await kernel.over_limit.wait()
    await kernel.interrupt()


def text_of(events: list[Event], kind: type[Stdout | Stderr] = Stdout) -> str:
    """All text on one stream."""
    return "".join(event.text for event in events if isinstance(event, kind))


def error_in(events: list[Event]) -> Error:
    """The only error."""
    [error] = [event for event in events if isinstance(event, Error)]
    return error


async def test_state_is_kept_between_executions(kernel: Kernel) -> None:
    """A name bound in one execution is there in the next, and counts go up."""
    assert await run(kernel, "x = 20") == ([], KernelDone(status="ok", execution_count=1))
    events, done = await run(kernel, "x + 1")
    assert events == [Result(data={"text/plain": "21"}, execution_count=2)]
    assert done == KernelDone(status="ok", execution_count=2)


async def test_streams_come_apart_and_in_order(kernel: Kernel) -> None:
    """Both streams are told apart; text of one stream keeps its order, descriptors included."""
    code = "import os, sys\nfor i in range(3):\n  print(i); os.write(1, b'raw\\n'); os.system('echo sh')\n"
    code += "print('e', file=sys.stderr)"
    events, _ = await run(kernel, code)
    assert text_of(events) == "".join(f"{i}\nraw\nsh\n" for i in range(3))
    assert text_of(events, Stderr) == "e\n"


async def test_output_arrives_while_code_runs(kernel: Kernel) -> None:
    """The first line is seen long before the cell ends."""
    code = "import time, sys\nprint('first')\nfor _ in range(400):\n  time.sleep(.05)"
    execution = kernel.execute(code, output_bytes=MIB)
    async with asyncio.timeout(10):
        assert await anext(execution) == Stdout(text="first\n")
        await kernel.interrupt()
        assert isinstance(await anext(execution), Error)
    await execution.aclose()


async def test_a_sessions_variables(guest: SocketSandbox) -> None:
    """They are there from the first execution on, and so is the time zone; nothing of it is seen."""
    env = {"TZ": "Asia/Tokyo", "A": "b"}
    kernel = await Guest().kernel(guest, fresh=True, env=env)  # type: ignore[arg-type]
    async with kernel:
        code = "import os, time\nprint(os.environ['A'], time.tzname[0], [n for n in dir() if 'os' in n])"
        events, done = await run(kernel, code)
    assert (text_of(events), done.execution_count) == ("b JST ['os']\n", 1)


async def test_variables_that_cannot_be_set(guest: SocketSandbox) -> None:
    """The kernel is not given out without them."""
    with pytest.raises(SandboxFailed, match="variables"):
        await Guest().kernel(guest, fresh=True, env={"=": "x"})  # type: ignore[arg-type]


async def test_an_error_has_a_plain_traceback(kernel: Kernel) -> None:
    """The exception is told once, without terminal escapes."""
    events, done = await run(kernel, "def f():\n  raise ValueError('\\x1b[31mred')\nf()")
    error = error_in(events)
    assert (error.name, error.value, done.status) == ("ValueError", "red", "error")
    assert "\x1b" not in "".join(error.traceback)
    assert "line 2" in "".join(error.traceback)


@pytest.mark.parametrize("code", ["exit()", "exit(0)", "quit", "import sys; sys.exit(3)", "raise SystemExit"])
async def test_exit_ends_the_cell_and_not_the_kernel(kernel: Kernel, code: str) -> None:
    """Leaving is an error of that cell; state is kept."""
    await run(kernel, "x = 1")
    events, done = await run(kernel, code)
    assert (error_in(events).name, done.status) == ("SystemExit", "error")
    assert text_of(events, Stderr) == ""
    assert (await run(kernel, "x"))[0] == [Result(data={"text/plain": "1"}, execution_count=3)]


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        (r"print('\ud800 \udc80 \x00 é')", "\ufffd \ufffd \0 é\n"),
        (r"import os; os.write(1, b'\xff\xc3'); os.write(1, b'\xa9\n')", "\ufffdé\n"),
        (r"import sys; sys.stdout.write('')", ""),
    ],
)
async def test_any_text_survives(kernel: Kernel, code: str, printed: str) -> None:
    """Lone surrogates and invalid bytes become U+FFFD, NUL stays; all of it is valid JSON."""
    events, done = await run(kernel, code)
    assert (text_of(events), done.status) == (printed, "ok")
    for event in events:
        json.dumps(to_json(event), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("code", ["def f(:", "a\0b", "'\udc80'", "1/0 # " + "x" * MIB])
async def test_code_that_cannot_run_is_an_error(kernel: Kernel, code: str) -> None:
    """Bad syntax, a NUL, a lone surrogate and a huge line end as errors of the program."""
    events, done = await run(kernel, code)
    assert done.status == "error"
    names = {
        "SyntaxError",
        "UnicodeEncodeError",
        "ValueError",
        "ZeroDivisionError",
    }  # a NUL is either, by version
    assert error_in(events).name in names
    assert (await run(kernel, "1"))[1].status == "ok"


async def test_displays_updates_and_clear(kernel: Kernel) -> None:
    """Displays carry their id, updates say so."""
    code = """
from IPython.display import HTML, clear_output, display
handle = display(HTML('<b>'), display_id='one')
handle.update(HTML('<i>'))
clear_output(wait=True)
display({'application/json': {'x': float('nan')}}, raw=True)
"""
    events, done = await run(kernel, code)
    first, second, cleared, last = events
    assert isinstance(first, Display)
    assert isinstance(second, Display)
    assert isinstance(last, Display)
    assert (first.data["text/html"], first.display_id, first.update) == ("<b>", "one", False)
    assert (second.data["text/html"], second.display_id, second.update) == ("<i>", "one", True)
    assert cleared == ClearOutput(wait=True)
    json.dumps(to_json(last), allow_nan=False)
    assert done.status == "ok"


async def test_pager_is_a_display(kernel: Kernel) -> None:
    """`?name` shows what it would have paged."""
    [shown] = (await run(kernel, "?print"))[0]
    assert isinstance(shown, Display)
    assert "Prints the values" in shown.data["text/plain"]


async def test_await_shell_and_magic(kernel: Kernel) -> None:
    """Top-level await, `!cmd`, its exit code, `x = !cmd` and `%%bash` work."""
    assert text_of((await run(kernel, "import asyncio\nawait asyncio.sleep(0)\nprint('a')"))[0]) == "a\n"
    events, _ = await run(kernel, "word = 'hi'\n!echo $word {word}; echo err >&2; exit 3\nprint(_exit_code)")
    assert (text_of(events), text_of(events, Stderr)) == ("hi hi\n3\n", "err\n")
    assert (await run(kernel, "x = !echo cap\nx"))[0][0] == Result(
        data={"text/plain": "['cap']"}, execution_count=3
    )
    assert text_of((await run(kernel, "%%bash\necho from bash"))[0]) == "from bash\n"


async def test_a_shell_command_streams_and_is_interrupted(kernel: Kernel) -> None:
    """`!cmd` shows what it says at once; an interrupt ends it and the cell."""
    execution = kernel.execute("!echo begun; sleep 100\nprint('not reached')", output_bytes=MIB)
    async with asyncio.timeout(20):
        assert await anext(execution) == Stdout(text="begun\n")
        await kernel.interrupt()
        rest = [event async for event in execution]
    assert isinstance(rest[-1], KernelDone)
    assert [event.name for event in rest if isinstance(event, Error)] == ["KeyboardInterrupt"]


async def test_pip_install_is_seen_at_once(kernel: Kernel, tmp_path: Path) -> None:
    """A package installed by `%pip` or `!pip` can be imported in the same cell."""
    wheel = _wheel(tmp_path)
    code = f"%pip install --no-index --no-deps -q --target={tmp_path}/site {wheel}\n"
    code += f"import sys; sys.path.append('{tmp_path}/site')\nimport codecell_probe\nprint(codecell_probe.X)"
    events, done = await run(kernel, code)
    assert text_of(events).endswith("42\n"), events
    assert done.status == "ok"


def _wheel(directory: Path) -> Path:
    path = directory / "codecell_probe-1-py3-none-any.whl"
    info = "codecell_probe-1.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("codecell_probe.py", "X = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: codecell-probe\nVersion: 1\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


async def test_input_is_asked_and_answered(kernel: Kernel) -> None:
    """input() and getpass ask; the answer is what they return."""
    code = "import getpass\nprint(input('name? '), getpass.getpass('word? '))"
    seen: list[object] = []
    async with asyncio.timeout(DEADLINE):
        async for event in kernel.execute(code, allow_input=True, output_bytes=MIB):
            seen.append(event)
            if isinstance(event, InputRequest):
                await kernel.answer("é\ud800" if event.password else "Ann")
    assert seen[:2] == [InputRequest(prompt="name? "), InputRequest(prompt="word? ", password=True)]
    assert seen[2] == Stdout(text="Ann é\ufffd\n")


async def test_input_is_refused_when_not_allowed(kernel: Kernel) -> None:
    """Without permission input() fails at once, and there is nothing to answer."""
    events, _ = await run(kernel, "input()")
    assert error_in(events).name == "StdinNotImplementedError"
    with pytest.raises(NotWaitingForInput):
        await kernel.answer("x")


async def test_interrupt_while_input_waits(kernel: Kernel) -> None:
    """Waiting for input can be interrupted."""
    execution = kernel.execute("input()", allow_input=True, output_bytes=MIB)
    async with asyncio.timeout(DEADLINE):
        assert isinstance(await anext(execution), InputRequest)
        await kernel.interrupt()
        rest = [event async for event in execution]
    assert error_in(rest[:-1]).name == "KeyboardInterrupt"  # type: ignore[arg-type]


async def test_interrupt_keeps_state(kernel: Kernel) -> None:
    """An interrupt sent at once ends an endless loop; what was bound stays."""
    await run(kernel, "x = 1")
    execution = asyncio.create_task(run(kernel, "while True: pass"))
    await asyncio.sleep(0)
    await kernel.interrupt()
    events, done = await execution
    assert (error_in(events).name, done.status) == ("KeyboardInterrupt", "error")
    shown = (await run(kernel, "x"))[0][0]  # number 2 or 3: a cell that had not begun does not count
    assert isinstance(shown, Result)
    assert shown.data == {"text/plain": "1"}


async def test_interrupt_of_an_idle_kernel_does_nothing(kernel: Kernel) -> None:
    """The kernel ignores it."""
    await kernel.interrupt()
    assert text_of((await run(kernel, "print(1)"))[0]) == "1\n"


@pytest.mark.parametrize(
    ("code", "exit_code", "signal"),
    [
        ("import os; print('before'); os._exit(3)", 3, None),
        ("import os, time; print('before'); time.sleep(.1); os.kill(os.getpid(), 9)", None, "SIGKILL"),
        ("import ctypes, time; print('before'); time.sleep(.1); ctypes.string_at(0)", None, "SIGSEGV"),
        ("import os, time; print('before'); time.sleep(.1); os.execl('/bin/false', 'false')", 1, None),
    ],
)
async def test_a_dying_kernel_is_told(
    kernel: Kernel, code: str, exit_code: int | None, signal: str | None
) -> None:
    """How it ended is known, and what was printed before is there."""
    events, done = await run(kernel, code)
    assert (done.status, done.exit_code, done.signal) == ("died", exit_code, signal)
    assert text_of(events) == "before\n"
    await asyncio.wait_for(kernel.died.wait(), DEADLINE)
    assert (await run(kernel, "1"))[1].status == "died"


async def test_a_fresh_kernel_has_no_state(kernel: Kernel, guest: SocketSandbox) -> None:
    """`fresh` replaces the kernel; who holds the old one is told."""
    await run(kernel, "x = 1")
    async with await Kernel.connect(guest, fresh=True) as other:  # type: ignore[arg-type]
        await asyncio.wait_for(kernel.died.wait(), DEADLINE)
        assert error_in((await run(other, "x"))[0]).name == "NameError"


async def test_a_second_connection_finds_the_same_kernel(kernel: Kernel, guest: SocketSandbox) -> None:
    """Closing leaves the kernel alone; connecting again finds its state."""
    await run(kernel, "x = 7")
    await kernel.close()
    async with await Kernel.connect(guest) as again:  # type: ignore[arg-type]
        assert (await run(again, "x"))[0][0] == Result(data={"text/plain": "7"}, execution_count=2)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output_is_cut_and_the_code_interrupted(kernel: Kernel, stream: str) -> None:
    """Past its bytes a stream is cut between characters; the state is kept."""
    await run(kernel, "x = 1")
    code = f"import sys\nwhile True: print('é' * 1000, file=sys.{stream})"
    events, done = await run(kernel, code, output_bytes=10_001)
    size = len(text_of(events, Stdout if stream == "stdout" else Stderr).encode())
    assert done.output_limit
    assert (done.stdout_truncated, done.stderr_truncated) == (stream == "stdout", stream == "stderr")
    assert size in {10_000, 10_001}
    assert (await run(kernel, "x"))[0][0] == Result(data={"text/plain": "1"}, execution_count=3)


async def test_one_huge_line_is_cut(kernel: Kernel) -> None:
    """100 MB in one print: its beginning is shown, and memory stays bounded."""
    events, done = await run(kernel, "print('x' * 100_000_000)")
    assert (len(text_of(events)), done.stdout_truncated, done.output_limit) == (MIB, True, True)


async def test_a_huge_result_is_an_output_limit(kernel: Kernel) -> None:
    """A result too large to be passed on ends the execution promptly, and is said."""
    events, done = await run(kernel, "'x' * 100_000_000")
    assert events == []
    assert done.output_limit
    assert (await run(kernel, "1"))[1].status == "ok"


async def test_displays_are_bounded_together(kernel: Kernel) -> None:
    """Displays past their bytes are dropped and the code is interrupted."""
    code = (
        "from IPython.display import display\nwhile True: display({'text/plain': 'x' * 5_000_000}, raw=True)"
    )
    events, done = await run(kernel, code)
    assert done.output_limit
    assert len([event for event in events if isinstance(event, Display)]) == 13


async def test_a_slow_caller_pushes_back(kernel: Kernel) -> None:
    """What nobody takes is not read; nothing is lost when it is taken."""
    execution = kernel.execute("for i in range(5000): print(i, flush=True)", output_bytes=MIB)
    texts: list[str] = []
    async with asyncio.timeout(DEADLINE):
        async for event in execution:
            if isinstance(event, Stdout):
                texts.append(event.text)
                if len(texts) == 1:
                    await asyncio.sleep(1)
    assert "".join(texts) == "".join(f"{i}\n" for i in range(5000))


async def test_late_output_of_a_thread_is_shown_to_no_other(kernel: Kernel) -> None:
    """A thread prints for the execution that started it, and for no later one."""
    code = "import threading, time\nready = threading.Event()\n"
    code += "def late():\n  ready.wait(30)\n  print('late')\n  done.set()\n"
    code += "done = threading.Event()\nthread = threading.Thread(target=late); thread.start()"
    await run(kernel, code)
    events, _ = await run(kernel, "ready.set()\ndone.wait(30)\nprint('mine')")
    assert text_of(events) == "mine\n"


async def test_threads_pools_and_children_print(kernel: Kernel) -> None:
    """Legitimate parallel work shows its output in the execution that asked for it."""
    await run(kernel, "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)")
    await run(kernel, "pool.submit(int).result()")
    assert text_of((await run(kernel, "pool.submit(print, 'pooled').result()"))[0]) == "pooled\n"
    code = """
import multiprocessing
print('parent')
with multiprocessing.get_context('fork').Pool(2) as pool:
    pool.map(print, ['child'] * 2)
"""
    events, _ = await run(kernel, code)
    assert text_of(events).split() == ["parent", "child", "child"]


async def test_the_home_stays_clean(kernel: Kernel) -> None:
    """A kernel writes nothing of its own into the user's home, and reads no startup files from it."""
    code = (
        "import os\nhome = os.path.expanduser('~')\nos.makedirs(home + '/.ipython/profile_default/startup')\n"
    )
    code += "open(home + '/.ipython/profile_default/startup/a.py', 'w').write('1/0')\nprint(os.listdir(home))"
    events, _ = await run(kernel, "import os; print(os.listdir(os.path.expanduser('~')))")
    assert text_of(events) == "[]\n"
    await run(kernel, code)
    async with await Kernel.connect(kernel._sandbox, fresh=True) as other:
        events, done = await run(
            other, "%history\nimport shutil, os; shutil.rmtree(os.path.expanduser('~/.ipython'))"
        )
        assert done.status == "ok"
        assert "%history" in text_of(events)


@pytest.mark.parametrize(
    "modules",
    [
        (),
        ("matplotlib",),
        ("matplotlib.pyplot",),
        ("matplotlib.pyplot", "matplotlib_inline.backend_inline"),
    ],
)
async def test_figures_are_shown(tmp_path: Path, modules: tuple[str, ...]) -> None:
    """Figures appear at the end of a cell and on plt.show(), whatever was preloaded."""
    with contextlib.ExitStack() as stack:
        sandbox = await asyncio.to_thread(stack.enter_context, serving(tmp_path, *modules))
        async with await Kernel.connect(sandbox) as kernel:  # type: ignore[arg-type]
            loaded = "import sys; print('matplotlib.pyplot' in sys.modules)"
            assert text_of((await run(kernel, loaded))[0]) == f"{'matplotlib.pyplot' in modules}\n"
            first, _ = await run(kernel, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
            assert [list(event.data) for event in first if isinstance(event, Display)] == [
                ["text/plain", "image/png"]
            ]
            second, _ = await run(kernel, "plt.plot([1]); plt.savefig('a.png'); plt.show(); print('after')")
            assert [type(event) for event in second] == [Display, Stdout]
            assert (
                text_of((await run(kernel, "import os; print(os.path.getsize('a.png') > 1000)"))[0])
                == "True\n"
            )
        await asyncio.to_thread(stack.close)
