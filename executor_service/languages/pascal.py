"""Pascal, by Free Pascal in its Object Pascal mode."""

from __future__ import annotations

from executor_service.languages.base import Language

PASCAL = Language(
    name="pascal",
    aliases=("freepascal", "fpc", "objectpascal", "delphi"),
    extensions=(".pas", ".lpr", ".dpr"),
    compile=("fpc", "-Mobjfpc", "-Sh", "-O2", "-vew", "-l-", "-FU/tmp", "-o{binary}", "{source}"),
    run=("{binary}",),
    needs=("fpc",),
    smoke="program Smoke;\nuses SysUtils;\nbegin\n  WriteLn('codecell ', IntToStr(40 + 2));\nend.\n",
    version_argv=("fpc", "-iV"),
)
