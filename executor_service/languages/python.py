"""Python, the image's own; stateful in sessions."""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language

PYTHON = Language(
    name="python",
    aliases=("py", "python3", "ipython", "ipython3"),
    extensions=(".py", ".pyw"),
    run=("python", "{source}"),
    kernel=KernelSpec(names_interrupt=True, smoke=("x = 40", "print('codecell', x + 2)")),
    smoke="import json\nprint('codecell', json.loads('[42]')[0])\n",
    version_argv=("python", "--version"),
)
