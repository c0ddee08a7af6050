"""`codecell-executor doctor`: what works on this machine, what is enforced by what, what to change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from executor_service import __version__
from executor_service.errors import CodecellError


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at. `change` says what to do where it is not `ok`."""

    name: str
    ok: bool
    detail: str
    change: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found."""

    version: str = __version__
    backend: str = "local"
    checks: tuple[Check, ...]
    isolation: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether the service can work here."""
        return all(check.ok for check in self.checks)


def examine(image: str) -> Report:
    """Look at the machine, and make one sandbox."""
    checks = [_system(), _python()]
    isolation: Mapping[str, Mapping[str, str]] = {}
    if checks[0].ok:
        made, isolation = _sandbox(image)
        checks += made
    return Report(checks=tuple(checks), isolation=isolation)


def _system() -> Check:
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    detail = f"{platform.system()} {platform.release()}, {platform.machine()}, as {user}"
    return Check(
        name="system", ok=sys.platform == "linux", detail=detail, change="local sandboxes need Linux"
    )


def _python() -> Check:
    return Check(name="python", ok=sys.version_info >= (3, 11), detail=platform.python_version())


def _sandbox(name: str) -> tuple[list[Check], Mapping[str, Mapping[str, str]]]:
    from executor_service.images import ImageDefinitionError, definitions, find_built
    from executor_service.sandboxes.base import SandboxSpec
    from executor_service.sandboxes.local import LocalBackend

    build = f"codecell-executor images build {name}"
    try:
        image = find_built(definitions()[name])
    except (KeyError, ImageDefinitionError, CodecellError) as error:
        detail = error.detail if isinstance(error, CodecellError) else f"not defined: {error}"
        return [Check(name=f"image {name}", ok=False, detail=detail, change=f"build it: {build}")], {}
    checks = [Check(name=f"image {name}", ok=True, detail=str(image.directory))]

    async def attempt(state: Path) -> Mapping[str, Mapping[str, str]]:
        async with LocalBackend([image], state, f"doctor-{os.getpid()}", may_move=False) as backend:
            sandbox = await backend.create(SandboxSpec(image=image.name))
            await sandbox.close()
            return {aspect: dict(how) for aspect, how in backend.isolation().items()}

    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codecell-doctor-")))
        try:
            isolation = asyncio.run(attempt(state))
        except (CodecellError, OSError) as error:
            detail = error.detail if isinstance(error, CodecellError) else str(error)
            return [*checks, Check(name="sandbox", ok=False, detail=detail, change="see the detail")], {}
    return [*checks, Check(name="sandbox", ok=True, detail="one was made and removed")], isolation


def as_json(report: Report) -> str:
    """For programs."""
    return json.dumps({**asdict(report), "healthy": report.healthy}, indent=2)


def as_text(report: Report) -> str:
    """For people."""
    lines = [f"codecell-executor {report.version}, backend {report.backend}", ""]
    for check in report.checks:
        lines.append(f"{'ok     ' if check.ok else 'PROBLEM'}  {check.name}: {check.detail}")
        if not check.ok and check.change:
            lines.append(f"         to change: {check.change}")
    if report.isolation:
        lines += ["", "What is enforced, and by what:"]
        width = max(len(aspect) for aspect in report.isolation)
        for aspect, how in report.isolation.items():
            more = f" ({how['detail']})" if how.get("detail") else ""
            lines.append(f"  {aspect:<{width}}  {how.get('enforced', '?'):<8}  {how.get('by', '')}{more}")
    lines += [
        "",
        "This machine can run sandboxes." if report.healthy else "This machine cannot run sandboxes yet.",
    ]
    return "\n".join(lines)
