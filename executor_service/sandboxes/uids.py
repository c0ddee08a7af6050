"""Host user ids for local sandboxes when the service is root: three of its own for each, never shared.

A slot is leased under a file lock in a directory common to all services of this host, so that two of
them never use the same ids; slots whose ids still have processes are passed over. The range is that of
`root` or `codecell` in /etc/subuid, else it starts at 2 000 000.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FIRST, DEFAULT_COUNT = 2_000_000, 65_536
SLOT = 4  # 0, 1000 and 1001 of the sandbox, and one to spare
LOCKS = Path("/run/codecell/uids")


class NoUidLeft(RuntimeError):
    """Every slot of the range is in use."""


@dataclass(frozen=True, kw_only=True)
class UidLease:
    """Three host ids from `base`; the lock is held while `fd` is open."""

    base: int
    fd: int

    def release(self) -> None:
        """Give the ids back. Only once no process has them."""
        with contextlib.suppress(OSError):
            os.close(self.fd)


class UidRange:
    """The ids that this host lends to sandboxes."""

    def __init__(self, first: int, count: int, locks: Path = LOCKS) -> None:
        self._first = first
        self._slots = count // SLOT
        self._locks = locks
        self._locks.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._next = 0
        self._occupied = _uids_in_use(range(first, first + count))

    def lease(self) -> UidLease:
        """The next free slot.

        Raises:
            NoUidLeft: all are taken.
        """
        for _ in range(self._slots):
            slot = self._next
            self._next = (self._next + 1) % self._slots
            base = self._first + slot * SLOT
            if not self._occupied.isdisjoint(range(base, base + SLOT)):
                continue
            fd = os.open(self._locks / str(base), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                continue
            return UidLease(base=base, fd=fd)
        raise NoUidLeft(f"all {self._slots} slots of user ids from {self._first} are in use")


def configured_range(subuid: Path = Path("/etc/subuid")) -> tuple[int, int]:
    """First id and count."""
    with contextlib.suppress(OSError):
        for line in subuid.read_text().splitlines():
            name, _, rest = line.partition(":")
            first, _, count = rest.partition(":")
            if (
                name in ("root", "codecell", "0")
                and first.isdigit()
                and count.isdigit()
                and int(count) >= 4096
            ):
                return int(first), int(count)
    return DEFAULT_FIRST, DEFAULT_COUNT


def _uids_in_use(candidates: range) -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                uid = os.stat(f"/proc/{name}").st_uid
                if uid in candidates:
                    found.add(uid)
    return found
