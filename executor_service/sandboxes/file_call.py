"""One file operation at the guest, from the host's end: a connection, its answers and contents.

Whatever comes from behind the wall is bounded and checked here; what breaks the rules, stalls or
vanishes is a SandboxFailed, promptly.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

from executor_service import errors
from executor_service.errors import CodecellError, SandboxFailed
from executor_service.guest.protocol import CHUNK, VERSION, Kind, ProtocolError, pack_json, parse_json
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.connection import abandon, read_frame, send_frame

IDLE = 60.0  # seconds in which the guest must answer, or take what it is sent
_MAX_ANSWER = 512 * 1024  # bytes of one JSON frame; listings come in many

_ERRORS: Mapping[str, type[CodecellError]] = {
    error.code: error
    for error in (
        errors.FileMissing,
        errors.IsADirectory,
        errors.InvalidPath,
        errors.InvalidRequest,
        errors.PayloadTooLarge,
        errors.RangeNotSatisfiable,
        errors.DiskFull,
    )
}
_SURROGATES = re.compile("[\ud800-\udfff]")


class FileCall:
    """One call of the guest's operation `fs`; an async context manager, whose end ends the call.

    Without a `request` only the guest's helper is made ready; what to do is then said by `begin`.

    Every method raises SandboxFailed where the guest is gone, stalls or talks nonsense, and the
    error that the guest names where it refuses.
    """

    def __init__(
        self, sandbox: Sandbox, request: Mapping[str, Any] | None = None, *, idle: float = IDLE
    ) -> None:
        self._sandbox = sandbox
        self._request = request
        self._idle = idle
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._idle):
                self._reader, self._writer = await self._sandbox.connect()
        except TimeoutError as error:
            raise _stalled() from error
        self._writer.write(pack_json({"v": VERSION, "op": "fs"}))
        if self._request is not None:
            self.begin(self._request)
        return self

    def begin(self, request: Mapping[str, Any]) -> None:
        """Say what to do, once."""
        self._writer.write(pack_json(dict(request)))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        abandon(self._writer)

    async def answer(self, *types: str) -> dict[str, Any]:
        """The next frame: JSON of one of these types."""
        kind, payload = await self._frame(self._idle)
        return _expect(kind, payload, types)

    async def content(self, most: int) -> AsyncGenerator[bytes, None]:
        """The bytes of DATA frames until the empty one; more than `most` is the guest's failure."""
        left = most
        while True:
            kind, payload = await self._frame(self._idle)
            if kind is not Kind.DATA:
                _expect(kind, payload, ())
            if not payload:
                return
            left -= len(payload)
            if left < 0:
                raise nonsense("more content than announced")
            yield payload

    async def upload(self, chunks: AsyncIterator[bytes], *types: str) -> dict[str, Any]:
        """Send all of `chunks`, as fast as the guest takes it, and return its answer."""
        answer = asyncio.create_task(self._frame(None))  # a refusal may come before the end
        try:
            await self._send(chunks, answer)
            async with asyncio.timeout(self._idle):
                kind, payload = await answer
        except TimeoutError as error:
            if not answer.cancelled():
                raise  # it came out of `chunks`
            raise _stalled() from error
        finally:
            answer.cancel()
            await asyncio.wait([answer])
            if not answer.cancelled():
                answer.exception()  # seen
        return _expect(kind, payload, types)

    async def _send(self, chunks: AsyncIterator[bytes], answer: asyncio.Task[tuple[Kind, bytes]]) -> None:
        async for chunk in chunks:
            for start in range(0, len(chunk), CHUNK):
                if answer.done() or not await self._sent(chunk[start : start + CHUNK]):
                    return
        if not answer.done():
            await self._sent(b"")

    async def _sent(self, payload: bytes) -> bool:
        """Send one DATA frame; False if the guest is gone, whose last word then says why."""
        try:
            async with asyncio.timeout(self._idle):
                await send_frame(self._writer, Kind.DATA, payload)
        except TimeoutError as error:
            raise _stalled() from error
        except EOFError:
            return False
        return True

    async def _frame(self, idle: float | None) -> tuple[Kind, bytes]:
        try:
            async with asyncio.timeout(idle):
                return await read_frame(self._reader, _MAX_ANSWER)
        except TimeoutError as error:
            raise _stalled() from error
        except EOFError as error:
            raise SandboxFailed("the sandbox ended during a file operation") from error
        except ProtocolError as error:
            raise nonsense(str(error)) from error


def nonsense(what: str) -> SandboxFailed:
    """The error for an answer that no guest of ours gives."""
    return SandboxFailed(f"the sandbox's answer to a file operation makes no sense: {what}")


def path_of(value: object, *, relative: bool = False) -> str:
    """A path that the guest names, safe to show and to store. Raises SandboxFailed."""
    if not isinstance(value, str) or not 0 < len(value) <= 4096 or "\0" in value:
        raise nonsense("a bad path")
    if ".." in value.split("/") or (relative and value.startswith("/")):
        raise nonsense("a path that leads out")
    return _SURROGATES.sub("\ufffd", value)


def size_of(value: object) -> int:
    """A size that the guest names, from 0 to 2**63 - 1. Raises SandboxFailed."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise nonsense("a bad size")
    return value


def items_of(answer: Mapping[str, Any], field: str, width: int) -> list[list[Any]]:
    """A batch of a listing: at least one item of `width` elements each. Raises SandboxFailed."""
    items = answer.get(field)
    if not isinstance(items, list) or not items:
        raise nonsense("a bad listing")
    if not all(isinstance(item, list) and len(item) == width for item in items):
        raise nonsense("a bad listing")
    return items


def _expect(kind: Kind, payload: bytes, types: tuple[str, ...]) -> dict[str, Any]:
    if kind is not Kind.JSON:
        raise nonsense(f"an unexpected {kind.name} frame")
    try:
        answer = parse_json(payload)
    except ProtocolError as error:
        raise nonsense(str(error)) from error
    if answer.get("type") == "error":
        detail = _SURROGATES.sub("\ufffd", str(answer.get("detail", "")))[:1000]
        raise _ERRORS.get(str(answer.get("code")), SandboxFailed)(detail or "a file operation failed")
    if answer.get("type") not in types:
        raise nonsense("an unexpected answer")
    return answer


def _stalled() -> SandboxFailed:
    return SandboxFailed("the sandbox does not answer a file operation")
