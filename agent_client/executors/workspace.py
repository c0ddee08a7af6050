"""A session's workspace beside a directory of the user's: what goes in, what is new, what comes out."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from agent_client.client.bodies import is_text
from agent_client.client.session import AsyncSession
from agent_client.errors import FileMissing, InvalidRequest, PayloadTooLarge, StreamBroken
from agent_client.executors.mirror import Mirror, Refused, once
from agent_client.executors.output_log import image_name
from agent_client.messages import Artifact
from agent_client.wire.service import FileEntry

MAX_IN_MEMORY = 8 << 20  # bytes of artifacts kept in memory by a conversation without a directory
MAX_TOLD = 50  # new files told of at once
_PASSED = 4 << 20  # bytes of workspace files passed to a program in another language
_Stamp = tuple[int, object]


class Workspace:
    """Knows which files of the workspace it has seen. With a directory, new files are saved there.

    `images` counts the images that were shown rather than saved: their names go on from it.
    """

    def __init__(self, directory: Path | None) -> None:
        self._mirror = Mirror(directory) if directory is not None else None
        self._seen: dict[str, _Stamp] = {}
        self._in_memory = 0
        self.images = 0
        self.reset()

    def reset(self, *, fresh: bool = True) -> None:
        """Another session comes next: a fresh one, or one that was used before."""
        self._seen = {}
        self._fresh = fresh
        self._begun = False

    async def begin(self, session: AsyncSession) -> list[str]:
        """Copy the directory's files into a fresh session; what is there then is not new. Does nothing
        once that is done. What there is to say about it is returned.
        """
        notes: list[str] = []
        if self._begun:
            return notes
        if self._mirror is not None:
            self._mirror.open()
            notes = await self._upload(self._mirror, session) if self._fresh else []
        if self._mirror is not None or not self._fresh:
            self._seen = {e.path: _stamp(e) for e in await _listed(session)}
        self._begun = True
        return notes

    async def _upload(self, mirror: Mirror, session: AsyncSession) -> list[str]:
        files, notes = mirror.local_files()
        for file in files:
            try:
                await session.files.write(file.path, mirror.read(file))
            except (OSError, InvalidRequest, PayloadTooLarge) as error:
                notes.append(f"{file.path} was not uploaded: {error}")
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
            self.images += 1
            made.append(await self._image(image_name(self.images, mime), mime, data, notes))
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
        path = await self._saved(name, len(data), once(data), notes) if self._mirror else None
        return Artifact(name=name, mime=mime, size=len(data), path=path, data=self._held(data))

    async def _file(self, session: AsyncSession, entry: FileEntry, notes: list[str]) -> Artifact | None:
        mime = mimetypes.guess_type(entry.path)[0] or "application/octet-stream"
        path, data = None, None
        try:
            if self._mirror:
                path = await self._saved(entry.path, entry.size, session.files.chunks(entry.path), notes)
            elif self._in_memory + entry.size <= MAX_IN_MEMORY:
                data = self._held(await session.files.read(entry.path, max_bytes=MAX_IN_MEMORY))
        except (FileMissing, InvalidRequest, StreamBroken):
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
    """The workspace's regular files whose names are texts and not hidden."""
    entries = await session.files.list(recursive=True)
    return [e for e in entries if e.type == "file" and _is_shown(e.path)]


def _is_shown(path: str) -> bool:
    return is_text(path) and not any(p.startswith(".") or p == "__pycache__" for p in path.split("/"))


def _stamp(entry: FileEntry) -> _Stamp:
    return entry.size, entry.modified_at
