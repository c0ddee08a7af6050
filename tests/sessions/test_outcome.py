"""How things ended, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from executor_service.sandboxes.guest import Ended
from executor_service.sessions.outcome import KernelEnd, classify, classify_compile, classify_execution

OK = Ended(
    exit_code=0,
    signal=None,
    reason=None,
    detail=None,
    stdout_truncated=False,
    stderr_truncated=False,
    duration=1.0,
    cpu_time=0.5,
)
FAILED = replace(OK, exit_code=3)
KILLED = replace(OK, exit_code=None, signal="SIGKILL")


@pytest.mark.parametrize(
    ("ended", "oom_kills", "stopped", "outcome"),
    [
        (OK, 0, False, "ok"),
        (FAILED, 0, False, "error"),
        (KILLED, 0, False, "error"),
        (replace(KILLED, signal="SIGSEGV"), 0, False, "error"),
        (replace(KILLED, reason="wall_time"), 0, False, "timeout"),
        (replace(KILLED, reason="cpu_time", signal="SIGXCPU"), 0, False, "timeout"),
        (replace(KILLED, reason="output_limit"), 0, False, "output_limit"),
        (replace(KILLED, reason="killed"), 0, False, "interrupted"),
        (replace(OK, exit_code=127, reason="spawn"), 0, False, "error"),
        (replace(OK, reason="memory"), 0, False, "out_of_memory"),
        (OK, 1, False, "out_of_memory"),
        (FAILED, 2, False, "out_of_memory"),
        (None, 1, False, "out_of_memory"),
        (None, 0, False, "sandbox_died"),
        (None, 0, True, "interrupted"),
        (OK, 0, True, "interrupted"),
        (replace(KILLED, reason="wall_time"), 0, True, "interrupted"),
        (replace(KILLED, reason="wall_time"), 1, False, "out_of_memory"),
    ],
)
def test_programs(ended: Ended | None, oom_kills: int, stopped: bool, outcome: str) -> None:
    """A word for every way in which a program can end."""
    assert classify(ended, oom_kills=oom_kills, stopped=stopped).outcome == outcome


@pytest.mark.parametrize("reason", ["wall_time", "cpu_time"])
def test_a_timeout_says_which(reason: str) -> None:
    """`detail` tells wall from CPU time even if the guest does not."""
    assert reason in (classify(replace(KILLED, reason=reason)).detail or "")


@pytest.mark.parametrize(
    ("ended", "oom_kills", "stopped", "outcome"),
    [
        (OK, 0, False, "ok"),
        (FAILED, 0, False, "compile_error"),
        (replace(KILLED, reason="wall_time"), 0, False, "compile_error"),
        (replace(KILLED, reason="output_limit"), 0, False, "compile_error"),
        (FAILED, 1, False, "compile_error"),
        (replace(FAILED, reason="spawn"), 0, False, "compile_error"),
        (None, 0, False, "sandbox_died"),
        (KILLED, 0, True, "interrupted"),
    ],
)
def test_compile_stages(ended: Ended | None, oom_kills: int, stopped: bool, outcome: str) -> None:
    """What keeps a program from being made is a compile error, with its reason."""
    verdict = classify_compile(ended, oom_kills=oom_kills, stopped=stopped)
    assert verdict.outcome == outcome
    if ended is not None and ended.reason == "wall_time":
        assert "compile_time" in (verdict.detail or "")


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (KernelEnd(status="ok"), "ok"),
        (KernelEnd(status="error", error_name="ValueError"), "error"),
        (KernelEnd(status="error", error_name="KeyboardInterrupt"), "error"),
        (KernelEnd(status="error", error_name="KeyboardInterrupt", cause="interrupt"), "interrupted"),
        (KernelEnd(status="ok", cause="interrupt"), "ok"),
        (KernelEnd(status="error", error_name="ValueError", cause="interrupt"), "error"),
        (KernelEnd(status="died", cause="interrupt"), "error"),
        (KernelEnd(status="ok", cause="stopped"), "interrupted"),
        (KernelEnd(status="died", cause="stopped", killed=True), "interrupted"),
        (KernelEnd(status="died", cause="restart"), "interrupted"),
        (KernelEnd(status="error", error_name="KeyboardInterrupt", cause="wall_time"), "timeout"),
        (KernelEnd(status="died", cause="wall_time", killed=True), "timeout"),
        (KernelEnd(status="error", cause="cpu_time"), "timeout"),
        (KernelEnd(status="error", error_name="KeyboardInterrupt", output_limit=True), "output_limit"),
        (KernelEnd(status="died", output_limit=True, killed=True), "output_limit"),
        (KernelEnd(status="died"), "error"),
        (KernelEnd(status="died", oom_kills=1), "out_of_memory"),
        (KernelEnd(status="ok", oom_kills=1), "out_of_memory"),
        (KernelEnd(status="died", cause="closed"), "interrupted"),
        (KernelEnd(status="died", sandbox_died=True), "sandbox_died"),
    ],
)
def test_executions(end: KernelEnd, outcome: str) -> None:
    """A word for every way in which an execution can end."""
    assert classify_execution(end).outcome == outcome


def test_a_timeout_of_an_execution_says_which_and_whether_its_kernel_went() -> None:
    """`detail` names the limit and the escalation."""
    end = KernelEnd(status="died", cause="wall_time", killed=True)
    assert (
        classify_execution(end).detail
        == "wall time exceeded; it ignored the interrupt; the kernel was restarted"
    )
    assert classify_execution(KernelEnd(status="error", cause="cpu_time")).detail == "cpu time exceeded"
