"""What is allowed: the limits of a run, a session and an operation, their defaults and ceilings.

Pure: `resolve` turns what a caller asked into what holds, or says why not. Times are seconds,
sizes bytes. The table of fields stands in docs/api.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from executor_service.errors import FieldError, InvalidRequest, LimitTooHigh

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

Scope = Literal["run", "session", "operation"]
OPERATION_FIELDS = frozenset({"wall_time", "cpu_time", "output_bytes", "open_files"})
SANDBOX_FIELDS = frozenset({"memory_bytes", "processes", "cpus", "disk_bytes"})
SCOPES: Mapping[Scope, frozenset[str]] = {
    "run": OPERATION_FIELDS | SANDBOX_FIELDS | {"compile_time"},
    "session": SANDBOX_FIELDS,
    "operation": OPERATION_FIELDS,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every limit; see docs/api.md for units. `cpu_time` None means that none is set."""

    wall_time: float = 30.0
    cpu_time: float | None = None
    compile_time: float = 30.0
    output_bytes: int = MiB
    open_files: int = 1024
    memory_bytes: int = 512 * MiB
    processes: int = 128
    cpus: float = 1.0
    disk_bytes: int = 256 * MiB


def default_ceiling() -> Limits:
    """The highest values that a caller may ask for, unless the operator says otherwise."""
    return Limits(
        wall_time=600.0,
        cpu_time=600.0,
        compile_time=120.0,
        output_bytes=64 * MiB,
        open_files=4096,
        memory_bytes=4 * GiB,
        processes=1024,
        cpus=float(len(os.sched_getaffinity(0))),
        disk_bytes=2 * GiB,
    )


def resolve(
    asked: Mapping[str, float | None],
    *,
    scope: Scope,
    default: Limits,
    ceiling: Limits,
) -> Limits:
    """What holds for an operation or sandbox whose caller asked for `asked`.

    Raises:
        InvalidRequest: a field that this scope does not have, or a value that is not a finite
            positive number.
        LimitTooHigh: a value over its ceiling.
    """
    wrong = [_wrong(name, value, scope) for name, value in asked.items() if value is not None]
    bad = tuple(e for e in wrong if e is not None)
    if bad:
        raise InvalidRequest(bad[0].message, errors=bad)
    chosen = {name: value for name, value in asked.items() if value is not None}
    high = tuple(
        FieldError(
            loc=f"limits.{name}",
            message=f"limits.{name} may be at most {_number(getattr(ceiling, name))}, not {_number(value)}",
        )
        for name, value in chosen.items()
        if value > getattr(ceiling, name)
    )
    if high:
        raise LimitTooHigh(high[0].message, errors=high)
    kinds = {f.name: type(getattr(ceiling, f.name)) for f in fields(Limits)}
    return replace(default, **{name: kinds[name](value) for name, value in chosen.items()})


def _wrong(name: str, value: float, scope: Scope) -> FieldError | None:
    loc = f"limits.{name}"
    if name not in SCOPES[scope]:
        return FieldError(loc=loc, message=f"{loc} is no limit of {_SCOPE_WORDS[scope]}")
    if not math.isfinite(value) or value <= 0:
        return FieldError(loc=loc, message=f"{loc} must be a finite number above zero")
    return None


def _number(value: float) -> str:
    """As people write it: integers in full."""
    return str(int(value)) if value == int(value) else f"{value:g}"


_SCOPE_WORDS: Mapping[Scope, str] = {
    "run": "a run",
    "session": "a session (it is one of each execution or command)",
    "operation": "an execution or a command (it is one of the session)",
}
