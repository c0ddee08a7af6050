"""PHP's command line; its own messages go to stderr."""

from __future__ import annotations

from executor_service.languages.base import Language

PHP = Language(
    name="php",
    extensions=(".php",),
    run=("php", "-d", "display_errors=stderr", "{source}"),
    needs=("php",),
    smoke='<?php\necho "codecell ", array_sum([40, 2]), PHP_EOL;\n',
    version_argv=("php", "--version"),
)
