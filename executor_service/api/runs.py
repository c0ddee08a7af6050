"""Routes of runs: one program, a fresh sandbox, then gone."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from executor_service.api import answers, bodies, operations
from executor_service.api.schemas import RunBody
from executor_service.api.service import owner_of, service_of

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.post(
    "",
    openapi_extra=bodies.documented(RunBody),
    responses=answers.operation(answers.RunAnswer, 401, 403, 404, 413, 415, 422, 429, 502, 503, 507),
)
async def run(request: Request) -> Response:
    """Run one program in a fresh sandbox and give back everything that happened."""
    service = service_of(request)
    asked = (await bodies.read(request, RunBody)).to_request()
    operation = await service.runs.start(asked, owner_of(request))
    return await operations.started(request, operation, service, f"/v1/runs/{operation.id}")


@router.get("/{run_id}", responses=answers.operation(answers.RunAnswer, 401, 403, 404, 422, 502))
async def get_run(request: Request, run_id: str) -> Response:
    """A detached run: its result so far, or its events from the start or from `Last-Event-ID`."""
    return operations.found(request, service_of(request).runs.get(run_id, owner_of(request)))


@router.delete("/{run_id}", status_code=204, responses=answers.problems(401, 403, 404))
async def stop_run(request: Request, run_id: str) -> Response:
    """Stop a detached run; nothing if it had ended."""
    await service_of(request).runs.stop(run_id, owner_of(request))
    return Response(status_code=204)
