"""D, by LDC."""

from __future__ import annotations

from executor_service.languages.base import Language

D = Language(
    name="d",
    aliases=("dlang", "ldc"),
    extensions=(".d",),
    compile=("ldc2", "-O", "-od=/tmp", "-of={binary}", "{source}"),
    run=("{binary}",),
    needs=("ldc2",),
    smoke='import std.stdio, std.algorithm;\nvoid main() { writeln("codecell ", [40, 2].sum); }\n',
    version_argv=("ldc2", "--version"),
    limits={"memory_bytes": 1 << 30},
)
