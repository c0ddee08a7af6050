"""Copying files between a directory of the user's and a workspace whose code is not trusted.

Out of the sandbox come only names and bytes, both hostile. They are written below the directory and
nowhere else, through no symlink, to no dotfile, to none that tools here load unasked (`LOADED_UNASKED`),
never over a file that was not written from here and left alone since, mode 0644, bounded in count and bytes.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import secrets
import stat
import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 200
MAX_BYTES = 64 << 20
MAX_DEPTH = 16
# What Python, pytest and Jupyter run or load merely because it lies there.
LOADED_UNASKED = (
    "conftest.py", "pytest.ini", "sitecustomize.py", "usercustomize.py", "*.pth", "*._pth", "*.pyc",
    "__pycache__", "ipython*config.py", "jupyter*config.py", "jupyter*config.json",
)  # fmt: skip
RECORD = ".codecell-files.json"  # what was written from here, by path: [size, mtime_ns, inode]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """A file is not copied; the message says why."""


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file to upload: its path relative to the directory, with `/`, and its size in bytes."""

    path: str
    size: int


class Mirror:
    """One directory. `save` writes what a sandbox made, `local_files` lists what to upload."""

    def __init__(self, directory: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self.directory = directory.absolute()
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._written = 0
        self._bytes = 0
        self._own: dict[str, list[int]] = {}

    def open(self) -> None:
        """Make the directory if need be and read the record of earlier programs' files.

        Raises:
            OSError: it cannot be made, or is no directory.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):
            with open(self._record_file(os.O_RDONLY), encoding="utf-8") as file:
                found = json.load(file)
            if isinstance(found, dict):
                self._own = {k: v for k, v in found.items() if isinstance(v, list)}

    def local_files(self) -> tuple[list[LocalFile], list[str]]:
        """The files to upload, and why others are not: no dotfiles, no links, bounded."""
        found: list[LocalFile] = []
        left_out: list[str] = []
        size = 0
        for path, info in _walk(self.directory):
            if len(found) >= self._max_files or size + info.st_size > self._max_bytes:
                left_out.append(
                    f"{path} was not uploaded: more than {self._max_files} files or {self._max_bytes} bytes"
                )
                break
            size += info.st_size
            found.append(LocalFile(path=path, size=info.st_size))
        return found, left_out

    async def read(self, file: LocalFile) -> AsyncIterator[bytes]:
        """A local file's bytes, at most as many as it was listed with."""
        *parents, name = _parts(file.path)
        directory = self._enter(parents, make=False)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=directory)
        finally:
            os.close(directory)
        left = file.size
        with os.fdopen(descriptor, "rb") as source:
            while left > 0 and (chunk := source.read(min(left, 1 << 16))):
                left -= len(chunk)
                yield chunk

    async def save(self, path: str, size: int, chunks: AsyncIterator[bytes]) -> Path:
        """Write what the sandbox has at `path` (which it says has `size` bytes); where it is now.

        Raises:
            Refused: it is not written; nothing was changed.
        """
        parts = _parts(path)
        if any(_is_loaded_unasked(part) for part in parts):
            raise Refused("tools here would load a file of that name without being asked")
        if self._written >= self._max_files:
            raise Refused(f"more than {self._max_files} files")
        if self._bytes + size > self._max_bytes:
            raise Refused(f"more than {self._max_bytes} bytes in all")
        *parents, name = parts
        try:
            directory = self._enter(parents, make=True)
        except OSError as error:
            raise Refused(f"{'/'.join(parents)} is not a directory of its own ({error.strerror})") from error
        try:
            replace = self._may_replace("/".join(parts), name, directory)
            await self._write("/".join(parts), name, directory, chunks, replace=replace)
        except OSError as error:
            raise Refused(str(error.strerror or error)) from error
        finally:
            os.close(directory)
        return self.directory.joinpath(*parts)

    def _enter(self, parents: list[str], *, make: bool) -> int:
        """A descriptor of a directory below ours, reached through no link."""
        here = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in parents:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=here)
                inner = os.open(name, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = inner
        except BaseException:
            os.close(here)
            raise
        return here

    def _may_replace(self, path: str, name: str, directory: int) -> bool:
        """Whether a file of ours stands there; False where nothing does."""
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISREG(info.st_mode) and self._own.get(path) == _stamp(info):
            return True
        raise Refused("a file that Codecell did not write, or that was changed since, is there already")

    async def _write(
        self, path: str, name: str, directory: int, chunks: AsyncIterator[bytes], *, replace: bool
    ) -> None:
        temporary = f".codecell-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            got = 0
            with os.fdopen(descriptor, "wb") as target:
                async for chunk in chunks:
                    got += len(chunk)
                    if self._bytes + got > self._max_bytes:
                        raise Refused(f"more than {self._max_bytes} bytes in all")
                    target.write(chunk)
                os.fchmod(target.fileno(), 0o644)
                target.flush()
            if replace:
                os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            else:  # fails if there is one by now
                os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
        self._bytes += got
        self._written += 1
        self._own[path] = _stamp(os.stat(name, dir_fd=directory, follow_symlinks=False))
        self._save_record()

    def _save_record(self) -> None:
        with (
            contextlib.suppress(OSError),
            open(self._record_file(os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file,
        ):
            json.dump(self._own, file)

    def _record_file(self, flags: int) -> int:
        return os.open(self.directory / RECORD, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _stamp(info: os.stat_result) -> list[int]:
    return [info.st_size, info.st_mtime_ns, info.st_ino]


def _parts(path: str) -> list[str]:
    """The components of a path that may be written.

    Raises:
        Refused: it is absolute, leaves the directory, or has a hidden or unprintable name in it.
    """
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise Refused("it lies too deep")
    for part in parts:
        if part in ("", ".", ".."):
            raise Refused("its path leaves the directory")
        if part.startswith((".", "~")):
            raise Refused("hidden files are not copied")
        if "\\" in part or any(_unprintable(c) for c in part) or len(os.fsencode(part)) > 255:
            raise Refused("its name has characters that a file name should not have")
    return parts


def _is_loaded_unasked(name: str) -> bool:
    """As a file system sees it that takes no notice of case and of how a character is written."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return any(fnmatch.fnmatchcase(folded, pattern) for pattern in LOADED_UNASKED)


def _unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _walk(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below, sorted, by path relative to it; dotfiles and links are passed over."""
    for root, folders, files in os.walk(directory, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            full = Path(root, name)
            path = full.relative_to(directory).as_posix()
            with contextlib.suppress(OSError, Refused):
                _parts(path)
                info = full.lstat()
                if stat.S_ISREG(info.st_mode):
                    yield path, info


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Bytes that are there already, as `save` takes them."""
    yield data
