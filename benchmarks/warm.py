"""One caller at a time: runs, sessions and executions, from a warm pool and without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.load import Connection, Times, timed
from benchmarks.service import Service
from benchmarks.table import Table
from benchmarks.targets import Targets

PAUSES = {0.0: "back to back", 0.05: "50 ms apart"}
PRINT = "print(1)"
PANDAS = "import pandas as pd; print(pd.Series([1,2]).sum())"
EXECUTION = "execution print(1), back to back"
"""The row that peers are compared with."""
REFILL_TIME = 120.0


@dataclass(frozen=True, kw_only=True)
class Bare:
    """The same without us, a list with a value for each of `PAUSES`."""

    prints: Sequence[Times]
    pandas: Sequence[Times]
    kernels: Sequence[Times]


async def measure(
    table: Table, service: Service, targets: Targets, bare: Bare, count: int, *, patient: bool
) -> None:
    """Everything with a warm pool. `patient`: each asks when the pool is full again, not after a pause."""
    async with Connection("127.0.0.1", service.port) as connection:
        await refilled(connection)
        await repeat(lambda: run(connection, PRINT), 5)
        if patient:
            await _patient_runs(table, connection, targets, count)
        else:
            await _runs(table, connection, targets, bare, count)
        await _sessions(table, connection, targets, count, patient=patient)
        await _executions(table, connection, targets, bare, count * 3 if patient else count)
        table.row("print(flush=True) to the client", await stdout_latency(connection, count), "target 10 ms")


async def _runs(table: Table, connection: Connection, targets: Targets, bare: Bare, count: int) -> None:
    for number, (pause, label) in enumerate(PAUSES.items()):
        for name, code, floor, target in (
            ("print(1)", PRINT, bare.prints[number], targets.run_ratio),
            ("pandas", PANDAS, bare.pandas[number], targets.pandas_ratio),
        ):
            times = await repeat(partial(run, connection, code), count, pause)
            table.row(f"run {name}, {label}", times, f"{times.p50 / floor.p50:.3f} x bare{_target(target)}")


async def _patient_runs(table: Table, connection: Connection, targets: Targets, count: int) -> None:
    for name, code, target, many in (
        ("print(1)", PRINT, targets.run, count),
        ("pandas", PANDAS, targets.pandas, max(10, count // 2)),
    ):
        times = Times([await _run_when_full(connection, code) for _ in range(many)])
        table.row(f"run {name}", times, _target(target, "ms"))


async def _run_when_full(connection: Connection, code: str) -> float:
    await refilled(connection)
    took, _ = await timed(run(connection, code))
    return took


async def _sessions(
    table: Table, connection: Connection, targets: Targets, count: int, *, patient: bool
) -> None:
    """Create from a warm pool, the first cell, and close."""
    created, first, closed, gone = [], [], [], []
    for _ in range(max(10, count // 5)):
        await (refilled(connection) if patient else asyncio.sleep(0.25))
        took, session = await timed(new_session(connection))
        created.append(took)
        took, _ = await timed(connection.call("POST", _executions_of(session), {"code": PRINT}))
        first.append(took)
        start = time.perf_counter()
        took, _ = await timed(connection.call("DELETE", f"/v1/sessions/{session['id']}"))
        closed.append(took)
        await _nothing_closes(connection)
        gone.append((time.perf_counter() - start) * 1e3)
    table.row("session create", Times(created), _target(targets.create, "ms"))
    table.row("its first execution", Times(first))
    table.row("session close, to the answer", Times(closed), _target(targets.close, "ms"))
    table.row("session close, until its sandbox is gone", Times(gone), _target(targets.close, "ms"))


async def _executions(table: Table, connection: Connection, targets: Targets, bare: Bare, count: int) -> None:
    session = await new_session(connection)
    await refilled(connection)
    path = _executions_of(session)
    await repeat(lambda: connection.call("POST", path, {"code": PRINT}), 3)
    for (pause, label), floor in zip(PAUSES.items(), bare.kernels, strict=True):
        times = await repeat(lambda: connection.call("POST", path, {"code": PRINT}), count, pause)
        ratio = f"{times.p50 / floor.p50:.2f} x bare{_target(targets.execution_ratio)}"
        table.row(f"execution print(1), {label}", times, ratio)
    await connection.call("DELETE", f"/v1/sessions/{session['id']}")


async def cold(table: Table, service: Service, targets: Targets, count: int) -> None:
    """Without a pool."""
    created, ran = [], []
    async with Connection("127.0.0.1", service.port) as connection:
        for _ in range(count):
            took, session = await timed(new_session(connection))
            created.append(took)
            await connection.call("DELETE", f"/v1/sessions/{session['id']}")
            took, _ = await timed(run(connection, PRINT))
            ran.append(took)
    table.row("session create", Times(created), _target(targets.create_cold, "ms"))
    table.row("run print(1)", Times(ran))


async def stdout_latency(connection: Connection, count: int) -> Times:
    """From print(flush=True) inside to the event in the client; both read the same clock."""
    code = f"import time\nfor _ in range({count}):\n    print(time.time_ns(), flush=True); time.sleep(0.01)"
    values = []
    async for kind, data in connection.events("/v1/runs", {"language": "python", "code": code}):
        if kind == "stdout":
            now = time.time_ns()
            values += [(now - int(line)) / 1e6 for line in data["text"].split()]
    return Times(values)


async def run(connection: Connection, code: str) -> None:
    """A run that must succeed."""
    answer = await connection.call("POST", "/v1/runs", {"language": "python", "code": code})
    assert answer["outcome"] == "ok", answer


async def new_session(connection: Connection) -> dict[str, str]:
    """Its JSON."""
    found: dict[str, str] = await connection.call("POST", "/v1/sessions", {"language": "python"})
    return found


def _executions_of(session: dict[str, str]) -> str:
    return f"/v1/sessions/{session['id']}/executions"


async def refilled(connection: Connection) -> None:
    """Wait until the pool neither makes nor closes anything."""
    deadline = time.monotonic() + REFILL_TIME
    quiet = 0
    while quiet < 3:
        pool = (await connection.call("GET", "/readyz"))["pool"]
        quiet = 0 if pool["making"] or pool["closing"] or pool["waiting"] else quiet + 1
        if time.monotonic() > deadline:
            raise RuntimeError(f"the pool does not come to rest: {pool}")
        await asyncio.sleep(0.06)


async def _nothing_closes(connection: Connection) -> None:
    while (await connection.call("GET", "/readyz"))["pool"]["closing"]:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.005)


async def repeat(call: Callable[[], Awaitable[object]], count: int, pause: float = 0.0) -> Times:
    """Time `call` again and again."""
    values = []
    for _ in range(count):
        if pause:
            await asyncio.sleep(pause)
        took, _ = await timed(call())
        values.append(took)
    return Times(values)


def _target(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    return f"target {value:g} {unit}" if unit else f" (target {value:g})"
