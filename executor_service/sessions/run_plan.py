"""From a run's request to what will be done, or the reason why not. Pure: nothing has started yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from executor_service.egress.policy import Grant
from executor_service.errors import FieldError, InvalidPath
from executor_service.limits import Limits, resolve
from executor_service.sandboxes.base import Lease, SandboxSpec, Warm
from executor_service.sandboxes.guest import ProgramSpec
from executor_service.sessions import checks
from executor_service.sessions.catalog import Catalog, Offer
from executor_service.sessions.environment import environment, way_out
from executor_service.sessions.imports import imports_packages
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import RunRequest


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run takes and does. `written` is the source file that we write ourselves, if any."""

    spec: SandboxSpec
    lease: Lease
    files: tuple[tuple[str, bytes], ...]
    written: tuple[str, bytes] | None
    compile: ProgramSpec | None
    program: ProgramSpec
    stdin: bytes
    collect: tuple[str, ...]
    grant: Grant | None = None


def plan_run(request: RunRequest, catalog: Catalog, policy: Policy) -> RunPlan:
    """Check everything about `request` and settle what it means.

    Raises:
        CallerError: LanguageNotFound, ImageNotFound, InvalidPath, InvalidRequest, LimitTooHigh,
            NetworkNotAllowed; the field is named.
    """
    _check(request, policy)
    grant = checks.check_network(request.network, policy.egress)
    outward = way_out(network=grant is not None, ca_bundle=policy.ca_bundle)
    offer = catalog.find(request.language, request.image)
    default = offer.defaults(policy.limits, policy.ceiling)
    limits = resolve(request.limits, scope="run", default=default, ceiling=policy.ceiling)
    files = tuple((checks.normal_path("path", file.path), file.content) for file in request.files)
    main = _main_path(request, offer, frozenset(path for path, _ in files))
    source = (main, request.code)
    compiled = _compile(offer, source, limits, outward)
    program = _program(request, offer, main, limits, outward)
    return RunPlan(
        spec=SandboxSpec(
            image=offer.image,
            warm=_warm(request, offer),
            disk_bytes=limits.disk_bytes,
            network=grant is not None,
        ),
        lease=lease(limits),
        files=files,
        written=None if request.code is None else (main, request.code.encode()),
        compile=compiled,
        program=program if compiled else replace(program, source=source),
        stdin=request.stdin,
        collect=request.collect,
        grant=grant,
    )


def _warm(request: RunRequest, offer: Offer) -> Warm:
    """The light interpreter is for a program that imports no package; a wrong guess only costs time."""
    if not offer.armed:
        return "none"
    texts = [
        request.code or "",
        *(f.content.decode(errors="replace") for f in request.files if f.path.endswith(".py")),
    ]
    return "program" if any(map(imports_packages, texts)) else "light"


def lease(limits: Limits) -> Lease:
    """What a sandbox with these limits is set to."""
    return Lease(memory_bytes=limits.memory_bytes, processes=limits.processes, cpus=limits.cpus)


def _check(request: RunRequest, policy: Policy) -> None:
    if (request.code is None) == (request.entrypoint is None):
        raise checks.invalid("code", "or entrypoint must be given, and not both")
    if request.code is not None:
        checks.check_text("code", request.code, longest=checks.MAX_CODE)
    checks.check_words("args", request.args)
    checks.check_env(request.env)
    checks.check_files(request.files, most=policy.max_files_in, most_bytes=policy.max_files_in_bytes)
    checks.check_globs(request.collect)
    if len(request.stdin) > policy.max_files_in_bytes:
        raise checks.invalid("stdin", f"is longer than {policy.max_files_in_bytes} bytes")


def _main_path(request: RunRequest, offer: Offer, taken: frozenset[str]) -> str:
    """Where the program's text lies: the entrypoint, or a free name for the code."""
    if request.entrypoint is None:
        directories = {path.split("/", 1)[0] for path in taken}
        return checks.free_name(offer.language.source, taken | directories)
    path = checks.normal_path("entrypoint", request.entrypoint)
    if path not in taken:
        message = "entrypoint must name one of files"
        raise InvalidPath(message, errors=(FieldError(loc="entrypoint", message=message),))
    return path


def _compile(
    offer: Offer, source: tuple[str, str | None], limits: Limits, outward: Mapping[str, str]
) -> ProgramSpec | None:
    argv = offer.language.compile_argv(source=source[0], memory_bytes=limits.memory_bytes)
    if argv is None:
        return None
    return ProgramSpec(
        argv=argv,
        source=source,
        env=environment(outward, offer.language.env, cpus=limits.cpus),
        wall_time=limits.compile_time,
        output_bytes=limits.output_bytes,
        open_files=limits.open_files,
    )


def _program(
    request: RunRequest, offer: Offer, main: str, limits: Limits, outward: Mapping[str, str]
) -> ProgramSpec:
    argv = (main, *request.args)
    if not offer.armed:
        argv = offer.language.run_argv(request.args, source=main, memory_bytes=limits.memory_bytes)
    return ProgramSpec(
        argv=argv,
        armed=offer.armed,
        env=environment(outward, offer.language.env, request.env, cpus=limits.cpus),
        stdin=bool(request.stdin),
        wall_time=limits.wall_time,
        cpu_time=limits.cpu_time,
        output_bytes=limits.output_bytes,
        open_files=limits.open_files,
    )
