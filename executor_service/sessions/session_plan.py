"""From what is asked of a session to what will be done, or the reason why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from executor_service.errors import LanguageNotFound
from executor_service.languages import Language
from executor_service.limits import Limits, resolve
from executor_service.sandboxes.guest import ProgramSpec
from executor_service.sessions import checks
from executor_service.sessions.catalog import Offer
from executor_service.sessions.environment import WORKSPACE
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import CommandRequest, ExecutionRequest

BASH = frozenset({"bash", "sh", "shell", "shellscript"})
TERMINAL_TIME = 30 * 86400.0  # seconds: longer than a session lives
TERMINAL_BYTES = 1 << 50


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """Code for the kernel of a language."""

    code: str
    language: Language
    allow_input: bool
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class ShellPlan:
    """A process; its input stays open after `stdin` if `keep_stdin`."""

    spec: ProgramSpec
    stdin: bytes = b""
    keep_stdin: bool = False


def plan_execution(
    request: ExecutionRequest,
    offer: Offer,
    kernels: Sequence[Language],
    policy: Policy,
    env: Mapping[str, str],
) -> CellPlan | ShellPlan:
    """What an execution does in a session of `offer` that has other `kernels` too.

    A shell's words are a process of their own where the image has no kernel for them.

    Raises:
        CallerError: LanguageNotFound, InvalidRequest, LimitTooHigh.
    """
    checks.check_text("code", request.code, longest=checks.MAX_CODE)
    limits = _limits(request.limits, offer, policy)
    wanted = (request.language or offer.language.name).lower()
    for language in (offer.language, *kernels):
        if wanted == language.name or wanted in language.aliases:
            return CellPlan(
                code=request.code, language=language, allow_input=request.allow_input, limits=limits
            )
    if wanted not in BASH:
        names = dict.fromkeys((offer.language.name, *(each.name for each in kernels), "bash"))
        raise LanguageNotFound(f"no kernel for {wanted[:80]!r} in this session; there are {', '.join(names)}")
    if len(request.code.encode()) > checks.MAX_WORD:
        raise checks.invalid("code", f"may have at most {checks.MAX_WORD} bytes in bash")
    return ShellPlan(spec=_spec(("bash", "-c", request.code), WORKSPACE, env, limits, stdin=False))


def plan_command(request: CommandRequest, offer: Offer, policy: Policy, env: Mapping[str, str]) -> ShellPlan:
    """What a command does in a session of `offer`.

    Raises:
        CallerError: InvalidRequest, InvalidPath, LimitTooHigh.
    """
    argv = _argv(request)
    checks.check_env(request.env)
    cwd = checks.check_cwd(request.cwd, WORKSPACE)
    stdin = request.stdin or b""
    if len(stdin) > policy.max_files_in_bytes:
        raise checks.invalid("stdin", f"is longer than {policy.max_files_in_bytes} bytes")
    keep_stdin = request.detach and request.stdin is None
    limits = _limits(request.limits, offer, policy)
    spec = _spec(argv, cwd, {**env, **request.env}, limits, stdin=keep_stdin or bool(stdin))
    return ShellPlan(spec=spec, stdin=stdin, keep_stdin=keep_stdin)


def limits_of(spec: ProgramSpec) -> Limits:
    """The limits that a process has."""
    return Limits(
        wall_time=spec.wall_time,
        cpu_time=spec.cpu_time,
        output_bytes=spec.output_bytes,
        open_files=spec.open_files,
    )


def terminal_spec(rows: int, cols: int, policy: Policy, env: Mapping[str, str]) -> ProgramSpec:
    """A shell on a pseudo-terminal, which lives as long as its connection."""
    return ProgramSpec(
        argv=("bash", "-i"),
        env={**env, "TERM": "xterm-256color"},
        stdin=True,
        tty=(rows, cols),
        wall_time=TERMINAL_TIME,
        output_bytes=TERMINAL_BYTES,
        open_files=policy.limits.open_files,
    )


def _argv(request: CommandRequest) -> tuple[str, ...]:
    if (request.command is None) == (request.argv is None):
        raise checks.invalid("command", "or argv must be given, and not both")
    if request.command is not None:
        checks.check_text("command", request.command, longest=checks.MAX_WORD)
        return ("bash", "-c", request.command)
    argv = request.argv or ()
    if not argv or not argv[0]:
        raise checks.invalid("argv", "must name a program")
    checks.check_words("argv", argv)
    return argv


def _limits(asked: Mapping[str, float | None], offer: Offer, policy: Policy) -> Limits:
    default = offer.defaults(policy.limits, policy.ceiling)
    return resolve(asked, scope="operation", default=default, ceiling=policy.ceiling)


def _spec(
    argv: tuple[str, ...], cwd: str, env: Mapping[str, str], limits: Limits, *, stdin: bool
) -> ProgramSpec:
    return ProgramSpec(
        argv=argv,
        cwd=cwd,
        env=env,
        stdin=stdin,
        wall_time=limits.wall_time,
        cpu_time=limits.cpu_time,
        output_bytes=limits.output_bytes,
        open_files=limits.open_files,
    )
