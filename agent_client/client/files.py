"""A session's files. Paths are relative to the workspace; an absolute path is one in the sandbox."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

from agent_client.client.bodies import file_path
from agent_client.client.transport import QUIET_TIME, Transport, body_of
from agent_client.wire.parse import items
from agent_client.wire.service import FileEntry

_CHUNK = 1 << 16


class AsyncFiles:
    """Read, write, list, delete, move; upload and download without holding a file in memory."""

    def __init__(self, transport: Transport, session_path: str) -> None:
        self._transport = transport
        self._session = session_path

    async def list(self, path: str = ".", *, recursive: bool = False) -> Sequence[FileEntry]:
        """The entries of a directory."""
        params = {"path": path, "recursive": "true" if recursive else "false"}
        listed = await self._transport.json("GET", f"{self._session}/files", params=params)
        return [FileEntry.parse(e) for e in items(listed.get("items"))]

    async def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """A file's bytes; with `max_bytes`, at most its first so many."""
        data = bytearray()
        async for chunk in self.chunks(path):
            data += chunk
            if max_bytes is not None and len(data) >= max_bytes:
                break
        return bytes(data[:max_bytes])

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """A file's text; bytes that are not in the encoding become U+FFFD."""
        return (await self.read(path)).decode(encoding, "replace")

    async def chunks(self, path: str) -> AsyncIterator[bytes]:
        """A file's bytes as they come."""
        async for chunk in self._body(self._url(path), {}):
            yield chunk

    async def write(self, path: str, data: str | bytes | AsyncIterable[bytes]) -> None:
        """Write a file, with its parent directories, replacing what is there."""
        content = data.encode() if isinstance(data, str) else data
        await self._transport.json("PUT", self._url(path), content=content, wait=QUIET_TIME)

    async def upload(self, local: str | os.PathLike[str], path: str | None = None) -> None:
        """Copy a local file into the workspace (under its own name unless `path` says another)."""
        source = Path(local)
        await self.write(path or source.name, _read_file(source))

    async def download(self, path: str, local: str | os.PathLike[str]) -> Path:
        """Copy a workspace file to a local path, replacing it once it is complete; that path."""
        return await _save(self.chunks(path), Path(local))

    async def delete(self, path: str) -> None:
        """Delete a file, or a directory and what is in it."""
        await self._transport.json("DELETE", self._url(path))

    async def mkdir(self, path: str) -> None:
        """Make a directory and its parents."""
        await self._transport.json("POST", self._url(path), json={"op": "mkdir"})

    async def move(self, path: str, to: str) -> None:
        """Move or rename."""
        await self._transport.json("POST", self._url(path), json={"op": "move", "to": to})

    async def archive(self, path: str = ".") -> bytes:
        """A directory as a tar archive, in memory; `download_archive` streams it to a file."""
        return b"".join([chunk async for chunk in self._body(f"{self._session}/archive", {"path": path})])

    async def download_archive(self, local: str | os.PathLike[str], path: str = ".") -> Path:
        """Save a directory as a tar archive. Unpack it with `tarfile`'s `data` filter: it is untrusted."""
        return await _save(self._body(f"{self._session}/archive", {"path": path}), Path(local))

    async def extract(self, data: bytes | AsyncIterable[bytes], path: str = ".") -> None:
        """Unpack a tar archive into a directory of the workspace."""
        url = f"{self._session}/archive"
        await self._transport.json("PUT", url, content=data, params={"path": path}, wait=QUIET_TIME)

    def _url(self, path: str) -> str:
        return f"{self._session}/files/{file_path(path)}"

    async def _body(self, url: str, params: dict[str, str]) -> AsyncIterator[bytes]:
        async with self._transport.stream("GET", url, params=params, wait=QUIET_TIME) as response:
            async for chunk in body_of(response):
                yield chunk


async def _read_file(source: Path) -> AsyncIterator[bytes]:
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


async def _save(chunks: AsyncIterator[bytes], target: Path) -> Path:
    partial = target.with_name(target.name + ".part")
    try:
        with partial.open("wb") as file:
            async for chunk in chunks:
                file.write(chunk)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
