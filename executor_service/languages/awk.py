"""AWK; the program reads its standard input, or the files that its arguments name."""

from __future__ import annotations

from executor_service.languages.base import Language

AWK = Language(
    name="awk",
    aliases=("gawk", "mawk"),
    extensions=(".awk",),
    run=("awk", "-f", "{source}"),
    needs=("awk",),
    smoke='BEGIN { split("40 2", n, " "); printf "codecell %d\\n", n[1] + n[2] }\n',
    version_argv=("awk", "-W", "version"),
)
