"""Measure and print a table: ``python -m benchmarks [--quick]``."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable

from benchmarks import bare
from benchmarks.load import Connection, Times, timed
from benchmarks.service import Service, holdings, pss, started, tree
from executor_service import image_build, images

PAUSES = {0.0: "back to back", 0.05: "50 ms apart"}
PRINT = "print(1)"
PANDAS = "import pandas as pd; print(pd.Series([1,2]).sum())"
HEAD = f"{'':44} {'p50 ms':>8} {'p95':>8} {'p99':>8}   against"


def main() -> None:
    """Run all measurements in one go."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the counts")
    quick = parser.parse_args().quick
    count = 30 if quick else 200
    image = image_build.build(images.definitions()["python"], progress=print)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}\n\n{HEAD}")
    few = max(10, count // 10)
    prints = [bare.python(image, PRINT, count, pause) for pause in PAUSES]
    pandas = [bare.python(image, PANDAS, few, pause) for pause in PAUSES]
    ready, kernels = bare.kernel(image, PRINT, count, list(PAUSES))
    for label, *times in zip(PAUSES.values(), prints, pandas, kernels, strict=True):
        row(f"bare python3 main.py: print(1), {label}", times[0])
        row(f"bare python3 main.py: pandas, {label}", times[1])
        row(f"bare jupyter_client: print(1), {label}", times[2])
    print(f"{'bare ipykernel, start to ready':44} {ready:8.2f}")
    with started() as service:
        asyncio.run(warm(service, count, prints, pandas, kernels, quick))
    with started("--warm", "0") as service:
        asyncio.run(cold(service, few))


async def warm(
    service: Service, count: int, prints: list[Times], pandas: list[Times], kernels: list[Times], quick: bool
) -> None:
    """Everything with a warm pool."""
    async with Connection("127.0.0.1", service.port) as connection:

        def run(code: str) -> Callable[[], Awaitable[object]]:
            return lambda: connection.call("POST", "/v1/runs", {"language": "python", "code": code})

        await repeat(run(PRINT), 20)
        for (pause, label), bare_print, bare_pandas in zip(PAUSES.items(), prints, pandas, strict=True):
            times = await repeat(run(PRINT), count, pause)
            row(f"run print(1), {label}", times, f"{times.p50 / bare_print.p50:.2f} x bare (target 1.5)")
            times = await repeat(run(PANDAS), count, pause)
            row(f"run pandas, {label}", times, f"{times.p50 / bare_pandas.p50:.3f} x bare (target 0.1)")
        await sessions(connection, count, kernels)
        row("print(flush=True) to the client", await stdout_latency(connection, count), "target 10 ms")
    await throughput(service, 300 if quick else 3000)
    await idle_sessions(service, 10 if quick else 100)
    await endurance(service, 1000 if quick else 10_000)


async def sessions(connection: Connection, count: int, kernels: list[Times]) -> None:
    """Create from a warm pool, and execute."""
    created, closed = [], []
    for _ in range(max(10, count // 5)):
        await asyncio.sleep(0.25)  # the pool refills meanwhile
        took, session = await timed(connection.call("POST", "/v1/sessions", {"language": "python"}))
        created.append(took)
        took, _ = await timed(connection.call("DELETE", f"/v1/sessions/{session['id']}"))
        closed.append(took)
    row("session create, warm pool", Times(created), "target 10 ms")
    row("session close", Times(closed))
    session = await connection.call("POST", "/v1/sessions", {"language": "python"})
    path = f"/v1/sessions/{session['id']}/executions"
    await asyncio.sleep(1)  # the pool has refilled
    for (pause, label), bare_kernel in zip(PAUSES.items(), kernels, strict=True):
        times = await repeat(lambda: connection.call("POST", path, {"code": PRINT}), count, pause)
        row(f"execution print(1), {label}", times, f"{times.p50 / bare_kernel.p50:.2f} x bare (target 1.5)")
    await connection.call("DELETE", f"/v1/sessions/{session['id']}")


async def cold(service: Service, count: int) -> None:
    """Without a pool."""
    created, ran = [], []
    async with Connection("127.0.0.1", service.port) as connection:
        for _ in range(count):
            took, session = await timed(connection.call("POST", "/v1/sessions", {"language": "python"}))
            created.append(took)
            await connection.call("DELETE", f"/v1/sessions/{session['id']}")
            took, _ = await timed(connection.call("POST", "/v1/runs", {"language": "python", "code": PRINT}))
            ran.append(took)
    row("session create, no pool", Times(created), "target 150 ms")
    row("run print(1), no pool", Times(ran))


async def stdout_latency(connection: Connection, count: int) -> Times:
    """From print(flush=True) inside to the event in the client; both read the same clock."""
    code = f"import time\nfor _ in range({count}):\n    print(time.time_ns(), flush=True); time.sleep(0.01)"
    values = []
    async for kind, data in connection.events("/v1/runs", {"language": "python", "code": code}):
        if kind == "stdout":
            now = time.time_ns()
            values += [(now - int(line)) / 1e6 for line in data["text"].split()]
    return Times(values)


async def throughput(service: Service, total: int, clients: int = 16) -> None:
    """Sixteen clients at once, each run in a fresh sandbox."""
    values: list[float] = []
    left = iter(range(total))

    async def client() -> None:
        async with Connection("127.0.0.1", service.port) as connection:
            for _ in left:
                took, answer = await timed(
                    connection.call("POST", "/v1/runs", {"language": "python", "code": PRINT})
                )
                assert answer["stdout"] == "1\n", answer
                values.append(took)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    rate = total / (time.perf_counter() - start)
    times = Times(values)
    row(
        f"run print(1), {clients} clients",
        times,
        f"{rate:.0f} runs/s (target 120), p99 {times.at(0.99) / times.p50:.1f} x p50",
    )


async def idle_sessions(service: Service, count: int) -> None:
    """Memory of sessions that wait."""
    async with Connection("127.0.0.1", service.port) as connection:
        await asyncio.sleep(2)
        before = pss(tree(service.pid))
        ids = [
            (await connection.call("POST", "/v1/sessions", {"language": "python"}))["id"]
            for _ in range(count)
        ]
        await asyncio.sleep(2)
        each = (pss(tree(service.pid)) - before) / count / 1e6
        for session_id in ids:
            await connection.call("DELETE", f"/v1/sessions/{session_id}")
    print(f"{f'{count} idle sessions, memory each (PSS)':44} {each:8.1f} MB          (target 30 MB)")


async def endurance(service: Service, total: int) -> None:
    """The same is held after many runs as after the first 100."""
    await throughput(service, 100)
    await asyncio.sleep(3)
    before = holdings(service.pid)
    await throughput(service, total)
    await asyncio.sleep(3)
    after = holdings(service.pid)
    print(f"{f'after {total} runs':44} {'before':>10} {'after':>10}")
    for name, value in before.items():
        print(f"  {name:42} {value:10.1f} {after[name]:10.1f}")


async def repeat(call: Callable[[], Awaitable[object]], count: int, pause: float = 0.0) -> Times:
    """Time `call` again and again."""
    values = []
    for _ in range(count):
        if pause:
            await asyncio.sleep(pause)
        took, _ = await timed(call())
        values.append(took)
    return Times(values)


def row(name: str, times: Times, against: str = "") -> None:
    """Print one line of the table."""
    print(f"{name:44} {times}   {against}", flush=True)


if __name__ == "__main__":
    main()
