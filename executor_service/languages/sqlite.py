"""SQL, by SQLite: the statements see an empty database in memory; `ATTACH` and `.open` reach files."""

from __future__ import annotations

from executor_service.languages.base import Language

SQLITE = Language(
    name="sqlite",
    aliases=("sql", "sqlite3"),
    extensions=(".sql",),
    run=("sqlite3", "-batch", "-bail", ":memory:", ".read '{source}'"),
    needs=("sqlite3",),
    smoke="CREATE TABLE t (n);\nINSERT INTO t VALUES (40), (2);\nSELECT 'codecell ' || sum(n) FROM t;\n",
    version_argv=("sqlite3", "--version"),
)
