"""A backend, its sandboxes and their guests, in this process: what the pool and the sessions are tried on.

They keep the contracts of `sandboxes/base.py`, `guest.py`, `kernel.py` and `files.py` and run scripts (async
functions) where the real ones run programs. Nothing waits for time: tests open gates and set events.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from executor_service.errors import CodecellError, DiskFull, NotWaitingForInput, SandboxFailed
from executor_service.events import Error, Event, InputRequest, Stderr, Stdout
from executor_service.languages import ALL, Language
from executor_service.result import Reading, Usage
from executor_service.sandboxes.base import Lease, Sandbox, SandboxSpec
from executor_service.sandboxes.files import Files, Omitted, now_ns
from executor_service.sandboxes.guest import Ended, ProgramSpec
from executor_service.sandboxes.kernel import KernelDone
from executor_service.sandboxes.kernel_start import KernelStart
from executor_service.sessions.catalog import Catalog, Offer

SPEC = SandboxSpec(image="python", warm="program")
OTHER = SandboxSpec(image="python", warm="kernel")
LEASE = Lease(memory_bytes=1 << 20, processes=8, cpus=1.0)


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Let other tasks run until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any state may be waited for
            await asyncio.sleep(0)


@dataclass
class Clock:
    """A wall clock that tests move."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def catalog(*languages: Language) -> Catalog:
    """Every language (or `languages`) in the image `python`."""
    offers = [
        Offer(language=each, image="python", version="1", stateful=each.name == "python")
        for each in languages or ALL
    ]
    return Catalog(offers)


def find(name: str) -> Language:
    """A language by its name."""
    return next(each for each in ALL if each.name == name)


# -- the backend --------------------------------------------------------------------------------------


class FakeSandbox:
    """A sandbox that holds a workspace in memory."""

    def __init__(self, backend: FakeBackend, number: int, spec: SandboxSpec) -> None:
        self.id = f"sb{number}"
        self.spec = spec
        self.died = asyncio.Event()
        self.leases: list[Lease] = []
        self.cpu_time = 0.0
        self.kills = 0
        self.workspace: dict[str, tuple[bytes, int]] = {}
        self.closes = 0
        self.kernel_state: dict[str, Any] = {}
        self._backend = backend

    def __repr__(self) -> str:
        return f"<FakeSandbox {self.id}>"

    async def configure(self, lease: Lease) -> None:
        if self.died.is_set() or self in self._backend.refuse_lease:
            raise SandboxFailed("the sandbox is gone")
        self.leases.append(lease)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise SandboxFailed("a fake has no socket")

    async def meters(self) -> Reading:
        usage = Usage(cpu_time=self.cpu_time, peak_memory_bytes=4096)
        return Reading(usage=usage, oom_kills=self.kills)

    async def close(self) -> None:
        self.closes += 1
        await self._backend.may_close.wait()
        self.died.set()
        self._backend.alive.discard(self)

    def die(self) -> None:
        """The guest is gone."""
        self.died.set()


class FakeBackend:
    """Makes fake sandboxes, once `may_create` is set; `failures` are raised first, one each."""

    name = "fake"
    durable = False

    def __init__(self) -> None:
        self.may_create = asyncio.Event()
        self.may_create.set()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.failures: list[Exception] = []
        self.refuse_lease: set[FakeSandbox] = set()
        self.created: list[FakeSandbox] = []
        self.alive: set[FakeSandbox] = set()
        self.making = 0
        self.most_making = 0
        self.most_alive = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert not self.alive

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self.making += 1
        self.most_making = max(self.most_making, self.making)
        self.most_alive = max(self.most_alive, self.making + len(self.alive))
        try:
            await asyncio.sleep(0)
            await self.may_create.wait()
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.making -= 1
        sandbox = FakeSandbox(self, len(self.created), spec)
        self.created.append(sandbox)
        self.alive.add(sandbox)
        return sandbox

    async def sweep(self) -> int:
        return 0

    async def adopt(self, ids: Collection[str]) -> list[Sandbox]:
        return []

    async def ping(self) -> None:
        return None

    def isolation(self) -> Mapping[str, Mapping[str, str]]:
        return {}


