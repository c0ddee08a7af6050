"""Routes of executions: code for a session's kernel."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from executor_service.api import answers, bodies, operations
from executor_service.api.encode import json_response
from executor_service.api.schemas import ExecutionBody, InputBody
from executor_service.api.service import SessionHere, service_of

router = APIRouter(prefix="/v1/sessions/{session_id}/executions", tags=["executions"])

_FOUND = answers.problems(401, 403, 404, 410)


@router.post(
    "",
    openapi_extra=bodies.documented(ExecutionBody),
    responses=answers.operation(
        answers.ExecutionAnswer, 401, 403, 404, 409, 410, 413, 415, 422, 429, 502, 503
    ),
)
async def execute(request: Request, session: SessionHere) -> Response:
    """Execute one piece of code; state stays in the session."""
    asked = (await bodies.read(request, ExecutionBody)).to_request()
    operation = await session.execute(asked)
    location = f"/v1/sessions/{session.id}/executions/{operation.id}"
    return await operations.started(request, operation, service_of(request), location)


@router.get("", responses={200: {"model": answers.OperationList}, **_FOUND})
async def list_executions(session: SessionHere) -> Response:
    """What is remembered, newest first, without outputs."""
    found = session.executions()
    return json_response({"items": [operations.summary(each) for each in found]})


@router.get(
    "/{execution_id}",
    responses=answers.operation(answers.ExecutionAnswer, 401, 403, 404, 410, 422, 502),
)
async def get_execution(request: Request, session: SessionHere, execution_id: str) -> Response:
    """One execution: its result so far, or its events from the start or from `Last-Event-ID`."""
    return operations.found(request, session.execution(execution_id))


@router.delete("/{execution_id}", status_code=204, responses=_FOUND)
async def stop_execution(session: SessionHere, execution_id: str) -> Response:
    """Stop an execution; nothing if it had ended."""
    await session.execution(execution_id).stop()
    return Response(status_code=204)


@router.post(
    "/{execution_id}/input",
    status_code=204,
    openapi_extra=bodies.documented(InputBody),
    responses={**_FOUND, **answers.problems(409, 413, 415, 422)},
)
async def answer_input(request: Request, session: SessionHere, execution_id: str) -> Response:
    """Answer an `input_request`."""
    operation = session.execution(execution_id)
    await operation.input((await bodies.read(request, InputBody)).text)
    return Response(status_code=204)
