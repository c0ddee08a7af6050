"""Clojure, on the JVM, as a script."""

from __future__ import annotations

from executor_service.languages.base import Language

CLOJURE = Language(
    name="clojure",
    aliases=("clj",),
    extensions=(".clj",),
    run=("clojure", "{source}"),
    needs=("clojure",),
    smoke='(println "codecell" (reduce + [40 2]))\n',
    version_argv=("clojure", "-e", "(println (clojure-version))"),
    limits={"memory_bytes": 1 << 30},
)
