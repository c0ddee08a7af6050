"""Bash, for shell scripts of any dialect that it understands."""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language

BASH = Language(
    name="bash",
    aliases=("sh", "shell", "shellscript"),
    extensions=(".sh", ".bash"),
    run=("bash", "{source}"),
    needs=("bash",),
    smoke='set -eu\necho "codecell $((6 * 7))" | cat\n',
    version_argv=("bash", "--version"),
    kernel=KernelSpec(
        argv=("python", "-m", "bash_kernel", "-f", "{connection_file}"),
        smoke=("x=40", 'echo "codecell $((x + 2))"'),
    ),
)
