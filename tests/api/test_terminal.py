"""The terminal over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import websockets


def url_of(running: Any, session_id: str, query: str = "") -> str:
    """Where a session's terminal is."""
    return f"{running.url.replace('http', 'ws')}/v1/sessions/{session_id}/terminal{query}"


async def test_conversation(running: Any, session: Any) -> None:
    """Bytes go both ways, the window changes, and the exit is told."""
    async with websockets.connect(url_of(running, session.id, "?rows=10&cols=20")) as socket:
        await socket.send(b"ls\n")
        assert await socket.recv() == b"LS\n"
        await socket.send(json.dumps({"type": "resize", "rows": 5, "cols": 6}))
        assert await socket.recv() == b"5x6"
        await socket.send(b"exit")
        assert json.loads(await socket.recv()) == {"type": "exit", "exit_code": 3, "signal": None}
        await socket.wait_closed()
        assert socket.close_code == 1000
    assert session.terminals[0].sizes == [(10, 20), (5, 6)]
    await asyncio.wait_for(session.terminals[0].closed.wait(), 20)


async def test_leaving_ends_the_shell(running: Any, session: Any) -> None:
    """A caller that goes away leaves no shell behind."""
    socket = await websockets.connect(url_of(running, session.id))
    await socket.send(b"x")
    await socket.recv()
    socket.transport.abort()
    await asyncio.wait_for(session.terminals[0].closed.wait(), 20)


@pytest.mark.parametrize(
    "frame", ["nope", "{}", '{"type": "resize"}', '{"type": "resize", "rows": 0, "cols": 1}']
)
async def test_bad_control_frames(running: Any, session: Any, frame: str) -> None:
    """A text frame that is no control frame closes the connection."""
    async with websockets.connect(url_of(running, session.id)) as socket:
        await socket.send(frame)
        await socket.wait_closed()
        assert socket.close_code == 1003


@pytest.mark.parametrize(
    ("session_id", "query", "status", "code"),
    [
        ("none", "", 404, "session_not_found"),
        (None, "?rows=x", 422, "invalid_request"),
        (None, "?rows=0", 422, "invalid_request"),
        (None, "?rows=13", 429, "quota_exceeded"),
    ],
)
async def test_refused_handshakes(
    running: Any, session: Any, session_id: str | None, query: str, status: int, code: str
) -> None:
    """A handshake that cannot succeed is answered with problem+json."""
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        await websockets.connect(url_of(running, session_id or session.id, query))
    response = caught.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body)["code"] == code
    assert response.headers["x-request-id"]
