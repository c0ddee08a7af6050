"""The host's side of the guest protocol: small questions, and programs that run inside a sandbox.

Everything read here comes from behind the wall: bounded and checked before use.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from executor_service.errors import SandboxFailed
from executor_service.guest.protocol import CHUNK, VERSION, Kind, ProtocolError, pack, pack_json, parse_json
from executor_service.result import Reading, Usage
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.connection import abandon, read_frame, read_json

ANSWER_TIMEOUT = 30.0
MAX_REPLY = 4 * 1024 * 1024  # no frame of a program is larger; output comes in chunks
MARK_BYTES = 1024 * 1024  # after so much of a kept program the guest is told how far we are
GRACE = 10.0  # seconds after the wall time in which the guest must have reported the end

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, kw_only=True)
class ProgramSpec:
    """One program to run in a sandbox; times in seconds, sizes in bytes.

    `armed`: the warm interpreter becomes the program; `argv` is then its `sys.argv`. `source` is a
    workspace path and a text written there first.
    """

    argv: tuple[str, ...]
    armed: bool = False
    source: tuple[str, str | None] | None = None
    cwd: str = "/workspace"
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bool = False
    tty: tuple[int, int] | None = None
    wall_time: float
    cpu_time: float | None = None
    output_bytes: int
    open_files: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended; `reason` names the limit or order that ended it, if any did."""

    exit_code: int | None
    signal: str | None
    reason: str | None
    detail: str | None
    stdout_truncated: bool
    stderr_truncated: bool
    duration: float
    cpu_time: float


class NotKept(SandboxFailed):
    """The guest keeps nothing under that name."""


async def ask(
    sandbox: Sandbox, request: Mapping[str, Any], *, seconds: float = ANSWER_TIMEOUT
) -> Mapping[str, Any]:
    """One small question to the guest and its answer.

    Raises:
        SandboxFailed: the guest is gone, refuses, or does not answer in time.
    """
    reader, writer = await sandbox.connect()
    try:
        writer.write(pack_json({"v": VERSION, **request}))
        async with asyncio.timeout(seconds):
            answer = await read_json(reader, MAX_REPLY)
    except (TimeoutError, EOFError, OSError, ProtocolError, RuntimeError) as error:
        raise SandboxFailed(f"the guest did not answer: {error!r}") from error
    finally:
        writer.close()
    refuse(answer)
    return answer


def refuse(answer: Mapping[str, Any]) -> None:
    """Raises NotKept, SandboxFailed: the guest's answer is an error."""
    if answer.get("type") == "error":
        kind = NotKept if answer.get("code") == "unknown" else SandboxFailed
        raise kind(f"the guest refused: {str(answer.get('detail'))[:500]}")


async def attach(
    sandbox: Sandbox, name: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Mapping[str, Any]]:
    """A connection to the operation that is kept as `name`, and what the guest says of it.

    Raises:
        NotKept: there is none.
        SandboxFailed: the guest is gone or does not answer in time.
    """
    reader, writer = await sandbox.connect()
    try:
        writer.write(pack_json({"v": VERSION, "op": "attach", "id": name}))
        async with asyncio.timeout(ANSWER_TIMEOUT):
            answer = await read_json(reader, MAX_REPLY)
        refuse(answer)
    except (TimeoutError, ProtocolError) as error:
        abandon(writer)
        raise SandboxFailed(f"the guest did not answer: {error!r}") from error
    except (EOFError, OSError, RuntimeError) as error:  # its handler ended just now
        abandon(writer)
        raise NotKept(f"{name} has ended") from error
    except BaseException:
        abandon(writer)
        raise
    return reader, writer, answer


def finite(value: object) -> int:
    """A number that the guest told, 0 where it is none that makes sense."""
    return value if type(value) is int and 0 <= value < 1 << 53 else 0


async def ask_meters(sandbox: Sandbox) -> Reading:
    """What the guest says of its sandbox, where no control group tells. Raises SandboxFailed."""
    stats = await ask(sandbox, {"op": "stats"})
    cpu_time, peak, kills = (stats.get(key) for key in ("cpu_time", "peak_memory_bytes", "kills"))
    usage = Usage(
        cpu_time=float(cpu_time) if isinstance(cpu_time, int | float) else None,
        peak_memory_bytes=peak if isinstance(peak, int) else None,
    )
    return Reading(usage=usage, oom_kills=kills if isinstance(kills, int) else 0)


def start_program(sandbox: Sandbox, spec: ProgramSpec, *, keep: str | None = None) -> Program:
    """A program to be started by `async with`; leaving it kills what still runs.

    With `keep`, a name, leaving it leaves it running, and `attach_program` finds it, until `forget`.
    """
    return Program(sandbox, spec, keep=keep)


def attach_program(sandbox: Sandbox, spec: ProgramSpec, name: str) -> Program:
    """The program that is kept as `name`; entering it raises NotKept if there is none."""
    return Program(sandbox, spec, keep=name, attach=True)


