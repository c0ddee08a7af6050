"""The calculator bc, with its mathematical library."""

from __future__ import annotations

from executor_service.languages.base import Language

BC = Language(
    name="bc",
    extensions=(".bc",),
    run=("bc", "-q", "-l", "{source}"),
    needs=("bc",),
    smoke='scale = 0\nprint "codecell ", sqrt(1764), "\\n"\nquit\n',
    version_argv=("bc", "--version"),
)
