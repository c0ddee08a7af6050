"""The terminal: a shell on a pseudo-terminal over a WebSocket.

Binary frames are bytes. Text frames are JSON control: `resize` from the caller, `exit` from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, WebSocket
from pydantic import Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from executor_service.api import problems
from executor_service.api.fields import Body
from executor_service.api.ports import Program
from executor_service.api.service import SessionHere
from executor_service.errors import CodecellError

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["terminal"])

Lines = Annotated[int, Query(ge=1, le=1000)]


class Resize(Body):
    """A control frame: the caller's window has changed."""

    type: str = Field(pattern="^resize$")
    rows: int = Field(ge=1, le=1000)
    cols: int = Field(ge=1, le=1000)


@router.websocket("/terminal")
async def terminal(socket: WebSocket, session: SessionHere, rows: Lines = 24, cols: Lines = 80) -> None:
    """A shell in the session's sandbox; it ends with the connection."""
    try:
        opened = session.terminal(rows, cols)
        program = await opened.__aenter__()
    except CodecellError as error:
        await problems.refuse_websocket(socket, error)
        return
    try:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await _converse(socket, program)
    finally:
        await opened.__aexit__(None, None, None)


async def _converse(socket: WebSocket, program: Program) -> None:
    speaking = asyncio.create_task(_show(socket, program))
    listening = asyncio.create_task(_listen(socket, program))
    try:
        await asyncio.wait({speaking, listening}, return_when=asyncio.FIRST_COMPLETED)
        if speaking.done():
            await _say_goodbye(socket, program, speaking.exception())
        else:
            await listening  # raises WebSocketDisconnect, or ends after a frame that is none
            await socket.close(code=1003, reason="control frames are resize")
    finally:
        for task in (speaking, listening):
            task.cancel()
        await asyncio.gather(speaking, listening, return_exceptions=True)


async def _show(socket: WebSocket, program: Program) -> None:
    async for _, chunk in program:
        await socket.send_bytes(chunk)


async def _listen(socket: WebSocket, program: Program) -> None:
    """Hand on what the caller types; ends at the first text frame that is no control frame."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if message.get("bytes") is not None:
            await program.write_stdin(message["bytes"])
            continue
        try:
            size = Resize.model_validate_json(message.get("text") or "")
        except ValidationError:
            return
        await program.resize(size.rows, size.cols)


async def _say_goodbye(socket: WebSocket, program: Program, failure: BaseException | None) -> None:
    ended = program.ended
    if failure is not None or ended is None:
        code = failure.code if isinstance(failure, CodecellError) else "sandbox_failed"
        await socket.close(code=1011, reason=code)
        return
    farewell: dict[str, Any] = {"type": "exit", "exit_code": ended.exit_code, "signal": ended.signal}
    await socket.send_text(json.dumps(farewell))
    await socket.close(code=1000)
