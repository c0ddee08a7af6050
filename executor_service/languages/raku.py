"""Raku, by Rakudo."""

from __future__ import annotations

from executor_service.languages.base import Language

RAKU = Language(
    name="raku",
    aliases=("perl6", "rakudo"),
    extensions=(".raku", ".rakumod", ".p6"),
    run=("raku", "{source}"),
    needs=("raku",),
    smoke="say 'codecell ', [+] 40, 2;\n",
    version_argv=("raku", "--version"),
)
