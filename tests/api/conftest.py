"""A service without sandboxes: the real HTTP layer on a real socket over rooms that play a script.

The code of a run or an execution is the script: `print`, `hang`, `gate`, `broken`, `surrogate`, or the
code of an error, which is raised before anything starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from executor_service import errors
from executor_service.api.assembly import HttpSettings, assemble
from executor_service.api.service import Service
from executor_service.events import Display, Stdout
from executor_service.keys import Key, KeyRing, digest_of
from executor_service.metrics import Metrics
from executor_service.server import Server, bind, config, url_of
from executor_service.sessions.operation import Kind, Operation
from executor_service.sessions.requests import (
    CommandRequest,
    ExecutionRequest,
    RunRequest,
    SessionRequest,
)

ERRORS = {
    each.code: each for base in (errors.CallerError, errors.ServiceFault) for each in base.__subclasses__()
}


class Script:
    """Plays one operation; `stop` ends it as interrupted."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.inputs: list[tuple[object, bool]] = []
        self.signals: list[str] = []
        operation.control = self

    async def stop(self) -> None:
        end(self.operation, "interrupted")

    async def input(self, data: bytes | str, *, close: bool) -> None:
        self.inputs.append((data, close))

    async def signal(self, name: str) -> None:
        self.signals.append(name)


def end(operation: Operation, outcome: str) -> None:
    """Complete an operation, unless it has ended."""
    if operation.state == "running":
        operation.complete(
            {"outcome": outcome, "duration": 0.25, "exit_code": 0 if outcome == "ok" else None}
        )


