"""What the doctor tells: checks, what is enforced by what, and their text for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from executor_service import __version__

Isolation = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Where it is not `ok` the service cannot work; with a `warning` it can, and something is less than it
    might be. `change` says what to do about either.
    """

    name: str
    ok: bool
    detail: str
    change: str = ""
    warning: bool = False

    @property
    def word(self) -> str:
        """How it is told."""
        return "PROBLEM" if not self.ok else "WARNING" if self.warning else "ok"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found."""

    version: str = __version__
    backend: str = "local"
    checks: tuple[Check, ...]
    isolation: Isolation = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether the service can work here."""
        return all(check.ok for check in self.checks)


def as_json(report: Report) -> str:
    """For programs."""
    return json.dumps({**asdict(report), "healthy": report.healthy}, indent=2)


def as_text(report: Report) -> str:
    """For people."""
    lines = [f"codecell-executor {report.version}, backend {report.backend}", ""]
    for check in report.checks:
        lines.append(f"{check.word:<7}  {check.name}: {check.detail}")
        if check.word != "ok" and check.change:
            lines.append(f"         to change: {check.change}")
    if report.isolation:
        lines += ["", "What is enforced, and by what:"]
        width = max(len(aspect) for aspect in report.isolation)
        for aspect, how in report.isolation.items():
            more = f" ({how['detail']})" if how.get("detail") else ""
            lines.append(f"  {aspect:<{width}}  {how.get('enforced', '?'):<8}  {how.get('by', '')}{more}")
    can = "can run sandboxes." if report.healthy else "cannot run sandboxes yet."
    return "\n".join([*lines, "", f"This machine {can}"])
