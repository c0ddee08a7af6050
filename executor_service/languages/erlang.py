"""Erlang, as a script: `main/1` is called with the arguments."""

from __future__ import annotations

from executor_service.languages.base import Language

_VERSION = 'io:format("~s.0~n", [erlang:system_info(otp_release)]), halt().'

ERLANG = Language(
    name="erlang",
    aliases=("erl", "escript"),
    extensions=(".erl", ".escript"),
    run=("escript", "{source}"),
    needs=("escript",),
    # escript takes the first line for a #! line, so the program begins on the second.
    smoke='%% smoke\nmain(_) ->\n    io:format("codecell ~p~n", [lists:sum([40, 2])]).\n',
    version_argv=("erl", "-noshell", "-eval", _VERSION),
    env={"ERL_CRASH_DUMP_BYTES": "0"},
)
