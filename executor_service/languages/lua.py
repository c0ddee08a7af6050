"""Lua."""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language

LUA = Language(
    name="lua",
    extensions=(".lua",),
    run=("lua", "{source}"),
    needs=("lua",),
    smoke='local t = {40, 2}\nprint(string.format("codecell %d", t[1] + t[2]))\n',
    version_argv=("lua", "-v"),
    kernel=KernelSpec(
        argv=("python", "/opt/codecell/lib/executor_service/guest/ilua_kernel.py", "-c", "{connection_file}"),
        interrupt="message",
        env={"JUPYTER_RUNTIME_DIR": "/tmp/.jupyter-lua"},  # it makes this directory, but not its parents
        smoke=("x = 40", 'print("codecell " .. x + 2)'),
    ),
)
