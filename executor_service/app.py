"""The application: settings become rooms, rooms become a service, the service becomes HTTP."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from executor_service.api.assembly import HttpSettings, assemble
from executor_service.api.service import Service
from executor_service.api.status import Status, pool_numbers
from executor_service.egress.keeper import Egress
from executor_service.egress.proxy import Proxy
from executor_service.images import Image
from executor_service.keys import KeyRing
from executor_service.metrics import Metrics
from executor_service.probing import find_languages
from executor_service.sandboxes.base import Backend, Sandbox, SandboxSpec
from executor_service.sandboxes.pool import Pool, PoolSettings
from executor_service.sessions.catalog import Catalog
from executor_service.sessions.manager import Sessions
from executor_service.sessions.policy import Policy
from executor_service.sessions.runs import Runs
from executor_service.sessions.store import Store, Stored
from executor_service.settings import Settings

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    backend: Backend,
    images: Sequence[Image],
    *,
    keys: KeyRing | None = None,
    catalog: Catalog | None = None,
    backend_reason: str = "",
) -> FastAPI:
    """The service as an ASGI application; everything starts and ends with its lifespan.

    `images` are those that `backend` can use, the default one first. `keys` are by default those of the
    settings. With a `catalog` languages are not tried at start. `backend_reason` is told to callers.

    Raises:
        KeyFileError: a key file cannot be understood.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _service(settings, backend, images, metrics, catalog, backend_reason) as service:
            app.state.service = service
            yield

    http = HttpSettings(
        json_bytes=settings.json_bytes,
        upload_bytes=settings.upload_bytes,
        public_metrics=settings.public_metrics,
        public_docs=settings.public_docs,
    )
    ring = keys or KeyRing(settings.keys, settings.key_files)
    return assemble(keys=ring, metrics=metrics, settings=http, lifespan=lifespan)


@contextlib.asynccontextmanager
async def _service(
    settings: Settings,
    backend: Backend,
    images: Sequence[Image],
    metrics: Metrics,
    catalog: Catalog | None,
    backend_reason: str,
) -> AsyncIterator[Service]:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(backend)
        store, stored = await _stored(settings, backend, stack)
        now = time.time()
        adopted = await backend.adopt([row.sandbox for row in stored.sessions if row.expires_at > now])
        removed = await backend.sweep()
        if removed:
            log.info("swept what a predecessor left", extra={"removed": removed})
        pool = Pool(backend, pool_settings(settings, images))
        pool.adopt(adopted)
        await stack.enter_async_context(pool)
        stack.callback(_leave, pool, adopted)  # should we fail before the sessions have them
        limits = policy(settings)
        if catalog is None:
            memory = settings.state_dir / "languages.json"
            catalog = await find_languages(
                images, pool=pool, policy=limits, memory=memory, on_host=backend.name == "local"
            )
        egress = await stack.enter_async_context(Egress(Proxy(closed_port=settings.port)))
        metrics.watch("codecell_egress", "Streams of the egress proxy", "state", egress.numbers)
        runs = await stack.enter_async_context(Runs(pool=pool, catalog=catalog, policy=limits, egress=egress))
        sessions = await stack.enter_async_context(
            Sessions(
                pool=pool,
                catalog=catalog,
                policy=limits,
                backend_name=backend.name,
                egress=egress,
                store=store,
            )
        )
        await sessions.adopt(stored, adopted)
        status = Status(
            backend=backend,
            backend_reason=backend_reason,
            pool=pool,
            default=settings.limits,
            ceiling=settings.ceiling,
            network=settings.egress.view(),
            language_items=[language_item(catalog, n) for n in range(len(catalog.offers))],
            image_items=[image_item(image, catalog) for image in images],
            draining=lambda: sessions.draining,
        )
        metrics.watch("codecell_pool", "Sandboxes by state", "state", lambda: pool_numbers(pool))
        metrics.watch("codecell_sessions", "Sessions by state", "state", lambda: {"open": len(sessions)})
        service = Service(runs=runs, sessions=sessions, about=status, metrics=metrics)
        stack.push_async_callback(service.close)
        for operation in sessions.operations:  # that began under a predecessor
            service.follow(operation)
        yield service


async def _stored(
    settings: Settings, backend: Backend, stack: contextlib.AsyncExitStack
) -> tuple[Store | None, Stored]:
    """Where sessions are written down, if they are to outlive us, and what a predecessor wrote."""
    if not (settings.durable and backend.durable):
        return None, Stored()
    store = await stack.enter_async_context(Store(settings.state_dir / "sessions.db"))
    return store, await store.read()


def _leave(pool: Pool, sandboxes: Sequence[Sandbox]) -> None:
    for sandbox in sandboxes:
        pool.leave(sandbox)


def pool_settings(settings: Settings, images: Sequence[Image]) -> PoolSettings:
    """How many sandboxes, and which stand ready: two programs and a kernel of the default image."""
    disk = settings.limits.disk_bytes
    keep = [
        SandboxSpec(image=image.name, warm=warm, disk_bytes=disk)
        for image in images[:1]
        for warm in ("program", "light", "kernel")
    ]
    return PoolSettings(
        capacity=settings.capacity,
        warm=settings.warm,
        queue=settings.queue,
        acquire_timeout=settings.acquire_timeout,
        keep=tuple(keep) if settings.warm else (),
    )


def policy(settings: Settings) -> Policy:
    """What callers may ask for."""
    return Policy(
        limits=settings.limits,
        ceiling=settings.ceiling,
        ttl=settings.ttl,
        max_ttl=settings.max_ttl,
        idle_ttl=settings.idle_ttl,
        egress=settings.egress,
        ca_bundle=settings.ca_bundle is not None,
    )


def language_item(catalog: Catalog, number: int) -> Mapping[str, Any]:
    """An item of `GET /v1/languages`."""
    offer = catalog.offers[number]
    language = offer.language
    return {
        "name": language.name,
        "aliases": list(language.aliases),
        "version": offer.version,
        "stateful": offer.stateful,
        "image": offer.image,
    }


def image_item(image: Image, catalog: Catalog) -> Mapping[str, Any]:
    """An item of `GET /v1/images`."""
    return {
        "name": image.name,
        "description": image.description,
        "languages": [offer.language.name for offer in catalog.offers if offer.image == image.name],
        "python_version": image.python_version,
    }
