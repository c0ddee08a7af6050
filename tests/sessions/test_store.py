"""What is written down for a later service, in a real database."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from executor_service.errors import DiskFull, Internal
from executor_service.sessions.store import ClosedRow, OperationRow, SessionRow, Store, Stored

SESSION = SessionRow(
    id="ses_1",
    number=3,
    owner="key",
    sandbox="sb_1",
    language="python",
    image="python",
    limits={"memory_bytes": 1 << 29, "cpu_time": None},
    network={"allow": ["pypi.org"]},
    metadata={"for": "mé"},
    has_env=True,
    ttl=3600.0,
    idle_ttl=600.0,
    created_at=1.5,
    expires_at=3601.5,
)
OPERATION = OperationRow(
    id="exe_1",
    session="ses_1",
    kind="execution",
    kernel="python",
    limits={"wall_time": 30.0},
    started_at=10.0,
    since_ns=10**19 // 10,
    cpu_time=None,
    oom_kills=0,
)


async def stored(path: Path) -> Stored:
    """What a later service reads."""
    async with Store(path) as store:
        return await store.read()


async def test_what_is_written_is_read_by_the_next(tmp_path: Path) -> None:
    """Every field as it was."""
    path = tmp_path / "sessions.db"
    async with Store(path) as store:
        assert await store.read() == Stored()
        await store.add_session(SESSION)
        await store.add_operation(OPERATION)
        await store.add_operation(replace(OPERATION, id="cmd_1", kind="command", kernel=None, stdin="open"))
        await store.end_operation("exe_1", 20.0)
        await store.set_expiry("ses_1", 99.0)
    found = await stored(path)
    assert found.sessions == (replace(SESSION, expires_at=99.0),)
    assert {each.id: each.ended_at for each in found.operations} == {"exe_1": 20.0, "cmd_1": None}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_closed_session_leaves_a_stone_alone(tmp_path: Path) -> None:
    """Its operations go with it, others' stay."""
    path = tmp_path / "sessions.db"
    stone = ClosedRow(id="ses_1", owner="key", reason="it was deleted", at=5.0)
    async with Store(path) as store:
        for name in ("1", "2"):
            await store.add_session(replace(SESSION, id=f"ses_{name}"))
            await store.add_operation(replace(OPERATION, id=f"exe_{name}", session=f"ses_{name}"))
        await store.close_session(stone)
    found = await stored(path)
    assert [each.id for each in found.sessions] == ["ses_2"]
    assert [each.id for each in found.operations] == ["exe_2"]
    assert found.closed == (stone,)


async def test_what_is_old_is_pruned(tmp_path: Path) -> None:
    """What ended or was closed before an instant, and what belongs to no session; never what runs."""
    async with Store(tmp_path / "sessions.db") as store:
        await store.add_session(SESSION)
        await store.add_operation(OPERATION)
        for name, ended in (("old", 1.0), ("new", 9.0)):
            await store.add_operation(replace(OPERATION, id=name, ended_at=ended))
            await store.close_session(ClosedRow(id=f"ses_{name}", owner="", reason="", at=ended))
        await store.add_operation(replace(OPERATION, id="orphan", session="ses_none"))
        await store.prune(ended_before=5.0, closed_before=5.0)
        found = await store.read()
    assert {each.id for each in found.operations} == {"exe_1", "new"}
    assert [each.id for each in found.closed] == ["ses_new"]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
async def test_a_file_that_is_no_use_is_set_aside(tmp_path: Path, content: bytes) -> None:
    """The service starts anew and keeps what it found."""
    path = tmp_path / "sessions.db"
    path.write_bytes(content)
    assert await stored(path) == Stored()
    assert path.with_suffix(".broken").read_bytes() == content


async def test_another_versions_file_is_set_aside(tmp_path: Path) -> None:
    """Its rows might mean something else."""
    path = tmp_path / "sessions.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert await stored(path) == Stored()
    assert path.with_suffix(".broken").exists()


async def test_a_disk_without_room_is_said_so(tmp_path: Path) -> None:
    """As 507, never as an internal error; what was there before is still there."""
    path = tmp_path / "sessions.db"
    async with Store(path) as store:
        await store.add_session(SESSION)
        await store._write(lambda db: db.execute("PRAGMA max_page_count = 1"))
        with pytest.raises(DiskFull):
            await store.add_session(replace(SESSION, id="ses_2", metadata={"k": "v" * 100_000}))
    assert [each.id for each in (await stored(path)).sessions] == ["ses_1"]


async def test_another_failure_is_no_full_disk(tmp_path: Path) -> None:
    """Whoever made room would look in the wrong place."""
    async with Store(tmp_path / "sessions.db") as store:
        await store._write(lambda db: db.execute("PRAGMA query_only = ON"))
        with pytest.raises(Internal, match="readonly"):
            await store.add_session(SESSION)
