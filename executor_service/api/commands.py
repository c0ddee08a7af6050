"""Routes of commands: processes in a session's sandbox."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from executor_service.api import answers, bodies, operations
from executor_service.api.encode import json_response
from executor_service.api.schemas import CommandBody, CommandInputBody, SignalBody
from executor_service.api.service import SessionHere, service_of

router = APIRouter(prefix="/v1/sessions/{session_id}/commands", tags=["commands"])

_FOUND = answers.problems(401, 403, 404, 410)


@router.post(
    "",
    openapi_extra=bodies.documented(CommandBody),
    responses=answers.operation(answers.CommandAnswer, 401, 403, 404, 410, 413, 415, 422, 429, 502, 503, 507),
)
async def start_command(request: Request, session: SessionHere) -> Response:
    """Run one command in the session's sandbox, beside its kernel."""
    asked = (await bodies.read(request, CommandBody)).to_request()
    operation = await session.command(asked)
    location = f"/v1/sessions/{session.id}/commands/{operation.id}"
    return await operations.started(request, operation, service_of(request), location)


@router.get("", responses={200: {"model": answers.OperationList}, **_FOUND})
async def list_commands(session: SessionHere) -> Response:
    """What is remembered, newest first, without outputs."""
    found = session.commands()
    return json_response({"items": [operations.summary(each) for each in found]})


@router.get(
    "/{command_id}",
    responses=answers.operation(answers.CommandAnswer, 401, 403, 404, 410, 422, 502),
)
async def get_command(request: Request, session: SessionHere, command_id: str) -> Response:
    """One command: its result so far, or its events from the start or from `Last-Event-ID`."""
    return operations.found(request, session.command_of(command_id))


@router.delete("/{command_id}", status_code=204, responses=_FOUND)
async def stop_command(session: SessionHere, command_id: str) -> Response:
    """Kill a command and all that it started; nothing if it had ended."""
    await session.command_of(command_id).stop()
    return Response(status_code=204)


@router.post(
    "/{command_id}/input",
    status_code=204,
    openapi_extra=bodies.documented(CommandInputBody),
    responses={**_FOUND, **answers.problems(409, 413, 415, 422)},
)
async def write_input(request: Request, session: SessionHere, command_id: str) -> Response:
    """Write to a command's standard input, and end it with `close`."""
    operation = session.command_of(command_id)
    body = await bodies.read(request, CommandInputBody)
    await operation.input(body.to_bytes(), close=body.close)
    return Response(status_code=204)


@router.post(
    "/{command_id}/signal",
    status_code=204,
    openapi_extra=bodies.documented(SignalBody),
    responses={**_FOUND, **answers.problems(415, 422)},
)
async def signal_command(request: Request, session: SessionHere, command_id: str) -> Response:
    """Send a command a signal; nothing if it had ended."""
    operation = session.command_of(command_id)
    await operation.signal((await bodies.read(request, SignalBody)).signal)
    return Response(status_code=204)
