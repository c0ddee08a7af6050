"""The host's side of the guest protocol: small questions, and programs that run inside a sandbox.

Everything read here comes from behind the wall: bounded and checked before use.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from executor_service.errors import SandboxFailed
from executor_service.guest.protocol import CHUNK, VERSION, Kind, ProtocolError, pack, pack_json, parse_json
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.connection import read_frame, read_json

ANSWER_TIMEOUT = 30.0
MAX_REPLY = 4 * 1024 * 1024  # no frame of a program is larger; output comes in chunks
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
    except (TimeoutError, EOFError, OSError, ProtocolError) as error:
        raise SandboxFailed(f"the guest did not answer: {error!r}") from error
    finally:
        writer.close()
    if answer.get("type") == "error":
        raise SandboxFailed(f"the guest refused: {str(answer.get('detail'))[:500]}")
    return answer


def start_program(sandbox: Sandbox, spec: ProgramSpec) -> Program:
    """A program to be started by `async with`; leaving it kills what still runs."""
    return Program(sandbox, spec)


class Program:
    """A program in a sandbox: iterate over its output, then read `ended`."""

    def __init__(self, sandbox: Sandbox, spec: ProgramSpec) -> None:
        self._sandbox = sandbox
        self._spec = spec
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.ended: Ended | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await self._sandbox.connect()
        spec = self._spec
        self._writer.write(pack_json({"v": VERSION, "op": "program", "armed": spec.armed}))
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
