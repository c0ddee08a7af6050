"""Scheme (R6RS), by Chez Scheme."""

from __future__ import annotations

from executor_service.languages.base import Language

SCHEME = Language(
    name="scheme",
    aliases=("chez", "chezscheme", "scm"),
    extensions=(".scm", ".ss", ".sps"),
    run=("scheme", "--script", "{source}"),
    needs=("scheme",),
    smoke='(let ((sum (apply + (list 40 2))))\n  (display "codecell ")\n  (display sum)\n  (newline))\n',
    version_argv=("scheme", "--version"),
)
