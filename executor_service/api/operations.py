"""Answering an operation: folded into one JSON body, streamed, or left to run (detached)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from executor_service.api import sse
from executor_service.api.connection import until_gone
from executor_service.api.encode import json_response
from executor_service.api.ports import Json, Operation
from executor_service.api.service import Service
from executor_service.events import Completed, Error, File
from executor_service.sessions.fold import FIELDS, error_json


async def started(request: Request, operation: Operation, service: Service, location: str) -> Response:
    """The answer to the request that started `operation`.

    An attached operation ends with its connection; a detached one goes on.
    """
    if operation.detached:
        service.follow(operation)
        headers = {"Location": location}
        if sse.wanted(request):
            return sse.EventStream(operation)
        return json_response({"id": operation.id, "state": "running"}, 202, headers)
    if sse.wanted(request):
        return sse.EventStream(operation, finish=service.finish)
    try:
        finished = await until_gone(operation.wait(), request.receive)
    finally:
        await asyncio.shield(service.finish(operation))
    return json_response(operation.fold()) if finished else Response(status_code=499)


def found(request: Request, operation: Operation) -> Response:
    """The answer to `GET` of an operation: its result so far, or its events and those to come.

    Raises:
        InvalidRequest: `Last-Event-ID` is no number.
    """
    if sse.wanted(request):
        return sse.EventStream(operation, after=sse.last_event_id(request))
    return json_response(operation.fold())


def summary(operation: Operation) -> Json:
    """An item of a list: every folded field except stdout, stderr, displays and result."""
    if operation.journal.failure is not None:
        found: Json = {"outcome": None, "detail": operation.journal.failure.detail}
    else:
        found = {**FIELDS[operation.kind], "duration": operation.elapsed, **_told(operation)}
    return {**found, "id": operation.id, "state": operation.state}


def _told(operation: Operation) -> Mapping[str, Any]:
    """What its events say beside its output, which may be long and is left alone."""
    events = operation.journal.events
    if isinstance(events[-1], Completed):
        return events[-1].fields
    if operation.kind != "execution":
        return {}
    errors = [error_json(each) for each in events if isinstance(each, Error)]
    files = [{"path": each.path, "size": each.size} for each in events if isinstance(each, File)]
    return {"error": errors[-1] if errors else None, "files": files}