class Program:
    """A program in a sandbox: iterate over its output, then read `ended`."""

    def __init__(
        self, sandbox: Sandbox, spec: ProgramSpec, *, keep: str | None = None, attach: bool = False
    ) -> None:
        self._sandbox = sandbox
        self._spec = spec
        self._keep, self._attach = keep, attach
        self._frames = self._unmarked = 0
        self.state: Mapping[str, Any] = {}  # after `attach_program`: of the mark at which it goes on
        self.stdin_open = spec.stdin
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.ended: Ended | None = None

    async def __aenter__(self) -> Self:
        if self._attach:
            await self._take_up()
            return self
        self._reader, self._writer = await self._sandbox.connect()
        spec = self._spec
        request = {"v": VERSION, "op": "program", "armed": spec.armed, "keep": self._keep}
        self._writer.write(pack_json(request))
        body = {
            "argv": list(spec.argv),
            "armed": spec.armed,
            "source": None if spec.source is None else {"path": spec.source[0], "text": spec.source[1]},
            "cwd": spec.cwd,
            "env": dict(spec.env),
            "stdin": spec.stdin,
            "tty": None if spec.tty is None else {"rows": spec.tty[0], "cols": spec.tty[1]},
            "limits": {
                "wall_time": spec.wall_time,
                "cpu_time": spec.cpu_time,
                "output_bytes": spec.output_bytes,
                "open_files": spec.open_files,
            },
        }
        self._writer.write(pack_json(body))
        return self

    async def _take_up(self) -> None:
        assert self._keep is not None
        self._reader, self._writer, answer = await attach(self._sandbox, self._keep)
        self._frames, self.stdin_open = finite(answer.get("from")), answer.get("stdin") is True
        if isinstance(state := answer.get("state"), dict):
            self.state = state

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer:
            self._writer.close()

    async def __aiter__(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """Output as it comes; ends when the program has, with `ended` set.

        Raises:
            SandboxFailed: the guest vanished or broke the protocol.
        """
        assert self._reader is not None
        deadline = asyncio.get_running_loop().time() + self._spec.wall_time + GRACE
        while self.ended is None:
            try:
                async with asyncio.timeout_at(deadline):
                    kind, payload = await read_frame(self._reader, MAX_REPLY)
            except TimeoutError:
                raise SandboxFailed("the guest did not report the end of a program in time") from None
            except (EOFError, OSError, ProtocolError) as error:
                raise SandboxFailed(f"the guest vanished: {error!r}") from error
            self._frames += 1
            self._unmarked += len(payload)
            if kind is Kind.STDOUT:
                yield "stdout", payload
            elif kind is Kind.STDERR:
                yield "stderr", payload
            elif kind is Kind.JSON:
                self._hear(parse_json(payload))

    def _hear(self, message: Mapping[str, Any]) -> None:
        if message.get("type") == "ended":
            self.ended = _ended(message)
        elif message.get("type") == "error":
            raise SandboxFailed(f"the guest failed: {str(message.get('detail'))[:500]}")

    async def mark(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Call after each chunk of a kept program's: now and then the guest is told how far we are."""
        if self._keep is not None and self._unmarked >= MARK_BYTES:
            self._unmarked = 0
            await self._send(pack_json({"type": "mark", "frame": self._frames, "state": dict(state())}))

    async def forget(self) -> None:
        """What was kept is not needed any more; after the end."""
        if self._keep is not None:
            await self._send(pack_json({"type": "forget"}))

    async def write_stdin(self, data: bytes) -> None:
        """Give the program bytes to read."""
        for start in range(0, len(data), CHUNK):
            await self._send(pack(Kind.STDIN, data[start : start + CHUNK]))

    async def close_stdin(self) -> None:
        """Let the program read the end of its input."""
        await self._send(pack_json({"type": "stdin_close"}))

    async def signal(self, name: str) -> None:
        """Send a signal, by name, to the program's process group."""
        await self._send(pack_json({"type": "signal", "signal": name}))

    async def resize(self, rows: int, cols: int) -> None:
        """Change the size of the program's terminal."""
        await self._send(pack_json({"type": "resize", "rows": rows, "cols": cols}))

    async def kill(self) -> None:
        """Kill the program and everything it started; what it printed and its end are still reported."""
        await self._send(pack_json({"type": "kill"}))

    async def _send(self, frame: bytes) -> None:
        assert self._writer is not None
        with contextlib.suppress(OSError, RuntimeError):  # it has ended: the reading side tells how
            self._writer.write(frame)
            await self._writer.drain()


def _ended(message: Mapping[str, Any]) -> Ended:
    def text(key: str) -> str | None:
        value = message.get(key)
        return value[:1000] if isinstance(value, str) else None

    def number(key: str) -> float:
        value = message.get(key)
        return float(value) if isinstance(value, int | float) else 0.0

    code = message.get("exit_code")
    return Ended(
        exit_code=code if isinstance(code, int) else None,
        signal=text("signal"),
        reason=text("reason"),
        detail=text("detail"),
        stdout_truncated=message.get("stdout_truncated") is True,
        stderr_truncated=message.get("stderr_truncated") is True,
        duration=number("duration"),
        cpu_time=number("cpu_time"),
    )
