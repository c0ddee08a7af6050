"""COBOL in free format, by GnuCOBOL."""

from __future__ import annotations

from executor_service.languages.base import Language

_SMOKE = """\
identification division.
program-id. smoke.
data division.
working-storage section.
01 answer pic 99 value 40.
procedure division.
    add 2 to answer.
    display "codecell " answer.
    stop run.
"""

COBOL = Language(
    name="cobol",
    aliases=("gnucobol", "cob"),
    extensions=(".cob", ".cbl", ".cobol"),
    compile=("cobc", "-x", "-free", "-o", "{binary}", "{source}"),
    run=("{binary}",),
    needs=("cobc",),
    smoke=_SMOKE,
    version_argv=("cobc", "--version"),
)
