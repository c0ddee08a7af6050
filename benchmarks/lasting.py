"""Many at once, and for long: runs a second and what bounds them, idle sessions, the same after many runs."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from benchmarks import engine
from benchmarks.load import Connection, Refused, Times, timed
from benchmarks.service import Service, holdings, pss, tree
from benchmarks.table import Table
from benchmarks.targets import Targets
from benchmarks.warm import PRINT, new_session, refilled

CLIENTS = 16


async def measure(
    table: Table, service: Service, targets: Targets, runs: int, *, backend: str, quick: bool
) -> None:
    """All of it; `runs` by `CLIENTS` at once."""
    in_docker = backend == "docker"
    async with Connection("127.0.0.1", service.port) as connection:
        await refilled(connection)
        before = engine.Spent.now(service.pid)
        await throughput(table, service, runs, targets)
        if in_docker:
            _profile(table, engine.Spent.now(service.pid).since(before, runs))
        await refilled(connection)
        await idle_sessions(table, service, connection, 10 if quick else 100, targets, in_docker=in_docker)
        total = runs if in_docker else runs * 10 // 3
        await endurance(service, connection, total, in_docker=in_docker)


async def throughput(
    table: Table | None, service: Service, total: int, targets: Targets | None = None
) -> None:
    """So many clients at once, each run in a fresh sandbox."""
    values: list[float] = []
    refused: list[int] = []
    body = {"language": "python", "code": PRINT}
    left = iter(range(total))

    async def client() -> None:
        async with Connection("127.0.0.1", service.port) as connection:
            for _ in left:
                try:
                    took, answer = await timed(connection.call("POST", "/v1/runs", body))
                except Refused as error:
                    refused.append(error.status)
                    continue
                assert answer["stdout"] == "1\n", answer
                values.append(took)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    rate = len(values) / (time.perf_counter() - start)
    if table is None:
        return
    times = Times(values)
    table.row(f"run print(1), {CLIENTS} clients", times, f"p99 {times.at(0.99) / times.p50:.1f} x p50")
    if refused:
        table.number(
            "  told that there is no room (503)",
            refused.count(503),
            "of them",
            f"all: {sorted(set(refused))}",
        )
    wanted = targets.rate if targets else None
    table.number("fresh runs a second", rate, "/s", f"target {wanted:g}" if wanted else "")


def _profile(table: Table, each: engine.Spent) -> None:
    """What a run costs, refilling the pool included; that bounds how many there are a second."""
    parts = {
        "in containers": each.containers,
        "dockerd and containerd": each.engine,
        "the service": each.service,
        "the clients": each.clients,
        "shims, runc, the kernel's own threads": each.rest,
    }
    for name, value in parts.items():
        if value is not None:
            table.number(f"  of a run: {name}", value, "core-ms")
    table.number("  of a run: all", each.all, "core-ms")


async def idle_sessions(
    table: Table, service: Service, connection: Connection, count: int, targets: Targets, *, in_docker: bool
) -> None:
    """Memory of sessions that wait, while the pool is as full as before."""
    before = _memory(service, in_docker)
    sessions = [await new_session(connection) for _ in range(count)]
    await refilled(connection)
    await asyncio.sleep(2)
    after = _memory(service, in_docker)
    for session in sessions:
        await connection.call("DELETE", f"/v1/sessions/{session['id']}")
    await refilled(connection)
    each = {name: (after[name] - before[name]) / count / 1e6 for name in after}
    name = f"{count} idle sessions, memory each (PSS)"
    table.number(name, sum(each.values()), "MB", f"target {targets.idle_mb:g}")
    if in_docker:
        for part, value in each.items():
            table.number(f"  of it: {part}", value, "MB")


def _memory(service: Service, in_docker: bool) -> dict[str, int]:
    found = {"service": pss(tree(service.pid))}
    if in_docker:
        found |= engine.memory(engine.containers_of(Path(service.state, "instance")))
    return found


async def endurance(service: Service, connection: Connection, total: int, *, in_docker: bool) -> None:
    """The same is held after many runs as after the first 100."""

    async def held() -> dict[str, float]:
        await refilled(connection)
        await asyncio.sleep(1)
        found = holdings(service.pid)
        if in_docker:
            del found["mounts"], found["cgroups"]
            found["containers"] = len(engine.containers_of(Path(service.state, "instance")))
            names = os.listdir(Path(service.state, "run"))
            found["directories of sandboxes"] = sum(name.startswith("sb_") for name in names)
            found["memory of the engine (MB)"] = pss(engine.daemons()) / 1e6
        return found

    await throughput(None, service, 100)
    before = await held()
    await throughput(None, service, total)
    after = await held()
    print(f"{f'after {total} runs':44} {'before':>10} {'after':>10}")
    for name, value in before.items():
        print(f"  {name:42} {value:10.1f} {after[name]:10.1f}")
