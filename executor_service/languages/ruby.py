"""Ruby."""

from __future__ import annotations

from executor_service.languages.base import Language

RUBY = Language(
    name="ruby",
    aliases=("rb",),
    extensions=(".rb",),
    run=("ruby", "{source}"),
    needs=("ruby",),
    smoke="require 'set'\nputs \"codecell #{Set[40, 2].sum}\"\n",
    version_argv=("ruby", "--version"),
)
