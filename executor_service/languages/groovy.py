"""Groovy, on the JVM, as a script."""

from __future__ import annotations

from executor_service.languages.base import Language

GROOVY = Language(
    name="groovy",
    extensions=(".groovy",),
    run=("groovy", "{source}"),
    needs=("groovy",),
    smoke='println "codecell ${[40, 2].sum()}"\n',
    version_argv=("groovy", "--version"),
    limits={"memory_bytes": 1 << 30},
)
