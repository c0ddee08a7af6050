"""Crystal."""

from __future__ import annotations

from executor_service.languages.base import Language

CRYSTAL = Language(
    name="crystal",
    aliases=("cr",),
    extensions=(".cr",),
    compile=("crystal", "build", "--no-color", "-o", "{binary}", "{source}"),
    run=("{binary}",),
    needs=("crystal",),
    smoke='puts "codecell #{[40, 2].sum}"\n',
    version_argv=("crystal", "--version"),
    env={"CRYSTAL_CACHE_DIR": "/tmp/crystal"},
    limits={"compile_time": 120, "memory_bytes": 2 << 30},
)
