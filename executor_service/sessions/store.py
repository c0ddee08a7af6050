"""What a service must find again after a restart, in SQLite: sessions, detached operations, closed sessions.

No code, no variable and no output is stored, here or elsewhere on a disk. A commit outlives the death of
this process, which is all that is needed: what would lose one (a crash of the machine) ends the
sandboxes too, so nothing waits for the disk. One thread of its own does the work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from executor_service.errors import DiskFull, Internal

log = logging.getLogger(__name__)

T = TypeVar("T")
SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, number INTEGER, owner TEXT, sandbox TEXT, language TEXT, image TEXT, limits TEXT,
    network TEXT, metadata TEXT, has_env INTEGER,
    ttl REAL, idle_ttl REAL, created_at REAL, expires_at REAL
) WITHOUT ROWID;
CREATE TABLE operations (
    id TEXT PRIMARY KEY, session TEXT, kind TEXT, kernel TEXT, stdin TEXT, limits TEXT, started_at REAL,
    since_ns INTEGER, cpu_time REAL, oom_kills INTEGER, ended_at REAL
) WITHOUT ROWID;
CREATE INDEX operations_by_session ON operations (session);
CREATE TABLE closed (id TEXT PRIMARY KEY, owner TEXT, reason TEXT, at REAL) WITHOUT ROWID;
"""
_JSON = frozenset({"limits", "network", "metadata"})
Stdin = Literal["none", "given", "open"]


@dataclass(frozen=True, kw_only=True)
class SessionRow:
    """A session; instants are seconds since 1970. `sandbox` is its sandbox's id, `owner` the id of a key.

    `has_env`: it has variables, which are with its guest.
    """

    id: str
    number: int
    owner: str
    sandbox: str
    language: str
    image: str
    limits: Mapping[str, Any]
    network: Any
    metadata: Mapping[str, str]
    has_env: bool
    ttl: float
    idle_ttl: float
    created_at: float
    expires_at: float


@dataclass(frozen=True, kw_only=True)
class OperationRow:
    """A detached operation of a session.

    `kernel` names the kernel that executes it; None for a process. `cpu_time` and `oom_kills` are what the
    sandbox's meters said before it, `since_ns` from when on changed files are its.
    """

    id: str
    session: str
    kind: Literal["execution", "command"]
    kernel: str | None
    stdin: Stdin = "none"
    limits: Mapping[str, Any] = field(default_factory=dict)
    started_at: float
    since_ns: int
    cpu_time: float | None
    oom_kills: int
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClosedRow:
    """A session that was closed at the instant `at`."""

    id: str
    owner: str
    reason: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Stored:
    """All that a predecessor wrote down."""

    sessions: tuple[SessionRow, ...] = ()
    operations: tuple[OperationRow, ...] = ()
    closed: tuple[ClosedRow, ...] = ()


class Store:
    """The database at `path`, an async context manager. Each call is one transaction.

    Raises (each call): DiskFull, where there is no room; Internal, where it fails otherwise.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        await self._do(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await asyncio.shield(self._do(self._close))
        finally:
            self._thread.shutdown(wait=False)

    async def read(self) -> Stored:
        """Everything there is."""
        return await self._do(self._read)

    async def add_session(self, row: SessionRow) -> None:
        """A session that is ready: from now on it is found again."""
        await self._write(lambda db: _insert(db, "sessions", row))

    async def set_expiry(self, session_id: str, expires_at: float) -> None:
        """It was renewed."""
        sql = "UPDATE sessions SET expires_at = ? WHERE id = ?"
        await self._write(lambda db: db.execute(sql, (expires_at, session_id)))

    async def close_session(self, row: ClosedRow) -> None:
        """A session is not to be found again, only that it was there."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM sessions WHERE id = ?", (row.id,))
            db.execute("DELETE FROM operations WHERE session = ?", (row.id,))
            _insert(db, "closed", row)

        await self._write(write)

    async def add_operation(self, row: OperationRow) -> None:
        """A detached operation that is about to start."""
        await self._write(lambda db: _insert(db, "operations", row))

    async def end_operation(self, operation_id: str, at: float) -> None:
        """It has ended; its events are with the guest."""
        sql = "UPDATE operations SET ended_at = ? WHERE id = ?"
        await self._write(lambda db: db.execute(sql, (at, operation_id)))

    async def drop_operation(self, operation_id: str) -> None:
        """It is not to be found again."""
        sql = "DELETE FROM operations WHERE id = ?"
        await self._write(lambda db: db.execute(sql, (operation_id,)))

    async def prune(self, *, ended_before: float, closed_before: float) -> None:
        """Forget operations that ended, and sessions that were closed, before an instant."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM operations WHERE ended_at < ?", (ended_before,))
            db.execute("DELETE FROM operations WHERE session NOT IN (SELECT id FROM sessions)")
            db.execute("DELETE FROM closed WHERE at < ?", (closed_before,))

        await self._write(write)

    # -- in the thread ----------------------------------------------------------------------------

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            kind = DiskFull if full else Internal
            raise kind(f"the service cannot write down its sessions: {error}") from error

    async def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def write() -> None:
            assert self._db is not None
            with self._db:  # a transaction
                work(self._db)

        await self._do(write)

    def _open(self) -> None:
        try:
            self._db = _connect(self._path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # no room, no right: nothing is wrong with it
                raise
            aside = self._path.with_suffix(".broken")
            log.error("the record of sessions is no use, starting anew", extra={"kept_as": str(aside)})
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            self._db = _connect(self._path)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self) -> Stored:
        assert self._db is not None
        return Stored(
            sessions=tuple(_select(self._db, "sessions", SessionRow, "number")),
            operations=tuple(_select(self._db, "operations", OperationRow, "started_at")),
            closed=tuple(_select(self._db, "closed", ClosedRow, "at")),
        )


def _connect(path: Path) -> sqlite3.Connection:
    """The database, made if it is not there. Raises sqlite3.DatabaseError: it is none of ours."""
    path.touch(mode=0o600)
    db = sqlite3.connect(path, isolation_level="IMMEDIATE")
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"written by another version ({version})")
    except BaseException:
        db.close()
        raise
    return db


def _insert(db: sqlite3.Connection, table: str, row: SessionRow | OperationRow | ClosedRow) -> None:
    values = {name: json.dumps(value) if name in _JSON else value for name, value in asdict(row).items()}
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    sql = f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - names of our own
    db.execute(sql, tuple(values.values()))


def _select(db: sqlite3.Connection, table: str, kind: type[T], order: str) -> Iterable[T]:
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    sql = f"SELECT {', '.join(names)} FROM {table} ORDER BY {order}"  # noqa: S608 - names of our own
    for row in db.execute(sql):
        values = {n: json.loads(v) if n in _JSON else v for n, v in zip(names, row, strict=True)}
        yield kind(**values)
