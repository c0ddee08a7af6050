"""GNU Octave; stateful where its kernel is installed."""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language

OCTAVE = Language(
    name="octave",
    aliases=("matlab",),
    extensions=(".m",),
    run=("octave-cli", "--no-window-system", "--norc", "--quiet", "{source}"),
    needs=("octave-cli",),
    smoke='printf("codecell %d\\n", sum([40 2]))\n',
    version_argv=("octave-cli", "--version"),
    kernel=KernelSpec(
        argv=(
            "python",
            "/opt/codecell/lib/executor_service/guest/octave_kernel.py",
            "-f",
            "{connection_file}",
        ),
        env={"OCTAVE_EXECUTABLE": "/usr/bin/octave-cli"},
        smoke=("x = 40;", 'printf("codecell %d\\n", x + 2)'),
    ),
)
