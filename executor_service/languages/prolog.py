"""Prolog, by SWI-Prolog: the program is loaded, its `initialization` goals run, and it ends."""

from __future__ import annotations

from executor_service.languages.base import Language

PROLOG = Language(
    name="prolog",
    aliases=("swipl", "swi-prolog"),
    extensions=(".pro", ".prolog", ".plt"),
    run=("swipl", "-q", "--on-error=status", "-g", "halt", "{source}", "--"),
    needs=("swipl",),
    smoke=':- initialization(main).\nmain :- X is 40 + 2, format("codecell ~d~n", [X]).\n',
    version_argv=("swipl", "--version"),
)
