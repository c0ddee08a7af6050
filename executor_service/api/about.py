"""Routes about the service: languages, images, info, health, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from executor_service.api import answers
from executor_service.api.encode import json_response
from executor_service.api.service import service_of
from executor_service.metrics import CONTENT_TYPE

router = APIRouter(tags=["about"])


@router.get("/v1/languages", responses={200: {"model": answers.LanguageList}, **answers.problems(401, 403)})
async def languages(request: Request) -> Response:
    """The languages that run here, each tried when the service started."""
    return json_response({"items": service_of(request).about.languages()})


@router.get("/v1/images", responses={200: {"model": answers.ImageList}, **answers.problems(401, 403)})
async def images(request: Request) -> Response:
    """The images that are here."""
    return json_response({"items": service_of(request).about.images()})


@router.get("/v1/info", responses={200: {"model": answers.Info}, **answers.problems(401, 403)})
async def info(request: Request) -> Response:
    """Version, backend, limits, and what is enforced by what."""
    return json_response(service_of(request).about.info())


@router.get("/healthz", responses={200: {"model": answers.Health}})
async def alive() -> Response:
    """Whether the service is alive."""
    return json_response({"status": "ok"})


@router.get("/readyz", responses={200: {"model": answers.Health}, **answers.problems(503)})
async def ready(request: Request) -> Response:
    """Whether the service can take work: the backend answers; with the pool's state."""
    return json_response({"status": "ok", **await service_of(request).about.ready()})


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **answers.problems(401, 403)})
async def metrics(request: Request) -> Response:
    """Counters and gauges in Prometheus' text format."""
    return Response(service_of(request).metrics.render(), headers={"Content-Type": CONTENT_TYPE})
