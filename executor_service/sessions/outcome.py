"""How an operation ended, in one word: pure classifiers over what the guest and the kernel said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from executor_service.result import Outcome
from executor_service.sandboxes.guest import Ended

Cause = Literal["wall_time", "cpu_time", "stopped", "interrupt", "restart", "closed"]
"""What befell an execution from our side; `restart` is its kernel's, `closed` its session's."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An outcome and, where there is more to say, a sentence."""

    outcome: Outcome
    detail: str | None = None


def classify(ended: Ended | None, *, oom_kills: int = 0, stopped: bool = False) -> Verdict:
    """How a program ended.

    Args:
        ended: what the guest reported; None when it could not report any more.
        oom_kills: how many processes the memory limit killed meanwhile.
        stopped: we ended it on the caller's behalf.
    """
    if oom_kills > 0 or (ended is not None and ended.reason == "memory"):
        return Verdict(outcome=Outcome.OUT_OF_MEMORY, detail="a process was killed by the memory limit")
    if stopped:
        return Verdict(outcome=Outcome.INTERRUPTED)
    if ended is None:
        return Verdict(outcome=Outcome.SANDBOX_DIED, detail="the sandbox ended before the program did")
    match ended.reason:
        case "wall_time" | "cpu_time":
            return Verdict(outcome=Outcome.TIMEOUT, detail=ended.detail or f"{ended.reason} exceeded")
        case "output_limit":
            return Verdict(outcome=Outcome.OUTPUT_LIMIT, detail=ended.detail)
        case "killed":
            return Verdict(outcome=Outcome.INTERRUPTED, detail=ended.detail)
        case "spawn":
            return Verdict(outcome=Outcome.ERROR, detail=ended.detail or "the program could not be started")
    return Verdict(outcome=Outcome.OK if ended.exit_code == 0 else Outcome.ERROR, detail=ended.detail)


def classify_compile(ended: Ended | None, *, oom_kills: int = 0, stopped: bool = False) -> Verdict:
    """How a compile stage ended: `ok`, `compile_error` with the reason, or what ends the run itself."""
    verdict = classify(ended, oom_kills=oom_kills, stopped=stopped)
    if verdict.outcome in (Outcome.OK, Outcome.INTERRUPTED, Outcome.SANDBOX_DIED):
        return verdict
    reason = verdict.detail
    if ended is not None and ended.reason == "wall_time":
        reason = f"compile_time: {reason}"
    return Verdict(outcome=Outcome.COMPILE_ERROR, detail=reason)


@dataclass(frozen=True, kw_only=True)
class KernelEnd:
    """What is known when an execution in a kernel has ended.

    `status` is the kernel's word, `died` when it ended first; `error_name` that of the exception it
    showed; `cause` what we did; `killed` that it ignored our interrupt and lost its kernel. Not every kernel
    names an interrupt `KeyboardInterrupt` (`named`): of the others, what fails after one was interrupted.
    """

    status: Literal["ok", "error", "died"]
    error_name: str | None = None
    named: bool = True
    cause: Cause | None = None
    killed: bool = False
    oom_kills: int = 0
    output_limit: bool = False
    sandbox_died: bool = False


def classify_execution(end: KernelEnd) -> Verdict:
    """How an execution ended."""
    if end.oom_kills > 0:
        return Verdict(outcome=Outcome.OUT_OF_MEMORY, detail="a process was killed by the memory limit")
    if end.cause == "closed":
        return Verdict(outcome=Outcome.INTERRUPTED, detail="the session was closed")
    if end.sandbox_died:
        return Verdict(outcome=Outcome.SANDBOX_DIED, detail="the sandbox ended before the execution did")
    detail = "it ignored the interrupt; the kernel was restarted" if end.killed else None
    if end.cause in ("wall_time", "cpu_time"):
        words = f"{end.cause.replace('_', ' ')} exceeded"
        return Verdict(outcome=Outcome.TIMEOUT, detail=f"{words}; {detail}" if detail else words)
    if end.output_limit:
        return Verdict(outcome=Outcome.OUTPUT_LIMIT, detail=detail)
    interrupted = end.error_name == "KeyboardInterrupt" if end.named else end.status == "error"
    if end.cause == "stopped" or (end.cause == "interrupt" and interrupted):
        return Verdict(outcome=Outcome.INTERRUPTED, detail=detail)
    if end.cause == "restart":
        return Verdict(outcome=Outcome.INTERRUPTED, detail="the kernel was restarted")
    if end.status == "ok":
        return Verdict(outcome=Outcome.OK)
    return Verdict(outcome=Outcome.ERROR, detail="the kernel died" if end.status == "died" else None)
