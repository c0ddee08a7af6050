"""Running small programs in a sandbox, for the contract's tests."""

from __future__ import annotations

from dataclasses import dataclass

from executor_service.images import BASE_ENV, THREAD_COUNTS
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.guest import Ended, ProgramSpec, start_program

ENVIRONMENT = {**BASE_ENV, **dict.fromkeys(THREAD_COUNTS, "1")}


@dataclass(frozen=True)
class Ran:
    """What a program printed and how it ended."""

    stdout: str
    stderr: str
    ended: Ended


async def run(
    sandbox: Sandbox,
    *argv: str,
    stdin: bytes | None = None,
    source: str | None = None,
    wall_time: float = 60.0,
    cpu_time: float | None = None,
    output_bytes: int = 1 << 20,
    open_files: int = 1024,
) -> Ran:
    """Run `argv` (or, with `source`, Python text in the armed interpreter) to its end."""
    spec = ProgramSpec(
        argv=argv or ("main.py",),
        armed=source is not None,
        source=None if source is None else ("main.py", source),
        env=ENVIRONMENT,
        stdin=stdin is not None,
        wall_time=wall_time,
        cpu_time=cpu_time,
        output_bytes=output_bytes,
        open_files=open_files,
    )
    output = {"stdout": b"", "stderr": b""}
    async with start_program(sandbox, spec) as program:
        if stdin is not None:
            await program.write_stdin(stdin)
            await program.close_stdin()
        async for stream, data in program:
            output[stream] += data
    assert program.ended is not None
    return Ran(output["stdout"].decode(), output["stderr"].decode(), program.ended)


async def shell(sandbox: Sandbox, script: str, **options: float) -> Ran:
    """Run a bash script to its end."""
    return await run(sandbox, "bash", "-c", script, **options)  # type: ignore[arg-type]
