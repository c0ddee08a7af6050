"""Perl."""

from __future__ import annotations

from executor_service.languages.base import Language

PERL = Language(
    name="perl",
    aliases=("pl",),
    extensions=(".pl", ".pm"),
    run=("perl", "{source}"),
    needs=("perl",),
    smoke='use strict;\nuse warnings;\nuse List::Util qw(sum);\nprintf "codecell %d\\n", sum(40, 2);\n',
    version_argv=("perl", "-e", "printf '%vd', $^V"),
)
