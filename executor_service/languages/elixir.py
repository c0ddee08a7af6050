"""Elixir, as a script."""

from __future__ import annotations

from executor_service.languages.base import Language

ELIXIR = Language(
    name="elixir",
    aliases=("exs",),
    extensions=(".exs", ".ex"),
    run=("elixir", "{source}"),
    needs=("elixir",),
    smoke='[40, 2] |> Enum.sum() |> then(&IO.puts("codecell #{&1}"))\n',
    version_argv=("elixir", "--short-version"),
    env={"ERL_CRASH_DUMP_BYTES": "0"},
)
