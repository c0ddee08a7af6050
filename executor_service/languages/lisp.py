"""Common Lisp, by SBCL."""

from __future__ import annotations

from executor_service.languages.base import Language

LISP = Language(
    name="lisp",
    aliases=("commonlisp", "common-lisp", "sbcl", "cl"),
    extensions=(".lisp", ".lsp", ".cl"),
    run=("sbcl", "--script", "{source}"),
    needs=("sbcl",),
    smoke='(format t "codecell ~d~%" (reduce #\'+ (list 40 2)))\n',
    version_argv=("sbcl", "--version"),
    limits={"memory_bytes": 1 << 30},
)
