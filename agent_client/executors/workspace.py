"""A session's workspace beside a directory of the user's: what goes in, what is new, what comes out."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from agent_client.client.session import AsyncSession
from agent_client.errors import FileMissing, StreamBroken
from agent_client.executors.mirror import Mirror, Refused
from agent_client.executors.output_log import image_name
from agent_client.messages import Artifact
from agent_client.wire.service import FileEntry

MAX_IN_MEMORY = 8 << 20  # bytes of artifacts kept in memory by a conversation without a directory
MAX_TOLD = 50  # new files told of at once
_PASSED = 4 << 20  # bytes of workspace files passed to a program in another language
_Stamp = tuple[int, object]


class Workspace:
    """Knows which files of the workspace it has seen. With a directory, new files are saved there."""

    def __init__(self, directory: Path | None) -> None:
        self._mirror = Mirror(directory) if directory is not None else None
        self._seen: dict[str, _Stamp] = {}
        self._in_memory = 0
        self._images = 0

    def reset(self) -> None:
        """The session is gone: the next one starts empty."""
        self._seen = {}

    async def upload(self, session: AsyncSession) -> list[str]:
        """Copy the directory's files into a new session; what there is to say about it."""
        if self._mirror is None:
            return []
        self._mirror.open()
        files, notes = self._mirror.local_files()
        for file in files:
            await session.files.write(file.path, self._mirror.read(file))
        if files:
            self._seen = {e.path: _stamp(e) for e in await _listed(session)}
        return notes

    async def contents(self, session: AsyncSession) -> Mapping[str, bytes]:
        """The workspace's small files, at most 50 and 4 MiB, for a program in another sandbox."""
        found: dict[str, bytes] = {}
        left = _PASSED
        for entry in await _listed(session):
            if entry.size <= left and len(found) < MAX_TOLD:
                found[entry.path] = await session.files.read(entry.path, max_bytes=left)
                left -= len(found[entry.path])
        return found

    async def gather(
        self, session: AsyncSession | None, images: Sequence[tuple[str, bytes]]
    ) -> tuple[list[Artifact], list[str]]:
        """The files that are new or changed since last time and the images shown; and what to say."""
        made: list[Artifact] = []
        notes: list[str] = []
        for mime, data in images:
            self._images += 1
            made.append(await self._image(image_name(self._images, mime), mime, data, notes))
        if session is None:
            return made, notes
        entries = await _listed(session)
        new = [e for e in entries if self._seen.get(e.path) != _stamp(e)]
        self._seen = {e.path: _stamp(e) for e in entries}
        if len(new) > MAX_TOLD:
            notes.append(f"{len(new) - MAX_TOLD} more new files stay in the sandbox")
        for entry in new[:MAX_TOLD]:
            artifact = await self._file(session, entry, notes)
            if artifact is not None:
                made.append(artifact)
        return made, notes

    async def _image(self, name: str, mime: str, data: bytes, notes: list[str]) -> Artifact:
        path = await self._saved(name, len(data), _once(data), notes) if self._mirror else None
        return Artifact(name=name, mime=mime, size=len(data), path=path, data=self._held(data))

    async def _file(self, session: AsyncSession, entry: FileEntry, notes: list[str]) -> Artifact | None:
        mime = mimetypes.guess_type(entry.path)[0] or "application/octet-stream"
        path, data = None, None
        try:
            if self._mirror:
                path = await self._saved(entry.path, entry.size, session.files.chunks(entry.path), notes)
            elif self._in_memory + entry.size <= MAX_IN_MEMORY:
                data = self._held(await session.files.read(entry.path, max_bytes=MAX_IN_MEMORY))
        except (FileMissing, StreamBroken):
            return None  # it went away, or changed, while being read
        return Artifact(name=entry.path, mime=mime, size=entry.size, path=path, data=data)

    async def _saved(
        self, path: str, size: int, chunks: AsyncIterator[bytes], notes: list[str]
    ) -> Path | None:
        assert self._mirror is not None
        try:
            return await self._mirror.save(path, size, chunks)
        except Refused as why:
            notes.append(f"{path!r} was not saved in {self._mirror.directory}: {why}")
            return None

    def _held(self, data: bytes) -> bytes | None:
        if self._in_memory + len(data) > MAX_IN_MEMORY:
            return None
        self._in_memory += len(data)
        return data


async def _listed(session: AsyncSession) -> list[FileEntry]:
    """The workspace's regular files whose names are not hidden."""
    entries = await session.files.list(recursive=True)
    return [e for e in entries if e.type == "file" and not _hidden(e.path)]


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.split("/"))


def _stamp(entry: FileEntry) -> _Stamp:
    return entry.size, entry.modified_at


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
