"""Bash, for shell scripts of any dialect that it understands."""

from __future__ import annotations

from executor_service.languages.base import Language

BASH = Language(
    name="bash",
    aliases=("sh", "shell", "shellscript"),
    extensions=(".sh", ".bash"),
    run=("bash", "{source}"),
    needs=("bash",),
    smoke='set -eu\necho "codecell $((6 * 7))" | cat\n',
    version_argv=("bash", "--version"),
)
