"""Sessions, executions and commands over HTTP."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from executor_service.api.operations import summary
from executor_service.api.status import Status
from executor_service.errors import BackendUnavailable
from executor_service.events import Display, Error, File, Stdout
from executor_service.limits import Limits
from executor_service.sandboxes.pool import Pool, PoolSettings
from executor_service.sessions.operation import Operation
from tests.fakes import FakeBackend


async def test_life(client: httpx2.AsyncClient, running: Any) -> None:
    """A session is made, found, listed, renewed, restarted, interrupted and closed."""
    made = await client.post("/v1/sessions", json={"metadata": {"chat": "1"}, "ttl": 60})
    assert made.status_code == 201
    where = made.headers["location"]
    assert where == f"/v1/sessions/{made.json()['id']}"
    session = running.sessions.open[made.json()["id"]]
    assert (session.request.ttl, session.request.idle_ttl) == (60, None)
    assert (await client.get(where)).json() == made.json()
    assert (await client.post(f"{where}/renew", json={"ttl": 5})).json()["id"] == session.id
    assert (await client.post(f"{where}/restart")).json()["id"] == session.id
    assert (await client.post(f"{where}/interrupt")).status_code == 204
    assert session.calls == [("renew", 5), "restart", "interrupt"]
    assert (await client.delete(where)).status_code == 204
    assert (await client.delete(where)).status_code == 204
    gone = await client.get(where)
    assert (gone.status_code, gone.json()["code"]) == (410, "session_closed")


async def test_listing(client: httpx2.AsyncClient) -> None:
    """Sessions are listed by metadata and in pages."""
    for number in range(3):
        await client.post("/v1/sessions", json={"metadata": {"n": str(number), "all": "x"}})
    found = (await client.get("/v1/sessions", params={"metadata.n": "1"})).json()
    assert [each["metadata"]["n"] for each in found["items"]] == ["1"]
    assert found["next_cursor"] is None
    page = (await client.get("/v1/sessions", params={"limit": 2, "metadata.all": "x"})).json()
    assert len(page["items"]) == 2
    assert page["next_cursor"] == "more"


async def test_executions(client: httpx2.AsyncClient, running: Any, session: Any) -> None:
    """An execution is answered, listed without its output, found, fed and stopped."""
    where = f"/v1/sessions/{session.id}/executions"
    done = await client.post(where, json={"code": "hello", "allow_input": True, "limits": {"wall_time": 1}})
    assert done.json()["stdout"] == "hello\n"
    assert running.stage.requests[-1].limits == {"wall_time": 1}
    going = await client.post(where, json={"code": "hang", "detach": True})
    assert going.status_code == 202
    one = going.headers["location"]
    assert one == f"{where}/{going.json()['id']}"
    items = (await client.get(where)).json()["items"]
    assert [each["state"] for each in items] == ["running", "done"]
    assert "stdout" not in items[1]
    assert items[1]["outcome"] == "ok"
    assert (await client.post(f"{one}/input", json={"text": "yes"})).status_code == 204
    assert running.stage.scripts[going.json()["id"]].inputs == [("yes", False)]
    assert (await client.delete(one)).status_code == 204
    late = await client.post(f"{one}/input", json={"text": "yes"})
    assert (late.status_code, late.json()["code"]) == (409, "not_waiting_for_input")
    missing = await client.get(f"{where}/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "execution_not_found")
    busy = await client.post(where, json={"code": "session_busy"})
    assert (busy.status_code, busy.json()["code"]) == (409, "session_busy")
    sandbox_limit = await client.post(where, json={"code": "", "limits": {"memory_bytes": 1}})
    assert sandbox_limit.status_code == 422


async def test_failed_operations_are_listed(client: httpx2.AsyncClient, session: Any) -> None:
    """An execution that our own fault ended does not break the list."""
    where = f"/v1/sessions/{session.id}/executions"
    assert (await client.post(where, json={"code": "broken"})).status_code == 502
    items = (await client.get(where)).json()["items"]
    assert items[0]["outcome"] is None
    assert items[0]["detail"] == "the guest vanished"


async def test_commands(client: httpx2.AsyncClient, running: Any, session: Any) -> None:
    """A command is answered, fed, signalled, listed and killed."""
    where = f"/v1/sessions/{session.id}/commands"
    assert (await client.post(where, json={"command": "ls"})).json()["stdout"] == "ls\n"
    assert (await client.post(where, json={"argv": ["ls", "-l"], "stdin": "x"})).status_code == 200
    assert running.stage.requests[-1].argv == ("ls", "-l")
    assert running.stage.requests[-1].stdin == b"x"
    going = await client.post(where, json={"command": "hang", "detach": True})
    one = going.headers["location"]
    script = running.stage.scripts[going.json()["id"]]
    for body in ({"text": "a"}, {"base64": "AA=="}, {"close": True}):
        assert (await client.post(f"{one}/input", json=body)).status_code == 204
    assert script.inputs == [(b"a", False), (b"\x00", False), (b"", True)]
    assert (await client.post(f"{one}/signal", json={"signal": "SIGTERM"})).status_code == 204
    assert script.signals == ["SIGTERM"]
    assert len((await client.get(where)).json()["items"]) == 3
    assert (await client.delete(one)).status_code == 204
    assert (await client.get(one)).json()["outcome"] == "interrupted"
    missing = await client.get(f"{where}/none")
    assert missing.json()["code"] == "command_not_found"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("commands", {}),
        ("commands", {"command": "a", "argv": ["a"]}),
        ("commands", {"argv": []}),
        ("commands", {"argv": [""]}),
        ("commands", {"command": "a", "collect": []}),
        ("executions", {}),
        ("renew", {"ttl": -1}),
        ("renew", {"ttl": "1"}),
    ],
)
async def test_bad_requests(
    client: httpx2.AsyncClient, session: Any, path: str, body: dict[str, Any]
) -> None:
    """What makes no sense is 422 with a field."""
    answer = await client.post(f"/v1/sessions/{session.id}/{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"]


async def test_about(client: httpx2.AsyncClient, running: Any) -> None:
    """The service tells what it is and whether it can work."""
    assert (await client.get("/v1/languages")).json()["items"] == [{"name": "python"}]
    assert (await client.get("/v1/images")).json()["items"] == [{"name": "python"}]
    assert (await client.get("/v1/info")).json()["backend"] == "fake"
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ok", "pool": {"ready": 1}}
    running.about.healthy = False
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "backend_unavailable")


async def test_metrics(client: httpx2.AsyncClient) -> None:
    """Requests are counted by route template, operations by outcome."""
    await client.post("/v1/runs", json={"language": "python", "code": "x"})
    await client.get("/v1/runs/secret-id")
    await client.get("/made-up")
    text = (await client.get("/metrics")).text
    assert 'codecell_operations_total{kind="run",outcome="ok"} 1.0' in text
    assert 'codecell_http_requests_total{method="GET",route="/v1/runs/{run_id}",status="404"} 1.0' in text
    assert 'route="none",status="404"' in text
    assert "secret-id" not in text
    assert "made-up" not in text


async def test_document(client: httpx2.AsyncClient) -> None:
    """The OpenAPI document describes every route and refers to nothing that is not there."""
    document = (await client.get("/openapi.json")).json()
    assert "/v1/sessions/{session_id}/files/{path}" in document["paths"]
    body = document["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["examples"]

    def refs(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [ref for each in value.values() for ref in refs(each)]
        return [ref for each in value for ref in refs(each)] if isinstance(value, list) else []

    known = document["components"]["schemas"]
    assert all(ref.removeprefix("#/components/schemas/") in known for ref in refs(document))


def test_a_summary_is_what_the_fold_says_without_output() -> None:
    """While it runs, and when it has ended; text is not looked at."""
    operation = Operation(kind="execution", owner="", detached=True, clock=lambda: 5.0)
    for event in (Stdout(text="x"), Error(name="E", value="v"), File(path="a", size=1), Display(data={})):
        operation.journal.append(event)
    bulky = {"stdout", "stderr", "displays", "result"}
    for _ in range(2):
        assert summary(operation) == {k: v for k, v in operation.fold().items() if k not in bulky}
        operation.abandon("closed")
    assert (summary(operation)["state"], summary(operation)["outcome"]) == ("done", "interrupted")


async def test_readiness_while_draining() -> None:
    """Not ready, whatever the backend says."""
    draining = False
    async with FakeBackend() as backend, Pool(backend, PoolSettings(capacity=1, warm=0)) as pool:
        status = Status(
            backend=backend,
            pool=pool,
            default=Limits(),
            ceiling=Limits(),
            language_items=(),
            image_items=(),
            draining=lambda: draining,
        )
        assert (await status.ready())["pool"]["capacity"] == 1
        draining = True
        with pytest.raises(BackendUnavailable, match="shutting down"):
            await status.ready()
