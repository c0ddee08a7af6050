"""The files of one sandbox, as its user sees them: what sessions and runs read, write and collect.

Each call is one connection to the guest (:mod:`executor_service.guest.files` serves it under the
user's uid) and ends with it; contents are streamed, neither side reads ahead of the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from executor_service.errors import PayloadTooLarge, SandboxFailed
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.file_call import IDLE, FileCall, items_of, nonsense, path_of, size_of

FileType = Literal["file", "directory", "symlink", "other"]
Reason = Literal["too_many", "too_large", "not_a_file", "unreadable", "not_searched"]

MAX_LISTED = 50_000
MAX_ARCHIVE = 8 << 30
_DEADLINE = 60.0  # seconds for a whole call that streams nothing to or from a caller
CHANGED_TIME = 15.0  # seconds for the list of an execution's files, whose answer waits for it
READY_TIME = 2.0  # seconds that a call made ready ahead of time has to answer
_LATEST = 253402300799  # the last second of the year 9999
_REALTIME_COARSE = 5  # Linux's CLOCK_REALTIME_COARSE, by which files are stamped

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file, directory, link or other thing.

    `path` is relative to the workspace, or absolute where that was asked for; bytes in it that
    are not UTF-8 show as U+FFFD. `modified_at` is seconds since 1970, `mode` permission bits.
    """

    path: str
    type: FileType
    size: int
    modified_at: float
    mode: int


@dataclass(frozen=True, kw_only=True)
class Omitted:
    """A file that was not collected, and why; `.` with `not_searched` if the search was cut."""

    path: str
    size: int
    reason: Reason


def now_ns() -> int:
    """This instant by the clock that stamps files: what to pass to `Files.changed` later.

    The ordinary clock is up to 10 ms ahead of it, which would lose files.
    """
    return time.clock_gettime_ns(_REALTIME_COARSE)


