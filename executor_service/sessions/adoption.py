"""Taking over what a service before us left: which sessions live on, and how their work is taken up.

Deciding is pure (`judge`); `take_up` talks to one session's guest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields

from executor_service.errors import CallerError
from executor_service.limits import Limits
from executor_service.result import Reading, Usage
from executor_service.sandboxes.guest import NotKept, ProgramSpec
from executor_service.sandboxes.stash import drop, fetch, kept
from executor_service.sessions import checks
from executor_service.sessions.catalog import Catalog
from executor_service.sessions.claim import Claim
from executor_service.sessions.execution import Cell
from executor_service.sessions.keeper import lost_fields
from executor_service.sessions.kernels import KEPT, kept_as
from executor_service.sessions.operation import Past
from executor_service.sessions.packing import unpack_events
from executor_service.sessions.policy import Policy
from executor_service.sessions.ports import GuestPort
from executor_service.sessions.readings import Start
from executor_service.sessions.requests import Network
from executor_service.sessions.session import Session
from executor_service.sessions.session_plan import ShellPlan
from executor_service.sessions.store import OperationRow, SessionRow

GONE = "its sandbox was gone when the service came back"


def judge(row: SessionRow, *, catalog: Catalog, policy: Policy, backend: str, now: float) -> Claim | str:
    """What a stored session is now, without its variables, or why it cannot go on. Pure."""
    if now >= row.expires_at:
        return "its time to live (ttl) is over"
    try:
        offer = catalog.stateful(row.language, row.image)
        network = _network(row.network)
        grant = checks.check_network(network, policy.egress)
    except CallerError as error:
        return f"the service was restarted, and offers less: {error.detail}"
    known = {each.name for each in fields(Limits)}
    return Claim(
        owner=row.owner,
        offer=offer,
        kernels=catalog.kernels(offer),
        backend=backend,
        limits=Limits(**{name: value for name, value in row.limits.items() if name in known}),
        env={},
        metadata=row.metadata,
        ttl=row.ttl,
        idle_ttl=row.idle_ttl,
        network=network,
        grant=grant,
    )


def _network(stored: object) -> Network:
    if isinstance(stored, dict):
        return {"allow": tuple(stored["allow"])}
    return stored is True


async def take_up(session: Session, rows: Sequence[OperationRow], guest: GuestPort) -> None:
    """Go on where an earlier service left `session`, with these operations of its.

    Raises:
        SandboxFailed: the sandbox is gone.
    """
    await session.open_way_out()
    running = {row.id for row in rows if row.ended_at is None}
    for name in await kept(session.sandbox):
        if name not in running and not name.startswith(KEPT):
            await drop(session.sandbox, name)
    for row in rows:
        if row.ended_at is not None:
            await _recall(session, row, row.ended_at)
        elif row.kernel is not None:
            await _go_on_in_kernel(session, row, guest)
        else:
            operation = session.operation(row.kind, detached=True, past=_past(row))
            session.works.begin(
                operation, session.works.process(operation, plan_again(row), start_again(row))
            )
    session.kernels.adopt(session.claim.kernels)


async def _go_on_in_kernel(session: Session, row: OperationRow, guest: GuestPort) -> None:
    operation = session.operation(row.kind, detached=True, past=_past(row))
    limits = limits_again(row)
    holder = session.kernel_named(row.kernel or "")
    try:
        if holder is None:
            raise NotKept("the image has no such kernel any more")
        kernel = await guest.attach_kernel(
            session.sandbox, kept_as(holder.name), row.id, limits.output_bytes, holder.how
        )
    except NotKept:
        session.works.remember(operation, _nothing)
        await operation.finish(lost_fields(operation.kind, operation.elapsed))
        return
    holder.take(kernel)
    cell = Cell(code="", allow_input=True, limits=limits)
    session.works.begin(operation, session.works.cell(operation, cell, kernel, start_again(row), holder))


async def _recall(session: Session, row: OperationRow, ended_at: float) -> None:
    """One that has ended: its events are with the guest, if it still has them."""
    data = await fetch(session.sandbox, row.id)
    try:
        found = await asyncio.to_thread(unpack_events, data or b"")
    except ValueError:
        return
    operation = session.operation(row.kind, detached=True, past=_past(row))
    operation.replay(found.events, found.skipped, ended_at)
    session.works.remember(operation, _nothing)


async def _nothing() -> None:
    """The guest keeps nothing of it."""


def _past(row: OperationRow) -> Past:
    return Past(id=row.id, started_at=row.started_at)


def limits_again(row: OperationRow) -> Limits:
    """The limits of an operation that has begun. Pure."""
    known = {each.name for each in fields(Limits)}
    return Limits(**{name: value for name, value in row.limits.items() if name in known})


def plan_again(row: OperationRow) -> ShellPlan:
    """A process that has begun: what it runs only the guest knows. Pure."""
    limits = limits_again(row)
    spec = ProgramSpec(
        argv=(),
        stdin=row.stdin != "none",
        wall_time=limits.wall_time,
        cpu_time=limits.cpu_time,
        output_bytes=limits.output_bytes,
        open_files=limits.open_files,
    )
    return ShellPlan(spec=spec, keep_stdin=row.stdin == "open")


def start_again(row: OperationRow) -> Start:
    """From when on, and from what readings, it counts. Pure."""
    before = Reading(usage=Usage(cpu_time=row.cpu_time), oom_kills=row.oom_kills)
    return Start(since_ns=row.since_ns, before=before, again=True)