# -- programs -----------------------------------------------------------------------------------------


class FakeProgram:
    """Runs a script in place of a program: what it says is read as from a real one."""

    def __init__(self, guest: FakeGuest, sandbox: FakeSandbox, spec: ProgramSpec) -> None:
        self.spec = spec
        self.sandbox = sandbox
        self.ended: Ended | None = None
        self.stdin = bytearray()
        self.stdin_closed = asyncio.Event()
        self.stdin_news = asyncio.Event()
        self.signals: list[str] = []
        self.signalled = asyncio.Event()
        self.closed = False
        self._guest = guest
        self._reason: str | None = None
        self._left = {"stdout": spec.output_bytes, "stderr": spec.output_bytes}
        self._cut = {"stdout": False, "stderr": False}
        self._queue: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._task: asyncio.Task[int] | None = None

    async def __aenter__(self) -> Self:
        if self.sandbox.died.is_set():
            raise SandboxFailed("the sandbox is gone")
        path, text = self.spec.source or ("", None)
        if text is not None:
            self.sandbox.workspace[path] = (text.encode(), now_ns())
        self._task = asyncio.create_task(self._guest.script(self))
        self._task.add_done_callback(lambda _: self._queue.put_nowait(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    def out(self, data: bytes, stream: str = "stdout") -> None:
        """Print; past the limit the program is killed."""
        kept = data[: self._left[stream]]
        self._left[stream] -= len(kept)
        if kept:
            self._queue.put_nowait((stream, kept))
        if len(kept) < len(data):
            self._cut[stream] = True
            self._kill("output_limit")

    def fail(self, reason: str) -> None:
        """End as by a limit of the guest's."""
        self._kill(reason)

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        died = asyncio.create_task(self.sandbox.died.wait())
        try:
            while True:
                get = asyncio.create_task(self._queue.get())
                await asyncio.wait([get, died], return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    get.cancel()
                    raise SandboxFailed("the guest vanished")
                item = get.result()
                if item is None:
                    self.ended = self._how()
                    return
                yield item
        finally:
            died.cancel()

    def _how(self) -> Ended:
        assert self._task is not None
        killed = self._task.cancelled()
        if not killed and self._task.exception() is not None:
            raise SandboxFailed(f"the guest vanished: {self._task.exception()!r}")
        return Ended(
            exit_code=None if killed else self._task.result(),
            signal="SIGKILL" if killed else None,
            reason=self._reason,
            detail=f"{self._reason} of the guest" if self._reason else None,
            stdout_truncated=self._cut["stdout"],
            stderr_truncated=self._cut["stderr"],
            duration=0.5,
            cpu_time=0.25,
        )

    def _kill(self, reason: str) -> None:
        self._reason = self._reason or reason
        assert self._task is not None
        self._task.cancel()

    async def write_stdin(self, data: bytes) -> None:
        self.stdin += data
        self.stdin_news.set()

    async def close_stdin(self) -> None:
        self.stdin_closed.set()

    async def signal(self, name: str) -> None:
        self.signals.append(name)
        self.signalled.set()

    async def resize(self, rows: int, cols: int) -> None:
        return None

    async def kill(self) -> None:
        self._kill("killed")


async def say_nothing(program: FakeProgram) -> int:
    """A program that ends at once, well."""
    return 0


async def hang(program: FakeProgram) -> int:
    """A program that does not end."""
    await asyncio.Event().wait()
    return 0


async def run_for_ever(program: FakeProgram) -> int:
    """A program that says that it runs, and does."""
    program.out(b"running\n")
    return await hang(program)


# -- kernels ------------------------------------------------------------------------------------------


class Crash(Exception):
    """Raised by a cell: its kernel ends."""


@dataclass(eq=False)
class Cell:
    """What a cell's script works with."""

    kernel: FakeKernel
    events: asyncio.Queue[Event | KernelDone]
    allow_input: bool
    output_bytes: int
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    asking: bool = False
    over: bool = False

    @property
    def state(self) -> dict[str, Any]:
        """The kernel's variables."""
        return self.kernel.state

    def show(self, event: Event) -> None:
        """Show something; past the output limit the cell is interrupted, as `Kernel` does it."""
        if isinstance(event, Stdout | Stderr):
            kept = event.text[: self.output_bytes]
            self.output_bytes -= len(kept)
            if len(kept) < len(event.text):
                self.over = True
                self.kernel.over_limit.set()
                self.interrupted.set()
            event = type(event)(text=kept)
        self.events.put_nowait(event)

    async def ask(self, prompt: str) -> str:
        """As `input()`."""
        if not self.allow_input:
            raise RuntimeError("StdinNotImplementedError")
        self.asking = True
        self.show(InputRequest(prompt=prompt))
        return await self.answers.get()

    async def sleep(self) -> None:
        """Until interrupted."""
        await self.interrupted.wait()
        raise KeyboardInterrupt


CellScript = Callable[[Cell], Awaitable[None]]


class FakeKernel:
    """Executes scripts, found by their code among the guest's `cells`."""

    def __init__(self, guest: FakeGuest, sandbox: FakeSandbox) -> None:
        self.died = asyncio.Event()
        self.over_limit = asyncio.Event()
        self.state: dict[str, Any] = {}
        self.count = 0
        self.interrupts = 0
        self._guest = guest
        self._sandbox = sandbox
        self._cell: Cell | None = None
        self._watch = asyncio.create_task(self._until_sandbox_ends())

    async def _until_sandbox_ends(self) -> None:
        await self._sandbox.died.wait()
        self.died.set()

    async def execute(
        self,
        code: str,
        *,
        allow_input: bool = False,
        output_bytes: int,
        silent: bool = False,
        keep: str | None = None,
    ) -> AsyncGenerator[Event | KernelDone, None]:
        assert self._cell is None, "one execution at a time"
        if self.died.is_set():
            yield KernelDone(status="died")
            return
        self.count += not silent
        cell = self._cell = Cell(self, asyncio.Queue(), allow_input, output_bytes)
        self.over_limit.clear()
        task = asyncio.create_task(self._run(code, cell))
        death = asyncio.create_task(self.died.wait())
        try:
            while True:
                get = asyncio.create_task(cell.events.get())
                await asyncio.wait([get, death], return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    get.cancel()
                    yield KernelDone(status="died")
                    return
                event = get.result()
                yield event
                if isinstance(event, KernelDone):
                    return
        finally:
            self._cell = None
            task.cancel()
            death.cancel()
            await asyncio.wait([task, death])

    async def _run(self, code: str, cell: Cell) -> None:
        end = KernelDone(status="ok", execution_count=self.count)
        try:
            await self._guest.cells[code](cell)
        except KeyboardInterrupt:
            cell.show(Error(name="KeyboardInterrupt", value=""))
            end = KernelDone(status="error", execution_count=self.count)
        except Crash as crash:
            end = KernelDone(status="died", signal=str(crash))
        except Exception as error:  # noqa: BLE001 - as an interpreter does
            cell.show(Error(name=type(error).__name__, value=str(error)))
            end = KernelDone(status="error", execution_count=self.count)
        if cell.over:
            end = KernelDone(
                status=end.status, execution_count=self.count, output_limit=True, stdout_truncated=True
            )
        if end.status == "died":
            self._sandbox.kernel_state.clear()
        cell.events.put_nowait(end)
        if end.status == "died":
            await asyncio.sleep(0)
            self.died.set()

    @property
    def waits(self) -> bool:
        return self._cell is not None and self._cell.asking

    async def answer(self, text: str) -> None:
        if self._cell is None or not self._cell.asking:
            raise NotWaitingForInput("the execution does not wait for input")
        self._cell.asking = False
        self._cell.answers.put_nowait(text)

    async def limit_open_files(self, number: int) -> None:
        self.open_files = number

    async def interrupt(self) -> None:
        self.interrupts += 1
        if self._cell is not None:
            self._cell.interrupted.set()

    async def close(self) -> None:
        self.died.set()
        self._watch.cancel()


# -- files and the guest ------------------------------------------------------------------------------


class FakeFiles(Files):
    """A workspace in memory."""

    def __init__(self, guest: FakeGuest, sandbox: FakeSandbox) -> None:
        super().__init__(sandbox)
        self._guest = guest
        self._fake = sandbox

    async def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        if self._guest.put_error is not None:
            raise self._guest.put_error
        for path, content in files:
            if len(content) > self._fake.spec.disk_bytes:
                raise DiskFull("no room")
            self._fake.workspace[path] = (content, now_ns())

    async def collect(
        self, globs: Sequence[str], max_files: int = 100, max_bytes: int = 10 << 20
    ) -> tuple[Sequence[tuple[str, bytes]], Sequence[Omitted]]:
        if self._fake.died.is_set():
            raise SandboxFailed("the sandbox is gone")
        found = [
            (path, content)
            for path, (content, _) in sorted(self._fake.workspace.items())
            if any(fnmatch.fnmatch(path, glob) for glob in globs)
        ]
        left_out = [
            Omitted(path=path, size=len(content), reason="too_many") for path, content in found[max_files:]
        ]
        return found[:max_files], left_out

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        yield None

    async def changed(
        self,
        since_ns: int,
        limit: int = 1000,
        *,
        ready: None = None,
    ) -> tuple[Sequence[tuple[str, int]], bool]:
        if self._fake.died.is_set():
            raise SandboxFailed("the sandbox is gone")
        found = [
            (path, len(content)) for path, (content, at) in self._fake.workspace.items() if at >= since_ns
        ]
        return found[:limit], len(found) > limit


class FakeGuest:
    """What is behind the sockets of fake sandboxes; `script` and `cells` say what runs there."""

    def __init__(self) -> None:
        self.script: Callable[[FakeProgram], Coroutine[Any, Any, int]] = say_nothing
        self.cells: dict[str, CellScript] = {}
        self.programs: list[FakeProgram] = []
        self.kernels: list[FakeKernel] = []
        self.kernel_env: list[Mapping[str, str]] = []
        self.kernel_starts: list[KernelStart] = []
        self.ended_kernels: list[str] = []
        self.may_start_kernel = asyncio.Event()
        self.may_start_kernel.set()
        self.kernel_failures: list[CodecellError] = []
        self.put_error: CodecellError | None = None

    def program(self, sandbox: Sandbox, spec: ProgramSpec, *, keep: str | None = None) -> FakeProgram:
        assert isinstance(sandbox, FakeSandbox)
        self.programs.append(FakeProgram(self, sandbox, spec))
        return self.programs[-1]

    async def end_kernel(self, sandbox: Sandbox, name: str) -> None:
        assert isinstance(sandbox, FakeSandbox)
        self.ended_kernels.append(name)

    async def kernel(
        self,
        sandbox: Sandbox,
        *,
        fresh: bool,
        env: Mapping[str, str],
        keep: str | None = None,
        start: KernelStart | None = None,
    ) -> FakeKernel:
        assert isinstance(sandbox, FakeSandbox)
        await self.may_start_kernel.wait()
        if self.kernel_failures:
            raise self.kernel_failures.pop(0)
        if sandbox.died.is_set():
            raise SandboxFailed("the sandbox is gone")
        self.kernel_env.append(env)
        self.kernel_starts.append(start or KernelStart())
        self.kernels.append(FakeKernel(self, sandbox))
        return self.kernels[-1]

    def files(self, sandbox: Sandbox) -> Files:
        assert isinstance(sandbox, FakeSandbox)
        return FakeFiles(self, sandbox)
