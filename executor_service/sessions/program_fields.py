"""The `completed` fields of runs and commands, made from how a program ended. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict

from executor_service.events import Json
from executor_service.result import Usage
from executor_service.sandboxes.files import Omitted
from executor_service.sandboxes.guest import Ended
from executor_service.sessions.outcome import Verdict


def program_fields(
    verdict: Verdict, ended: Ended | None, *, duration: float, usage: Usage
) -> dict[str, Json]:
    """What runs and commands have in common."""
    return {
        "outcome": verdict.outcome.value,
        "exit_code": ended.exit_code if ended else None,
        "signal": ended.signal if ended else None,
        "stdout_truncated": ended.stdout_truncated if ended else False,
        "stderr_truncated": ended.stderr_truncated if ended else False,
        "detail": verdict.detail,
        "duration": ended.duration if ended else duration,
        "usage": asdict(usage),
    }


def compile_fields(
    verdict: Verdict, ended: Ended | None, *, stdout: str, stderr: str, duration: float
) -> dict[str, Json]:
    """The `compile` field of a run."""
    return {
        "outcome": verdict.outcome.value,
        "exit_code": ended.exit_code if ended else None,
        "stdout": stdout,
        "stderr": stderr,
        "duration": ended.duration if ended else duration,
    }


def file_fields(files: Sequence[tuple[str, bytes]], omitted: Sequence[Omitted]) -> dict[str, Json]:
    """The `files` and `files_omitted` fields of a run."""
    return {
        "files": [_file(path, content) for path, content in files],
        "files_omitted": [{"path": each.path, "size": each.size, "reason": each.reason} for each in omitted],
    }


def _file(path: str, content: bytes) -> dict[str, Json]:
    try:
        text, encoding = content.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(content).decode(), "base64"
    return {"path": path, "size": len(content), "content": text, "encoding": encoding}


def used(before: Usage, after: Usage, ended: Ended | None) -> Usage:
    """What an operation used, from what its sandbox had used before and after."""
    cpu_time = ended.cpu_time if ended else None
    if before.cpu_time is not None and after.cpu_time is not None:
        cpu_time = max(0.0, after.cpu_time - before.cpu_time)
    return Usage(cpu_time=cpu_time, peak_memory_bytes=after.peak_memory_bytes)
