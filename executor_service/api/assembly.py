"""Putting the routes, the middleware and the errors together into one application."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from executor_service import __version__
from executor_service.api import (
    about,
    access,
    answers,
    bodies,
    commands,
    executions,
    files,
    middleware,
    problems,
    runs,
    sessions,
    terminal,
)
from executor_service.keys import KeyRing
from executor_service.limits import MiB
from executor_service.metrics import Metrics

DOCS = frozenset({"/docs", "/openapi.json"})
METRICS = frozenset({"/metrics"})

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """What HTTP itself can be told."""

    json_bytes: int = 32 * MiB
    upload_bytes: int = 2048 * MiB
    public_metrics: bool = False
    public_docs: bool = False


def assemble(*, keys: KeyRing, metrics: Metrics, settings: HttpSettings, lifespan: Lifespan) -> FastAPI:
    """The application. `lifespan` sets `app.state.service` before the first request comes."""
    app = FastAPI(
        title="Codecell executor service",
        version=__version__,
        description="Runs code that nobody has reviewed, in sandboxes. See docs/api.md.",
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    for room in (runs, sessions, executions, commands, files, terminal, about):
        app.include_router(room.router)
    problems.install(app)
    open_paths = (METRICS if settings.public_metrics else frozenset[str]()) | (
        DOCS if settings.public_docs else frozenset[str]()
    )
    # The one added last is outermost.
    app.add_middleware(
        middleware.BodyLimit, json_bytes=settings.json_bytes, upload_bytes=settings.upload_bytes
    )
    app.add_middleware(access.Guard, keys=keys, open_paths=open_paths)
    app.add_middleware(middleware.RequestContext, metrics=metrics)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        bodies.hoist(document)
        schemas = document["components"]["schemas"]
        for model in (answers.Problem,):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{}, {"bearer": []}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
