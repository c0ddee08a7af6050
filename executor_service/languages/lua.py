"""Lua."""

from __future__ import annotations

from executor_service.languages.base import Language

LUA = Language(
    name="lua",
    extensions=(".lua",),
    run=("lua", "{source}"),
    needs=("lua",),
    smoke='local t = {40, 2}\nprint(string.format("codecell %d", t[1] + t[2]))\n',
    version_argv=("lua", "-v"),
)
