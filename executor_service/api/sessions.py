"""Routes of sessions themselves: make, find, renew, interrupt, restart, close."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from executor_service.api import answers, bodies
from executor_service.api.encode import json_response
from executor_service.api.schemas import RenewBody, SessionBody
from executor_service.api.service import SessionHere, owner_of, service_of

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

_METADATA = "metadata."
_FOUND = answers.problems(401, 403, 404, 410)


@router.post(
    "",
    status_code=201,
    openapi_extra=bodies.documented(SessionBody, required=False),
    responses={
        201: {"model": answers.SessionAnswer},
        **answers.problems(401, 403, 404, 413, 415, 422, 429, 502, 503),
    },
)
async def create_session(request: Request) -> Response:
    """Make a session: a sandbox whose kernel keeps its state between executions."""
    asked = (await bodies.read(request, SessionBody)).to_request()
    session = await service_of(request).sessions.create(asked, owner_of(request))
    return json_response(session.view(), 201, {"Location": f"/v1/sessions/{session.id}"})


@router.get("", responses={200: {"model": answers.SessionList}, **answers.problems(401, 403, 422)})
async def list_sessions(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> Response:
    """The caller's sessions; `metadata.KEY=VALUE` keeps those whose metadata has it."""
    wanted = {k[len(_METADATA) :]: v for k, v in request.query_params.items() if k.startswith(_METADATA)}
    found, following = service_of(request).sessions.list(owner_of(request), wanted, limit, cursor)
    return json_response({"items": [session.view() for session in found], "next_cursor": following})


@router.get("/{session_id}", responses={200: {"model": answers.SessionAnswer}, **_FOUND})
async def get_session(session: SessionHere) -> Response:
    """One session as it is now."""
    return json_response(session.view())


@router.delete("/{session_id}", status_code=204, responses=answers.problems(401, 403, 404))
async def close_session(request: Request, session_id: str) -> Response:
    """Close a session and everything in it; nothing if it was closed before."""
    await service_of(request).sessions.close(session_id, owner_of(request))
    return Response(status_code=204)


@router.post(
    "/{session_id}/renew",
    openapi_extra=bodies.documented(RenewBody, required=False),
    responses={200: {"model": answers.SessionAnswer}, **_FOUND, **answers.problems(415, 422)},
)
async def renew_session(request: Request, session: SessionHere) -> Response:
    """Let a session live `ttl` seconds from now."""
    await session.renew((await bodies.read(request, RenewBody)).ttl)
    return json_response(session.view())


@router.post("/{session_id}/interrupt", status_code=204, responses=_FOUND)
async def interrupt_session(session: SessionHere) -> Response:
    """Interrupt the execution that runs and keep the state; nothing when idle."""
    await session.interrupt()
    return Response(status_code=204)


@router.post(
    "/{session_id}/restart",
    responses={200: {"model": answers.SessionAnswer}, **_FOUND, **answers.problems(502)},
)
async def restart_session(session: SessionHere) -> Response:
    """Start the kernel afresh: its state is lost, files are kept."""
    await session.restart()
    return json_response(session.view())
