"""Measure and print a table: ``python -m benchmarks [--agents | --backend NAME] [--peers] [--quick]``."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
from pathlib import Path

from benchmarks import agents, bare, contained, lasting, peer_runs, warm
from benchmarks.load import Times
from benchmarks.service import started
from benchmarks.table import Table
from benchmarks.targets import TARGETS
from benchmarks.warm import EXECUTION, PANDAS, PAUSES, PRINT, Bare

IMAGE = "python"


def main() -> None:
    """Run all measurements in one go."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--backend", choices=TARGETS, default="local")
    parser.add_argument("--agents", action="store_true", help="the agent client alone")
    parser.add_argument("--peers", action="store_true", help="other projects too; needs a container engine")
    parser.add_argument("--quick", action="store_true", help="a tenth of the counts")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    found = parser.parse_args()
    table = Table()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}"
    print(f"{machine}, backend {found.backend}")
    table.head()
    if found.agents:
        agents.measure(table, quick=found.quick)
        if found.markdown:
            table.save(found.markdown)
        return
    reference = contained.reference(IMAGE) if found.backend == "docker" or found.peers else ""
    docker = found.backend == "docker"
    floor = _in_containers(table, reference, found.quick) if docker else _bare(table, found.quick)
    _codecell(table, found.backend, floor, found.quick)
    if found.peers:
        peer_runs.measure(table, reference, quick=found.quick, ours=EXECUTION)
    if found.markdown:
        table.save(found.markdown)


def _codecell(table: Table, backend: str, floor: Bare, quick: bool) -> None:
    targets = TARGETS[backend]
    each = 3 if backend == "docker" else 1  # sandboxes of containers cost that much more time to make
    count = 30 if quick else 200
    with started("--backend", backend) as service:
        table.section(f"Codecell, {backend}, a warm pool")
        asyncio.run(warm.measure(table, service, targets, floor, count // each, patient=backend == "docker"))
        table.section(f"Codecell, {backend}, many")
        runs = (600 if backend == "docker" else 3000) // (10 if quick else 1)
        asyncio.run(lasting.measure(table, service, targets, runs, backend=backend, quick=quick))
    with started("--backend", backend, "--warm", "0") as service:
        table.section(f"Codecell, {backend}, no pool")
        asyncio.run(warm.cold(table, service, targets, max(10, count // 10)))


def _bare(table: Table, quick: bool) -> Bare:
    """On this host, with the image's packages and its real interpreter."""
    from executor_service import image_build, images

    count = 30 if quick else 200
    image = image_build.build(images.definitions()[IMAGE], progress=print)
    table.section("Bare")
    prints = [bare.python(image, PRINT, count, pause) for pause in PAUSES]
    pandas = [bare.python(image, PANDAS, max(10, count // 10), pause) for pause in PAUSES]
    ready, kernels = bare.kernel(image, PRINT, count, list(PAUSES))
    for label, *times in zip(PAUSES.values(), prints, pandas, kernels, strict=True):
        table.row(f"python3 main.py: print(1), {label}", times[0])
        table.row(f"python3 main.py: pandas, {label}", times[1])
        table.row(f"jupyter_client: print(1), {label}", times[2])
    table.number("ipykernel, start to ready", ready, "ms")
    return Bare(prints=prints, pandas=pandas, kernels=kernels)


def _in_containers(table: Table, image: str, quick: bool) -> Bare:
    """In plain containers of the same image."""
    count, few = (30, 5) if quick else (200, 20)
    table.section("Bare, in plain containers of the same image")
    printed, pandas = contained.fresh(image, PRINT, few), contained.fresh(image, PANDAS, few)
    table.row("docker run: print(1)", printed)
    table.row("docker run: pandas", pandas)
    table.row("docker exec: print(1)", contained.again(image, PRINT, few))
    table.row("docker exec: pandas", contained.again(image, PANDAS, few))
    ready, kernels = contained.kernel(image, PRINT, count, list(PAUSES))
    for label, times in zip(PAUSES.values(), kernels, strict=True):
        table.row(f"jupyter_client: print(1), {label}", times)
    table.number("ipykernel, docker run to ready", ready, "ms")
    return Bare(prints=_for_each_pause(printed), pandas=_for_each_pause(pandas), kernels=kernels)


def _for_each_pause(times: Times) -> list[Times]:
    return [times] * len(PAUSES)


if __name__ == "__main__":
    main()