@dataclass
class Stage:
    """Where operations are played; `gate` lets those with the script `gate` go on."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    scripts: dict[str, Script] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    owners: list[str] = field(default_factory=list)

    def play(self, kind: Kind, code: str, *, owner: str, detached: bool) -> Operation:
        if code in ERRORS:
            raise ERRORS[code](f"played {code}")
        operation = Operation(kind=kind, owner=owner, detached=detached, clock=time.time)
        self.scripts[operation.id] = Script(operation)
        self.started.set()
        if code == "broken":
            operation.journal.append(Stdout(text="before\n"))
            operation.journal.fail(errors.SandboxFailed("the guest vanished"))
        elif code == "surrogate":
            operation.journal.append(Display(data={"text/plain": "\ud800", "x": float("nan")}))
            end(operation, "ok")
        elif code == "gate":
            operation.journal.append(Stdout(text="first é\u2028\n"))
            self._waiting = asyncio.create_task(self._after_gate(operation))
        elif code != "hang":
            operation.journal.append(Stdout(text=f"{code}\n"))
            end(operation, "ok")
        return operation

    async def _after_gate(self, operation: Operation) -> None:
        await self.gate.wait()
        operation.journal.append(Stdout(text="second\n"))
        end(operation, "ok")


class FakeRuns:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.kept: dict[str, Operation] = {}
        self.drained = False

    async def start(self, request: RunRequest, owner: str) -> Operation:
        self.stage.requests.append(request)
        self.stage.owners.append(owner)
        operation = self.stage.play("run", request.code or "", owner=owner, detached=request.detach)
        self.kept[operation.id] = operation
        return operation

    def get(self, run_id: str, owner: str) -> Operation:
        found = self.kept.get(run_id)
        if found is None or found.owner != owner:
            raise errors.RunNotFound(f"no run {run_id[:40]}")
        return found

    async def stop(self, run_id: str, owner: str) -> None:
        await self.get(run_id, owner).stop()

    async def drain(self, grace: float) -> None:
        self.drained = True
        await asyncio.sleep(grace)
        for each in self.kept.values():
            await each.stop()


@dataclass(kw_only=True)
class FakeEntry:
    path: str
    type: str = "file"
    size: int = 0
    modified_at: float = 0.0
    mode: int = 0o644


class FakeFiles:
    def __init__(self) -> None:
        self.content: dict[str, bytes] = {"a.txt": b"0123456789"}
        self.calls: list[tuple[object, ...]] = []

    async def list(self, path: str = ".", recursive: bool = False) -> list[FakeEntry]:
        self.calls.append(("list", path, recursive))
        return [FakeEntry(path=k, size=len(v)) for k, v in self.content.items()]

    async def stat(self, path: str) -> FakeEntry:
        if path == "dir":
            return FakeEntry(path=path, type="directory")
        if path not in self.content:
            raise errors.FileMissing(f"there is no file {path!r}")
        return FakeEntry(path=path, size=len(self.content[path]), modified_at=1e18 if path == "late" else 0)

    @contextlib.asynccontextmanager
    async def read(
        self, path: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[tuple[FakeEntry, AsyncIterator[bytes]]]:
        entry = await self.stat(path)
        whole = self.content[path][offset:]
        part = whole if length is None else whole[:length]
        self.calls.append(("read", path, offset, length))
        yield entry, chunks_of(part)
        self.calls.append(("closed", path))

    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> FakeEntry:
        self.content[path] = b"".join([chunk async for chunk in chunks])
        return await self.stat(path)

    async def delete(self, path: str) -> None:
        await self.stat(path)
        del self.content[path]

    async def mkdir(self, path: str) -> None:
        self.calls.append(("mkdir", path))

    async def move(self, path: str, to: str) -> None:
        self.calls.append(("move", path, to))

    @contextlib.asynccontextmanager
    async def archive(self, path: str = ".") -> AsyncIterator[AsyncIterator[bytes]]:
        self.calls.append(("archive", path))
        yield chunks_of(b"tar" * 1000)

    async def extract(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        self.calls.append(("extract", path, b"".join([chunk async for chunk in chunks])))


async def chunks_of(data: bytes) -> AsyncIterator[bytes]:
    """`data` in small pieces."""
    for start in range(0, len(data), 4):
        yield data[start : start + 4]


@dataclass
class FakeEnded:
    exit_code: int | None = 0
    signal: str | None = None


class FakeTerminal:
    """Says back what it is told, in capitals, until it reads `exit`."""

    def __init__(self, rows: int, cols: int) -> None:
        self.sizes = [(rows, cols)]
        self.ended: FakeEnded | None = None
        self.closed = asyncio.Event()
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        while (chunk := await self._out.get()) is not None:
            yield "stdout", chunk
        self.ended = FakeEnded(exit_code=3)

    async def write_stdin(self, data: bytes) -> None:
        self._out.put_nowait(None if data == b"exit" else data.upper())

    async def resize(self, rows: int, cols: int) -> None:
        self.sizes.append((rows, cols))
        self._out.put_nowait(f"{rows}x{cols}".encode())


class FakeSession:
    def __init__(self, stage: Stage, session_id: str, request: SessionRequest, owner: str) -> None:
        self.stage, self.id, self.request, self.owner = stage, session_id, request, owner
        self.files = FakeFiles()
        self.operations: list[Operation] = []
        self.calls: list[object] = []
        self.terminals: list[FakeTerminal] = []

    def view(self) -> dict[str, Any]:
        return {"id": self.id, "state": "ready", "metadata": dict(self.request.metadata)}

    async def renew(self, ttl: float) -> None:
        self.calls.append(("renew", ttl))

    async def execute(self, request: ExecutionRequest) -> Operation:
        return self._play("execution", request.code, request)

    async def command(self, request: CommandRequest) -> Operation:
        return self._play("command", request.command or "argv", request)

    def _play(self, kind: Kind, code: str, request: ExecutionRequest | CommandRequest) -> Operation:
        self.stage.requests.append(request)
        operation = self.stage.play(kind, code, owner=self.owner, detached=request.detach)
        self.operations.insert(0, operation)
        return operation

    def executions(self) -> list[Operation]:
        return [each for each in self.operations if each.kind == "execution"]

    def commands(self) -> list[Operation]:
        return [each for each in self.operations if each.kind == "command"]

    def execution(self, execution_id: str) -> Operation:
        return self._find(execution_id, self.executions(), errors.ExecutionNotFound)

    def command_of(self, command_id: str) -> Operation:
        return self._find(command_id, self.commands(), errors.CommandNotFound)

    def _find(
        self, wanted: str, found: Sequence[Operation], missing: type[errors.CodecellError]
    ) -> Operation:
        for each in found:
            if each.id == wanted:
                return each
        raise missing(f"no {wanted[:40]}")

    async def interrupt(self) -> None:
        self.calls.append("interrupt")

    async def restart(self) -> None:
        self.calls.append("restart")

    @contextlib.asynccontextmanager
    async def terminal(self, rows: int, cols: int) -> AsyncIterator[FakeTerminal]:
        if rows == 13:
            raise errors.QuotaExceeded("too many terminals")
        found = FakeTerminal(rows, cols)
        self.terminals.append(found)
        try:
            yield found
        finally:
            found.closed.set()


class FakeSessions:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.open: dict[str, FakeSession] = {}
        self.closed: set[str] = set()
        self.drained = False

    async def create(self, request: SessionRequest, owner: str) -> FakeSession:
        self.stage.requests.append(request)
        if request.language in ERRORS:
            raise ERRORS[request.language]("played")
        found = FakeSession(self.stage, f"ses_{len(self.open):032x}", request, owner)
        self.open[found.id] = found
        return found

    def get(self, session_id: str, owner: str) -> FakeSession:
        found = self.open.get(session_id)
        if found is None or found.owner != owner:
            raise errors.SessionNotFound(f"no session {session_id[:40]}")
        if session_id in self.closed:
            raise errors.SessionClosed("closed by its owner")
        return found

    def list(
        self, owner: str, metadata: Mapping[str, str], limit: int, cursor: str | None
    ) -> tuple[list[FakeSession], str | None]:
        found = [
            each
            for each in self.open.values()
            if each.owner == owner and metadata.items() <= each.request.metadata.items()
        ]
        return found[:limit], "more" if len(found) > limit else None

    async def close(self, session_id: str, owner: str) -> None:
        if session_id not in self.closed:
            self.get(session_id, owner)
            self.closed.add(session_id)

    async def drain(self, grace: float) -> None:
        self.drained = True


class FakeAbout:
    healthy = True

    def languages(self) -> list[dict[str, Any]]:
        return [{"name": "python"}]

    def images(self) -> list[dict[str, Any]]:
        return [{"name": "python"}]

    def info(self) -> dict[str, Any]:
        return {"version": "0", "backend": "fake"}

    async def ready(self) -> dict[str, Any]:
        if not self.healthy:
            raise errors.BackendUnavailable("the nursery is gone")
        return {"pool": {"ready": 1}}


class Running:
    """A service on a socket, and the rooms below it."""

    def __init__(
        self, keys: Sequence[str] = (), settings: HttpSettings | None = None, grace: float = 0.0
    ) -> None:
        self.stage = Stage()
        self.runs, self.sessions, self.about = FakeRuns(self.stage), FakeSessions(self.stage), FakeAbout()
        self.metrics = Metrics()
        self.grace = grace
        ring = KeyRing(tuple(Key(digest=digest_of(key), name="test") for key in keys))
        self.app = assemble(
            keys=ring, metrics=self.metrics, settings=settings or HttpSettings(), lifespan=self._lifespan
        )
        self.url = ""
        self.server: Server | None = None

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.service = Service(runs=self.runs, sessions=self.sessions, about=self.about, metrics=self.metrics)
        app.state.service = self.service
        yield
        await self.service.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Running]:
        listening = bind("127.0.0.1", 0)
        self.url = url_of(listening)
        async with self.app.router.lifespan_context(self.app):
            server = Server(config(self.app, self.grace), drain=self.service.drain, grace=self.grace)
            self.server = server
            task = asyncio.create_task(server.serve(sockets=[listening]))
            await asyncio.wait(
                {task, asyncio.create_task(server.listening.wait())}, return_when="FIRST_COMPLETED"
            )
            try:
                yield self
            finally:
                server.should_exit = True
                await task


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A service without keys."""
    async with Running().serving() as found:
        yield found


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """A caller of `running`."""
    async with httpx2.AsyncClient(base_url=running.url, timeout=30) as found:
        yield found


@pytest.fixture(scope="session")
def running_class() -> type[Running]:
    """The service that plays, for fixtures that live longer than a test."""
    return Running


@pytest.fixture
def running_with() -> type[Running]:
    """Makes a service with other settings, to be entered with `serving`."""
    return Running


@pytest.fixture
async def session(client: httpx2.AsyncClient, running: Running) -> FakeSession:
    """A session of `running`, made over HTTP."""
    answer = await client.post("/v1/sessions", json={})
    return running.sessions.open[answer.json()["id"]]
