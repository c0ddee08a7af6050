"""What a durable session leaves so that a later service finds it: rows in the store, events with the guest.

The order of the steps is what makes a crash between any two of them harmless: docs/durable-sessions.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict

from executor_service.errors import SandboxFailed, ServiceFault
from executor_service.events import Completed, Json
from executor_service.limits import OPERATION_FIELDS, Limits
from executor_service.result import Outcome
from executor_service.sandboxes.base import Sandbox
from executor_service.sandboxes.stash import fetch, store
from executor_service.sessions.fold import FIELDS
from executor_service.sessions.operation import Kind, Operation
from executor_service.sessions.packing import pack_events
from executor_service.sessions.policy import Policy
from executor_service.sessions.readings import Start, begin
from executor_service.sessions.store import OperationRow, Stdin, Store

log = logging.getLogger(__name__)

ENV = "env"  # the session's variables, in the stash
MARGIN = 1.0  # seconds by which a guest outlives its session, so that the service closes it first
LARGE = 256 * 1024  # bytes of events that are packed beside the event loop


class Keeper:
    """Of one session; `over` once there is nothing to be kept any more."""

    def __init__(
        self, session_id: str, sandbox: Sandbox, *, store: Store, policy: Policy, clock: Callable[[], float]
    ) -> None:
        self.over = False
        self._session_id = session_id
        self._sandbox = sandbox
        self._store = store
        self._policy = policy
        self._clock = clock

    async def keep_env(self, env: Mapping[str, str]) -> None:
        """The session's variables, which no disk may hold. Raises SandboxFailed."""
        await store(self._sandbox, ENV, json.dumps(dict(env)).encode())

    async def renew(self, expires_at: float) -> None:
        """The session lives until then. Raises SandboxFailed, and what the store raises."""
        await self._sandbox.renew(expires_at - self._clock() + MARGIN)  # first: it must not end too early
        await self._store.set_expiry(self._session_id, expires_at)

    async def begin(
        self, operation: Operation, *, kernel: str | None, limits: Limits, stdin: Stdin = "none"
    ) -> Start:
        """A detached operation is about to start. Raises what the store raises."""
        start = await begin(self._sandbox)
        assert operation.kind != "run"
        row = OperationRow(
            id=operation.id,
            session=self._session_id,
            kind=operation.kind,
            kernel=kernel,
            stdin=stdin,
            limits={name: value for name, value in asdict(limits).items() if name in OPERATION_FIELDS},
            started_at=operation.started_at,
            since_ns=start.since_ns,
            cpu_time=start.before.usage.cpu_time,
            oom_kills=start.before.oom_kills,
        )
        await self._store.add_operation(row)
        return start

    async def seal(
        self, operation: Operation, completed: Completed, forget: Callable[[], Awaitable[None]]
    ) -> None:
        """A detached operation has ended with `completed`; `forget` has the guest keep it no more."""
        if self.over:
            return
        try:
            events, skipped = (*operation.journal.events, completed), operation.journal.skipped
            if operation.journal.size > LARGE:
                data = await asyncio.to_thread(pack_events, events, skipped)
            else:
                data = pack_events(events, skipped)
            await store(self._sandbox, operation.id, data, seconds=self._policy.keep_for)
            await self._store.end_operation(operation.id, self._clock())
            await forget()
        except ServiceFault as error:
            log.warning("the end of %s would not survive a restart: %s", operation.id, error.detail)

    async def drop(self, operation: Operation, forget: Callable[[], Awaitable[None]]) -> None:
        """A detached operation failed by our own fault: nobody need find it again."""
        try:
            await self._store.drop_operation(operation.id)
            await forget()
        except ServiceFault as error:
            log.warning("%s is not dropped: %s", operation.id, error.detail)


async def fetch_env(sandbox: Sandbox) -> Mapping[str, str]:
    """The variables that `keep_env` left. Raises SandboxFailed: they are not there."""
    data = await fetch(sandbox, ENV)
    try:
        env = json.loads(data or b"")
    except ValueError:
        env = None
    if not isinstance(env, dict) or not all(isinstance(each, str) for each in env.values()):
        raise SandboxFailed("its environment variables are lost")
    return env


def lost_fields(kind: Kind, elapsed: float) -> dict[str, Json]:
    """How an operation ended that did not survive a restart of the service. Pure."""
    detail = "the service was restarted, and this did not survive it"
    return {**FIELDS[kind], "outcome": Outcome.INTERRUPTED.value, "detail": detail, "duration": elapsed}
