"""The `completed` fields of an execution. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from executor_service.events import Error, Json
from executor_service.result import Usage
from executor_service.sandboxes.guest import Ended
from executor_service.sandboxes.kernel import KernelDone
from executor_service.sessions.fold import error_json
from executor_service.sessions.outcome import Verdict


def execution_fields(
    verdict: Verdict,
    done: KernelDone,
    error: Error | None,
    *,
    files: Sequence[tuple[str, int]],
    files_truncated: bool,
    duration: float,
    usage: Usage,
    state_lost: bool,
) -> dict[str, Json]:
    """Everything that docs/api.md lists for an execution but what its events told."""
    return {
        "outcome": verdict.outcome.value,
        "stdout_truncated": done.stdout_truncated,
        "stderr_truncated": done.stderr_truncated,
        "error": None if error is None else error_json(error),
        "files": [{"path": path, "size": size} for path, size in files],
        "files_truncated": files_truncated,
        "execution_count": done.execution_count,
        "duration": duration,
        "usage": asdict(usage),
        "detail": verdict.detail,
        "state_lost": state_lost,
    }


def kernel_died(done: KernelDone) -> Error:
    """What an execution shows whose kernel ended under it."""
    how = f"by {done.signal}" if done.signal else f"with exit code {done.exit_code}"
    if done.signal is None and done.exit_code is None:
        how = "for an unknown reason"
    return Error(name="KernelDied", value=f"the kernel ended {how}; its state is lost")


def shell_done(ended: Ended | None) -> KernelDone:
    """A shell's end in the words of a kernel's: the part of it that `execution_fields` reads."""
    return KernelDone(
        status="ok" if ended is not None and ended.exit_code == 0 else "error",
        stdout_truncated=ended is not None and ended.stdout_truncated,
        stderr_truncated=ended is not None and ended.stderr_truncated,
    )


def exit_detail(ended: Ended | None) -> str | None:
    """How a shell ended, in words: an execution has no exit code."""
    if ended is None or (ended.exit_code == 0 and ended.signal is None):
        return None
    return f"ended by {ended.signal}" if ended.signal else f"exit code {ended.exit_code}"
