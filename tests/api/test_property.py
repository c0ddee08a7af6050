"""Whatever the OpenAPI document allows, and what it does not, never makes the service fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

EXPECTED = frozenset({501, 502, 503, 507})  # said plainly: not here, or no room now
EXAMPLES = int(os.environ.get("CODECELL_PROPERTY_EXAMPLES", "10"))  # of each operation and mode


schemathesis.serializer.alias("application/x-tar", "application/octet-stream")


@pytest.fixture(scope="module")
def base_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the service is: `CODECELL_TEST_URL`, or one that plays, in a thread of its own."""
    given = os.environ.get("CODECELL_TEST_URL")
    if given:
        yield given
        return
    running_class = request.getfixturevalue("running_class")
    ready, url = threading.Event(), ""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal url
        async with running_class().serving() as running:
            url = running.url
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(60)
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


@pytest.fixture(scope="module")
def document(base_url: str) -> Any:
    """The service's own description of itself."""
    found = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    found.config.base_url = base_url
    return found


@pytest.fixture(scope="module")
def session_id(base_url: str) -> Iterator[str]:
    """A session that is there, so that requests get further than 404."""
    with httpx2.Client(base_url=base_url) as client:
        made = client.post("/v1/sessions", json={"ttl": 3600, "idle_ttl": 3600}).json()["id"]
        yield made
        client.delete(f"/v1/sessions/{made}")


def test_no_request_makes_the_service_fail(document: Any, session_id: str) -> None:
    """No request that can be thought of is answered by a 500, whether the document allows it or not."""
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            check(operation, mode, session_id)
            tried += 1
    assert tried > 40


def check(operation: Any, mode: schemathesis.GenerationMode, session_id: str) -> None:
    """Call one operation many times."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any) -> None:
        parameters = case.path_parameters or {}
        closes = case.method == "DELETE" and case.path.endswith("{session_id}")
        if "session_id" in parameters and not closes:
            parameters["session_id"] = session_id
        answer = case.call(timeout=120)
        if answer.status_code in EXPECTED:
            return
        assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"
        assert answer.headers["x-request-id"]

    with contextlib.suppress(Unsatisfiable):  # an operation without parameters cannot be called wrongly
        call()
