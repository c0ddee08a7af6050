"""Runs over HTTP: folded, streamed, detached, refused, abandoned."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest


async def events(answer: httpx2.Response) -> list[tuple[int, str, Any]]:
    """All events of a stream: number, type, data."""
    found, block = [], {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        elif block:
            found.append((int(block["id"]), block["event"], json.loads(block["data"])))
            block = {}
    return found


STREAM = {"Accept": "text/event-stream"}


async def test_folded(client: httpx2.AsyncClient, running: Any) -> None:
    """A run is answered as one JSON object."""
    answer = await client.post("/v1/runs", json={"language": "python", "code": "print"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["outcome"] == "ok"
    assert answer.json()["stdout"] == "print\n"
    assert running.stage.owners == [""]


async def test_streamed(client: httpx2.AsyncClient) -> None:
    """The same run as a stream has numbered events from started to completed."""
    async with client.stream(
        "POST", "/v1/runs", json={"language": "python", "code": "print"}, headers=STREAM
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = await events(answer)
    assert [(n, kind) for n, kind, _ in found] == [(1, "started"), (2, "stdout"), (3, "completed")]
    assert found[2][2]["outcome"] == "ok"
    assert "stdout" not in found[2][2]
    assert found[1][2] == {"text": "print\n"}


async def test_events_come_as_they_happen(client: httpx2.AsyncClient, running: Any) -> None:
    """What was printed arrives while the program still runs."""
    async with client.stream(
        "POST", "/v1/runs", json={"language": "python", "code": "gate"}, headers=STREAM
    ) as answer:
        lines = answer.aiter_lines()
        async for line in lines:
            if "first" in line:
                break
        assert json.loads(line.removeprefix("data: "))["text"] == "first é\u2028\n"
        running.stage.gate.set()
        rest = [line async for line in lines]
    assert any(line == "event: completed" for line in rest)


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_hanging_up_stops_the_work(
    client: httpx2.AsyncClient, running: Any, headers: dict[str, str]
) -> None:
    """Closing the connection of an attached run stops it, streamed or folded."""
    body = {"language": "python", "code": "hang"}
    asking = asyncio.create_task(client.post("/v1/runs", json=body, headers=headers))
    await asyncio.wait_for(running.stage.started.wait(), 20)
    operation = next(iter(running.stage.scripts.values())).operation
    asking.cancel()
    await asyncio.wait_for(operation.wait(), 20)
    assert operation.fold()["outcome"] == "interrupted"


async def test_detached(client: httpx2.AsyncClient, running: Any) -> None:
    """A detached run is answered at once, asked for by id, and replayed from where the caller was."""
    answer = await client.post("/v1/runs", json={"language": "python", "code": "gate", "detach": True})
    assert answer.status_code == 202
    assert set(answer.json()) == {"id", "state"}
    where = answer.headers["location"]
    assert where == f"/v1/runs/{answer.json()['id']}"
    so_far = (await client.get(where)).json()
    assert (so_far["state"], so_far["outcome"], so_far["stdout"]) == ("running", None, "first é\u2028\n")
    running.stage.gate.set()
    async with client.stream("GET", where, headers={**STREAM, "Last-Event-ID": "2"}) as stream:
        followed = await events(stream)
    assert followed[0][0] == 3
    assert followed[-1][1] == "completed"
    async with client.stream("GET", where, headers=STREAM) as stream:
        replayed = await events(stream)
    assert [n for n, _, _ in replayed] == list(range(1, len(replayed) + 1))
    assert (
        "".join(data["text"] for _, kind, data in replayed if kind == "stdout") == "first é\u2028\nsecond\n"
    )
    done = (await client.get(where)).json()
    assert (done["state"], done["outcome"]) == ("done", "ok")


async def test_closing_a_detached_stream_stops_nothing(client: httpx2.AsyncClient, running: Any) -> None:
    """Whoever watches a detached run may leave."""
    body = {"language": "python", "code": "gate", "detach": True}
    async with client.stream("POST", "/v1/runs", json=body, headers=STREAM) as answer:
        async for line in answer.aiter_lines():
            if "first" in line:
                break
    operation = next(iter(running.stage.scripts.values())).operation
    running.stage.gate.set()
    await asyncio.wait_for(operation.wait(), 20)
    assert operation.fold()["outcome"] == "ok"


async def test_deleting_a_detached_run_stops_it(client: httpx2.AsyncClient) -> None:
    """DELETE stops a detached run, twice without harm."""
    body = {"language": "python", "code": "hang", "detach": True}
    where = (await client.post("/v1/runs", json=body)).headers["location"]
    assert (await client.delete(where)).status_code == 204
    assert (await client.delete(where)).status_code == 204
    assert (await client.get(where)).json()["outcome"] == "interrupted"


@pytest.mark.parametrize(
    ("code", "status"),
    [("capacity", 503), ("sandbox_failed", 502), ("language_not_found", 404), ("disk_full", 507)],
)
@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_refused_before_the_first_byte(
    client: httpx2.AsyncClient, code: str, status: int, headers: dict[str, str]
) -> None:
    """What cannot start is a plain error, also where a stream was asked for."""
    answer = await client.post("/v1/runs", json={"language": "python", "code": code}, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_failure_in_the_middle(client: httpx2.AsyncClient) -> None:
    """A fault of the service is a 502 when folded, and a stream without completed that breaks off."""
    body = {"language": "python", "code": "broken"}
    assert (await client.post("/v1/runs", json=body)).status_code == 502
    async with client.stream("POST", "/v1/runs", json=body, headers=STREAM) as answer:
        seen = []
        with pytest.raises(httpx2.RemoteProtocolError):  # noqa: PT012  # it breaks off while it is read
            async for line in answer.aiter_lines():
                seen.append(line)  # noqa: PERF401  # what came before the break is wanted
    assert "event: stdout" in seen
    assert "event: completed" not in seen


async def test_what_code_displays_never_breaks_json(client: httpx2.AsyncClient) -> None:
    """Lone surrogates and NaN in display data come out as valid JSON."""
    async with client.stream(
        "POST", "/v1/runs", json={"language": "python", "code": "surrogate"}, headers=STREAM
    ) as answer:
        found = await events(answer)
    assert found[1][2]["data"] == {"text/plain": "\ud800", "x": None}


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 30])
async def test_bad_last_event_id(client: httpx2.AsyncClient, number: str) -> None:
    """A Last-Event-ID that is no number is named."""
    body = {"language": "python", "code": "print", "detach": True}
    where = (await client.post("/v1/runs", json=body)).headers["location"]
    answer = await client.get(where, headers={**STREAM, "Last-Event-ID": number})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == "Last-Event-ID"


async def test_request_becomes_a_value(client: httpx2.AsyncClient, running: Any) -> None:
    """Every field of the body reaches the sessions room, decoded."""
    body = {
        "language": "python",
        "code": "x",
        "stdin": "aGk=",
        "stdin_encoding": "base64",
        "args": ["-v"],
        "env": {"A": "1"},
        "files": [{"path": "d.bin", "content": "AAE=", "encoding": "base64"}],
        "collect": ["*.png"],
        "limits": {"wall_time": 2, "memory_bytes": 10**30, "cpu_time": None},
        "network": {"allow": ["pypi.org"]},
    }
    assert (await client.post("/v1/runs", json=body)).status_code == 200
    asked = running.stage.requests[0]
    assert (asked.stdin, asked.args, asked.env, asked.collect) == (b"hi", ("-v",), {"A": "1"}, ("*.png",))
    assert [(f.path, f.content) for f in asked.files] == [("d.bin", b"\x00\x01")]
    assert asked.limits == {"wall_time": 2, "memory_bytes": 1 << 62}
    assert asked.network == {"allow": ("pypi.org",)}