class Files:
    """File operations on one sandbox. Paths are relative to the workspace, or absolute.

    Every method raises SandboxFailed when the guest is gone, stalls or breaks the protocol;
    FileMissing, IsADirectory, InvalidPath and DiskFull where they fit.
    """

    def __init__(self, sandbox: Sandbox, *, idle: float = IDLE) -> None:
        self._sandbox = sandbox
        self._idle = idle

    async def list(self, path: str = ".", recursive: bool = False) -> Sequence[Entry]:
        """What lies in a directory, links not followed, sorted in each directory.

        Raises:
            PayloadTooLarge: more than 50,000 entries.
        """
        return await self._bounded({"call": "list", "path": path, "recursive": recursive}, _listing)

    async def stat(self, path: str) -> Entry:
        """The file at `path`, or the one that a link there leads to."""
        return await self._bounded({"call": "stat", "path": path}, _entry_answer)

    @asynccontextmanager
    async def read(
        self, path: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[tuple[Entry, AsyncIterator[bytes]]]:
        """A regular file and its bytes from `offset`, at most `length`.

        Exactly as many bytes come as the entry's size promises, or the iterator raises. What else
        a path may be (FIFO, socket, device) is an InvalidPath at once.

        Raises:
            RangeNotSatisfiable: `offset` lies at or behind the end (0 is always allowed).
        """
        request = {"call": "read", "path": path, "offset": offset, "length": length}
        async with FileCall(self._sandbox, request, idle=self._idle) as call:
            answer = await call.answer("entry")
            entry, promised = _entry(answer.get("entry")), size_of(answer.get("length"))
            if promised > (entry.size if length is None else min(length, entry.size)):
                raise nonsense("more content than the file has")
            async with aclosing(_exactly(call, promised)) as content:
                yield entry, content

    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> Entry:
        """Make or replace a file, atomically, and its parents; mode 0644.

        A link at `path` is replaced. If `chunks` raises, `path` is as it was.
        """
        async with FileCall(self._sandbox, {"call": "write", "path": path}, idle=self._idle) as call:
            return _entry((await call.upload(chunks, "entry")).get("entry"))

    async def put(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write many small files at once, as `write` does."""

        async def contents() -> AsyncIterator[bytes]:
            for _, content in files:
                yield content

        async def send(call: FileCall) -> None:
            await call.upload(contents(), "done")

        if files:
            sizes = [[path, len(content)] for path, content in files]
            await self._bounded({"call": "put", "files": sizes}, send)

    async def delete(self, path: str) -> None:
        """Remove a file or a link, or a directory with all that it holds."""
        await self._bounded({"call": "delete", "path": path}, _done)

    async def mkdir(self, path: str) -> None:
        """Make a directory and its parents; nothing if it is there already."""
        await self._bounded({"call": "mkdir", "path": path}, _done)

    async def move(self, path: str, to: str) -> None:
        """Rename a file or directory, replacing a file at `to`; makes the parents of `to`."""
        await self._bounded({"call": "move", "path": path, "to": to}, _done)

    @asynccontextmanager
    async def archive(self, path: str = ".") -> AsyncIterator[AsyncIterator[bytes]]:
        """A tar stream of what is below `path`; links as links; FIFOs, sockets, devices left out.

        Raises:
            PayloadTooLarge: more than 4 GiB or 200,000 entries; said before the first byte.
        """
        async with FileCall(self._sandbox, {"call": "archive_get", "path": path}, idle=self._idle) as call:
            await call.answer("archive")
            async with aclosing(call.content(MAX_ARCHIVE)) as content:
                yield content

    async def extract(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Extract a plain tar stream into the directory `path`, which is made if missing.

        What was extracted before an error stays.

        Raises:
            InvalidPath: a member that leaves `path`, by its name or through a link; a device, a FIFO.
            InvalidRequest: not a tar.
        """
        async with FileCall(self._sandbox, {"call": "archive_put", "path": path}, idle=self._idle) as call:
            await call.upload(chunks, "done")

    async def collect(
        self, globs: Sequence[str], max_files: int = 100, max_bytes: int = 10 << 20
    ) -> tuple[Sequence[tuple[str, bytes]], Sequence[Omitted]]:
        """The regular files that match, with content, by path; and what was left out, and why."""
        request = {"call": "collect", "globs": [*globs], "max_files": max_files, "max_bytes": max_bytes}
        if not globs:
            return [], []
        return await self._bounded(request, lambda call: _collected(call, max_files, max_bytes))

    @asynccontextmanager
    async def ready(self) -> AsyncGenerator[FileCall | None, None]:
        """A call made ready ahead of time, for `changed`; None where the sandbox does not answer."""
        async with AsyncExitStack() as stack:
            call: FileCall | None = None
            with suppress(SandboxFailed):
                call = await stack.enter_async_context(FileCall(self._sandbox, idle=self._idle))
            yield call

    async def changed(
        self, since_ns: int, limit: int = 1000, *, ready: FileCall | None = None
    ) -> tuple[Sequence[tuple[str, int]], bool]:
        """Regular files of the workspace created or changed since `since_ns` (see `now_ns`).

        Paths with sizes, and whether there are more than `limit` (or than could be looked at).
        What housekeeping wrote (pip, caches, `__pycache__`) is passed over. A call that is `ready` saves the
        time to make one; user code may have stopped it, so it has `READY_TIME` and then another is made.
        """
        request = {"call": "changed", "since_ns": since_ns, "limit": limit}
        if ready is not None:
            with suppress(SandboxFailed, TimeoutError):
                async with asyncio.timeout(READY_TIME):
                    ready.begin(request)
                    return await _changed(ready, limit)
        return await self._bounded(request, lambda call: _changed(call, limit), CHANGED_TIME)

    async def _bounded(
        self,
        request: Mapping[str, Any],
        work: Callable[[FileCall], Awaitable[T]],
        seconds: float = _DEADLINE,
    ) -> T:
        try:
            async with asyncio.timeout(seconds), FileCall(self._sandbox, request, idle=self._idle) as call:
                return await work(call)
        except TimeoutError as error:
            raise SandboxFailed("a file operation took too long") from error


async def _exactly(call: FileCall, size: int) -> AsyncGenerator[bytes, None]:
    async with aclosing(call.content(size)) as content:
        async for chunk in content:
            size -= len(chunk)
            yield chunk
    if size:
        raise nonsense("less content than announced")


async def _done(call: FileCall) -> None:
    await call.answer("done")


async def _entry_answer(call: FileCall) -> Entry:
    return _entry((await call.answer("entry")).get("entry"))


async def _listing(call: FileCall) -> list[Entry]:
    entries: list[Entry] = []
    while (answer := await call.answer("entries", "done"))["type"] == "entries":
        entries += [_entry(item) for item in items_of(answer, "entries", 5)]
        if len(entries) > MAX_LISTED:
            raise nonsense("an endless listing")
    if answer.get("truncated"):
        raise PayloadTooLarge(f"more than {MAX_LISTED} entries, or too deep; list a directory below")
    return entries


async def _collected(
    call: FileCall, max_files: int, max_bytes: int
) -> tuple[list[tuple[str, bytes]], list[Omitted]]:
    files: dict[str, bytes] = {}
    omitted: list[Omitted] = []
    while (answer := await call.answer("file", "omitted", "done"))["type"] != "done":
        if answer["type"] == "omitted":
            omitted += [_omitted(item) for item in items_of(answer, "files", 3)]
        else:
            path, size = path_of(answer.get("path"), relative=True), size_of(answer.get("size"))
            max_files, max_bytes = max_files - 1, max_bytes - size
            if max_files < 0 or max_bytes < 0:
                raise nonsense("more files than asked for")
            files[path] = b"".join([chunk async for chunk in _exactly(call, size)])
        if len(omitted) > 1000:
            raise nonsense("an endless listing")
    return [*files.items()], omitted


async def _changed(call: FileCall, limit: int) -> tuple[list[tuple[str, int]], bool]:
    files: list[tuple[str, int]] = []
    while (answer := await call.answer("changed", "done"))["type"] == "changed":
        for path, size in items_of(answer, "files", 2):
            files.append((path_of(path, relative=True), size_of(size)))
        if len(files) > limit:
            raise nonsense("an endless listing")
    return files, answer.get("truncated") is True


def _entry(value: object) -> Entry:
    if not isinstance(value, list) or len(value) != 5:
        raise nonsense("a bad entry")
    path, kind, size, modified_at, mode = value
    if kind not in get_args(FileType) or type(mode) is not int or not 0 <= mode <= 0o7777:
        raise nonsense("a bad entry")
    if type(modified_at) not in (int, float):
        raise nonsense("a bad entry")
    modified_at = float(max(0, min(modified_at, _LATEST)))  # a program may set any; NaN gives 0
    return Entry(path=path_of(path), type=kind, size=size_of(size), modified_at=modified_at, mode=mode)


def _omitted(value: list[Any]) -> Omitted:
    path, size, reason = value
    if reason not in get_args(Reason):
        raise nonsense("a bad reason")
    return Omitted(path=path_of(path, relative=True), size=size_of(size), reason=reason)
