"""Walking and removing trees that hostile code made, in bounded time and memory.

Links are never followed. A directory is opened by its path from the top, so that a tree of any
depth needs two descriptors; what lies deeper than a path can say (4096 bytes) is not visited.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from executor_service.guest.fspaths import PART_PREFIX, PATH_MAX

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = PATH_MAX - 512  # bytes of a directory's path: its entries' stay usable
_BATCH = 1000


class Budget:
    """How many entries and seconds a walk may take.

    `spent`: it stopped early. `partial`: something was not visited, for that or for its depth.
    """

    def __init__(self, *, entries: int, seconds: float) -> None:
        self.entries = entries
        self.deadline = time.monotonic() + seconds
        self.spent = False
        self.partial = False

    def take(self) -> bool:
        """Whether one more entry may be visited."""
        self.entries -= 1
        if self.entries < 0 or time.monotonic() > self.deadline:
            self.spent = self.partial = True
        return not self.spent


@dataclass(frozen=True)
class Found:
    """An entry of a tree: its path below the top, and its own status (of a link, the link's)."""

    path: str
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)


def walk(top: str, budget: Budget, enter: Callable[[str], bool], *, strict: bool = False) -> Iterator[Found]:
    """Every entry below the directory `top`, sorted within each directory, parents first.

    `enter` is called with a subdirectory's path; False leaves its inside out. With `strict` a
    subdirectory that cannot be read is an error, else it is passed over.

    Raises:
        OSError: `top` cannot be read.
    """
    top_fd = os.open(top, DIRECTORY & ~os.O_NOFOLLOW)
    try:
        pending = [""]
        while pending and not budget.spent:
            directory = pending.pop()
            try:
                found = _entries(top_fd, directory, budget)
            except OSError:
                if not directory or strict:
                    raise
                continue
            yield from found
            inner = [f.path for f in found if f.is_directory and enter(f.path)]
            within = [path for path in inner if len(os.fsencode(path)) < _DEEPEST]
            budget.partial |= len(within) < len(inner)
            pending.extend(reversed(within))
    finally:
        os.close(top_fd)


def _entries(top_fd: int, directory: str, budget: Budget) -> list[Found]:
    fd = os.open(directory or ".", DIRECTORY, dir_fd=top_fd)
    found = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if not budget.take():
                    break
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone meanwhile
                found.append(Found(os.path.join(directory, entry.name), status))
    finally:
        os.close(fd)
    return sorted(found, key=lambda f: f.path)


def remove(path: str) -> None:
    """Remove a file, a link, or a directory with all that it holds, however deep.

    Raises:
        OSError: something in it cannot be removed; what was removed before stays removed.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    top = os.open(path, DIRECTORY)
    try:
        # Subdirectories of subdirectories are moved up to `top` and emptied there: no recursion,
        # two descriptors, and no path grows too long.
        fresh = (f"{PART_PREFIX}{os.urandom(8).hex()}-{n}" for n in itertools.count())
        while batch := _batch(top):
            for name, is_directory in batch:
                if is_directory:
                    _remove_one(top, name, fresh)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _remove_one(top: int, name: str, fresh: Iterator[str]) -> None:
    fd = os.open(name, DIRECTORY, dir_fd=top)
    try:
        while batch := _batch(fd):
            for child, is_directory in batch:
                if is_directory:
                    os.rename(child, next(fresh), src_dir_fd=fd, dst_dir_fd=top)
                else:
                    os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)


def _batch(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(e.name, e.is_dir(follow_symlinks=False)) for e in itertools.islice(entries, _BATCH)]
