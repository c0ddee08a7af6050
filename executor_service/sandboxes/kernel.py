"""The kernel of a session, from the host's side: execute, answer, interrupt, over one connection.

The only place that knows Jupyter's protocol as a conversation. A kernel is hostile: messages are
checked (`kernel_messages`), bounded (`kernel_execution`), and at most `PENDING` events wait for a slow
caller before the kernel is not read any more. Not here: wall time, escalation, restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session as Messages

from executor_service.errors import NotWaitingForInput, SandboxFailed
from executor_service.events import Event, Json
from executor_service.guest import protocol
from executor_service.guest.kernel_frames import CONTROL, SHELL, STDIN, pack_message
from executor_service.guest.protocol import Kind, ProtocolError
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.connection import abandon, read_frame, read_json, send_json
from executor_service.sandboxes.guest import NotKept, ask, attach, finite
from executor_service.sandboxes.kernel_execution import Execution, KernelDone
from executor_service.sandboxes.kernel_messages import parse_message
from executor_service.sandboxes.kernel_start import OPEN_FILES, KernelStart

__all__ = ["Kernel", "KernelDone", "KernelStart", "Times"]

PENDING = 256  # events that may wait for the caller
CONNECT_TIME = 10.0  # seconds until a kernel must be ready, beside those that it has itself
SIGNAL_TIME = 10.0  # seconds that the guest has to deliver a signal or to set a limit
MISSING_TIME = 1.0  # seconds that the reply and the idle status may lie apart
MARK_BYTES = 1024 * 1024  # after so much of a kept execution the guest is told how far we are
START_TIME = 1.0  # seconds that an interrupt waits for its execution to have begun


class Kernel:
    """A started kernel. One execution at a time; closing leaves the kernel running in its sandbox."""

    def __init__(
        self, sandbox: Sandbox, start: KernelStart, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Use `connect`."""
        self._start = start
        self._rests_until = 0.0
        self.died = asyncio.Event()  # also set by close
        self._open_files = OPEN_FILES
        self.over_limit = asyncio.Event()  # the present execution passed a limit: interrupt it
        self._sandbox, self._reader, self._writer = sandbox, reader, writer
        self._messages = Messages(key=b"none", check_pid=False)
        self._messages.auth = None  # messages are not signed; an empty key says so with a warning
        self._messages.pack = _pack
        self._exit_code: int | None = None
        self._signal_name: str | None = None
        self._present: _Present | None = None
        self._task: asyncio.Task[None] | None = None
        self._latest: _Present | None = None
        self._frames = self._unmarked = self._last = 0
        self.caught_up = asyncio.Event()  # after `attach`: what had happened before has been heard

    @classmethod
    async def connect(
        cls,
        sandbox: Sandbox,
        start: KernelStart | None = None,
        *,
        fresh: bool = False,
        keep: str | None = None,
    ) -> Self:
        """A kernel of `sandbox`, once it answers; with `fresh` a new one in place of the present.

        `keep` is the name under which a later service finds what it executes (see `attach`).

        Raises:
            SandboxFailed: the sandbox is gone, or its kernel does not start.
        """
        start = start or KernelStart()
        reader, writer = await sandbox.connect()
        try:
            async with asyncio.timeout(CONNECT_TIME + start.start_time):
                await send_json(writer, start.order(fresh=fresh, keep=keep))
                answer = await read_json(reader)
        except (EOFError, ProtocolError, TimeoutError) as error:
            abandon(writer)
            raise SandboxFailed("the kernel did not start") from error
        except BaseException:
            abandon(writer)
            raise
        if answer.get("type") != "kernel_ready":
            abandon(writer)
            raise SandboxFailed("the kernel ended while it started")
        kernel = cls(sandbox, start, reader, writer)
        kernel._task = asyncio.create_task(kernel._read(), name=f"kernel {sandbox.id}")
        return kernel

    @classmethod
    async def attach(
        cls,
        sandbox: Sandbox,
        name: str,
        operation: str,
        *,
        output_bytes: int,
        start: KernelStart | None = None,
    ) -> Self:
        """The kernel that a service before us has left, with the execution that it keeps; see `resume`.

        Raises:
            NotKept: it keeps no such execution.
            SandboxFailed: the sandbox is gone.
        """
        reader, writer, answer = await attach(sandbox, name)
        if answer.get("operation") != operation:
            abandon(writer)
            raise NotKept(f"the kernel does not keep {operation}")
        kernel = cls(sandbox, start or KernelStart(), reader, writer)
        kernel._open_files = 0  # not known
        kernel._frames, kernel._last = finite(answer.get("from")), finite(answer.get("last"))
        present = _Present(Execution(operation, output_bytes=output_bytes), kept=True)
        if isinstance(state := answer.get("state"), dict):
            present.restore(state)
        kernel._present = kernel._latest = present
        kernel._look_whether_caught_up()
        kernel._task = asyncio.create_task(kernel._read(), name=f"kernel {sandbox.id}")
        return kernel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the kernel. Idempotent; an execution in progress ends as `died`."""
        abandon(self._writer)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def execute(
        self,
        code: str,
        *,
        allow_input: bool = False,
        output_bytes: int,
        silent: bool = False,
        keep: str | None = None,
    ) -> AsyncGenerator[Event | KernelDone, None]:
        """Execute `code`; what it shows, in order, and last a `KernelDone`.

        Closing the generator early forgets the execution, it does not stop it: interrupt first.
        Nor does a limit stop it: what is too much is dropped, and `over_limit` is set.

        Args:
            code: one cell.
            allow_input: whether `input()` asks (`InputRequest`, see `answer`) or fails at once.
            output_bytes: at most so many bytes of stdout, and so many of stderr.
            silent: leave no trace in history and execution count.
            keep: its id, under which it outlives this object until `forget`; for kernels that were
                connected with a `keep` of their own.

        Raises:
            RuntimeError: an execution is in progress.
        """
        if self._present is not None:
            raise RuntimeError("this kernel is executing")
        if self.died.is_set():
            yield KernelDone(status="died", exit_code=self._exit_code, signal=self._signal_name)
            return
        await self._rest()
        request = self._request("execute_request", _execute_content(code, allow_input, silent))
        if keep is not None:
            request["header"]["msg_id"] = request["msg_id"] = keep
            await self._say({"type": "keep", "operation": keep})
        execution = Execution(request["msg_id"], output_bytes=output_bytes)
        self._present = self._latest = _Present(execution, kept=keep is not None)
        self.over_limit.clear()
        await self._send(SHELL, request)
        async with contextlib.aclosing(self._follow(self._present)) as events:
            async for event in events:
                yield event

    async def resume(self) -> AsyncGenerator[Event | KernelDone, None]:
        """As `execute`, for the execution that `attach` found: from its first event that is still kept."""
        if self._present is not None:
            async with contextlib.aclosing(self._follow(self._present)) as events:
                async for event in events:
                    yield event

    async def _follow(self, present: _Present) -> AsyncGenerator[Event | KernelDone, None]:
        try:
            while not isinstance(event := await present.next(), KernelDone):
                if event is not None:
                    yield event
            if event.status == "error":
                self._rests_until = asyncio.get_running_loop().time() + self._start.rest
            yield event
        finally:
            present.forget()
            self._present = None

    async def _rest(self) -> None:
        """Wait until it heeds what it is given."""
        if (left := self._rests_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)

    async def forget(self) -> None:
        """What was kept is not needed any more; once the execution has ended."""
        await self._say({"type": "forget"})

    @property
    def waits(self) -> bool:
        """Whether the execution waits for input."""
        return self._present is not None and self._present.execution.input_header is not None

    @property
    def times(self) -> Times:
        """Of the present execution, or of the last one."""
        return self._latest.times if self._latest is not None else Times()

    @property
    def skipped(self) -> int:
        """How many of the first events of an execution that was resumed are not kept any more."""
        return self._latest.skipped if self._latest is not None else 0

    async def answer(self, text: str) -> None:
        """Answer the input request that waits.

        Raises:
            NotWaitingForInput: there is none.
        """
        present = self._present
        if present is None or present.execution.input_header is None:
            raise NotWaitingForInput("the execution does not wait for input")
        header, present.execution.input_header = present.execution.input_header, None
        await self._send(STDIN, self._request("input_reply", {"value": text}, parent=header))

    async def interrupt(self) -> None:
        """Interrupt the code that runs, as Ctrl-C would; nothing if none does.

        Raises:
            SandboxFailed: the sandbox is gone.
        """
        if self._present is not None:  # before its code runs the signal would be ignored
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_TIME):
                    await self._present.started.wait()
        if self._start.interrupt == "message":
            await self._send(CONTROL, self._request("interrupt_request", {}))
        else:
            await self._ask({"op": "kernel_signal", "signal": "SIGINT"})

    async def limit_open_files(self, number: int) -> None:
        """How many descriptors the kernel may have from now on.

        Raises:
            SandboxFailed: the guest is gone or does not answer.
        """
        if number != self._open_files:
            await self._ask({"op": "kernel_limits", "open_files": number})
            self._open_files = number

    async def _ask(self, request: Mapping[str, Json]) -> None:
        await ask(self._sandbox, {**request, "name": self._start.name}, seconds=SIGNAL_TIME)

    def _request(
        self, kind: str, content: dict[str, Json], *, parent: Mapping[str, Json] | None = None
    ) -> dict[str, Any]:
        header = dict(parent) if parent is not None else None
        message: dict[str, Any] = self._messages.msg(kind, content, parent=header)
        return message

    async def _send(self, channel: int, message: dict[str, Any]) -> None:
        parts = self._messages.serialize(message)[1:]  # without the delimiter
        with contextlib.suppress(OSError, RuntimeError):  # its end is noticed where we read
            self._writer.write(pack_message(channel, parts))
            await self._writer.drain()

    async def _read(self) -> None:
        """Read until the kernel or the connection ends; then tell so."""
        try:
            while True:
                kind, payload = await read_frame(self._reader)
                self._frames += 1
                self._unmarked += len(payload)
                if kind is Kind.KERNEL:
                    await self._on_message(payload)
                elif kind is Kind.JSON and self._on_notice(protocol.parse_json(payload)):
                    return
                self._look_whether_caught_up()
                if self._unmarked >= MARK_BYTES:
                    await self._mark()
        except (EOFError, ProtocolError):
            pass
        finally:
            self.died.set()
            self.caught_up.set()
            if self._present is not None:
                self._present.end(self._exit_code, self._signal_name)

    def _look_whether_caught_up(self) -> None:
        if self._frames >= self._last:
            self.caught_up.set()

    async def _mark(self) -> None:
        """Tell the guest how far we are, so that it may give up what comes before."""
        self._unmarked = 0
        if self._present is not None and self._present.kept:
            await self._say({"type": "mark", "frame": self._frames, "state": self._present.state()})

    async def _say(self, order: dict[str, Json]) -> None:
        with contextlib.suppress(EOFError):
            await send_json(self._writer, order)

    async def _on_message(self, payload: bytes) -> None:
        present = self._present
        if present is None:
            return
        message = parse_message(payload)
        if message is not None:
            await present.put(present.execution.feed(message))
            if present.execution.over_limit:
                self.over_limit.set()

    def _on_notice(self, notice: dict[str, Any]) -> bool:
        """Heed a JSON frame; whether it says that the kernel ended."""
        match notice:
            case {"type": "oversize", "channel": int(channel)} if self._present is not None:
                self._present.execution.feed_oversize(channel)
                self.over_limit.set()
                self._present.wake()
            case {"type": "keeping"}:
                self._frames = self._unmarked = 0
            case {"type": "at", "what": str(what), "at": float(at)} if self._present is not None:
                self._present.hear(what, at)
            case {"type": "kernel_died"}:
                code, name = notice.get("exit_code"), notice.get("signal")
                self._exit_code = code if type(code) is int else None
                self._signal_name = name[:32] if isinstance(name, str) else None
                return True
        return False


@dataclass(frozen=True, kw_only=True)
class Times:
    """Of a kept execution, as the guest's clock (seconds since 1970) had it.

    `waited` seconds for answers to its input requests; that of `asked_at` has no answer yet.
    """

    waited: float = 0.0
    asked_at: float | None = None
    ended_at: float | None = None


class _Present:
    """The execution in progress, and the events of it that its caller has not taken yet."""

    def __init__(self, execution: Execution, *, kept: bool = False) -> None:
        self.execution = execution
        self.kept = kept
        self.emitted = self.skipped = 0
        self.times = Times()
        self.started = asyncio.Event()
        self._queue: asyncio.Queue[Event | KernelDone | None] = asyncio.Queue(PENDING)
        self._end: KernelDone | None = None
        self._incomplete_until: float | None = None
        self._forgotten = False

    async def put(self, event: Event | None) -> None:
        """Queue an event, waiting for room; then see whether the execution is done."""
        if self.execution.started:
            self.started.set()
        if event is not None and not self._forgotten:
            self.emitted += 1
            await self._queue.put(event)
        self.wake()

    def hear(self, what: str, at: float) -> None:
        """The guest says when something happened."""
        times = self.times
        match what:
            case "asked":
                self.times = replace(times, asked_at=at)
            case "answered":
                waited = max(0.0, at - times.asked_at) if times.asked_at is not None else 0.0
                self.times = replace(times, asked_at=None, waited=times.waited + waited)
                self.execution.input_header = None
            case "replied":
                self.times = replace(times, ended_at=at)

    def state(self) -> dict[str, Json]:
        """What `restore` must know to go on from here."""
        times = {"waited": self.times.waited, "asked_at": self.times.asked_at}
        return {"events": self.emitted, **times, **self.execution.state()}

    def restore(self, state: Mapping[str, Json]) -> None:
        """Go on where `state` was told."""
        self.emitted = self.skipped = finite(state.get("events"))
        waited, asked_at = state.get("waited"), state.get("asked_at")
        self.times = Times(
            waited=waited if isinstance(waited, float) else 0.0,
            asked_at=asked_at if isinstance(asked_at, float) else None,
        )
        self.execution.restore(state)

    def wake(self) -> None:
        """Make `next` look again at an execution whose state changed."""
        if self.execution.replied or self.execution.idle:
            with contextlib.suppress(asyncio.QueueFull):  # then it is awake
                self._queue.put_nowait(None)

    async def next(self) -> Event | KernelDone | None:
        """The next event; the `KernelDone` when there are no more; None for "look again"."""
        while self._queue.empty():
            execution = self.execution
            if execution.replied and execution.idle:
                return execution.unsaid_error() or execution.done()
            if self._end is not None:
                return self._end
            if not (execution.replied or execution.idle):
                return await self._queue.get()
            now = asyncio.get_running_loop().time()
            self._incomplete_until = self._incomplete_until or now + MISSING_TIME
            try:
                async with asyncio.timeout_at(self._incomplete_until):
                    return await self._queue.get()
            except TimeoutError:
                return execution.unsaid_error() or execution.done()
        return self._queue.get_nowait()

    def end(self, exit_code: int | None, signal: str | None) -> None:
        """The kernel ended."""
        self._end = self.execution.died(exit_code, signal)
        self.started.set()
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(None)

    def forget(self) -> None:
        """Nobody takes events any more: let a waiting reader go on."""
        self._forgotten = True
        while not self._queue.empty():
            self._queue.get_nowait()


def _execute_content(code: str, allow_input: bool, silent: bool) -> dict[str, Json]:
    return {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": {},
        "allow_stdin": allow_input,
        "stop_on_error": False,
    }


def _pack(value: Json) -> bytes:
    """JSON with escapes alone, so that any `str` passes."""
    return json.dumps(value, default=json_default, separators=(",", ":")).encode()
