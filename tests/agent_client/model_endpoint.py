"""A scripted endpoint that speaks OpenAI's chat completions, on a real socket, for whatever talks to models.

What it answers next is the first of `replies`: a text, a `Says` (text, tool calls, usage, why it ended), a
`Status` (an error), a `Body` (any bytes), or one of the faults `HANGS`, `CUTS` and `STALLS`; or what
`script` makes of the request's body. Texts and `Says` are streamed where the request asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.agent_client.fake_service import serving

HANGS = "\x00hangs"  # never answers
CUTS = "\x00cuts"  # the connection ends after the first words
STALLS = "\x00stalls"  # nothing comes after the first words
FIRST_WORDS = "First words "
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}


@dataclass(frozen=True, kw_only=True)
class Says:
    """A reply. `calls` are tool calls as (name, arguments as JSON text); `message` goes over what is made of
    these, for messages that no model should send.
    """

    text: str = ""
    calls: Sequence[tuple[str, str]] = ()
    finish: str | None = "stop"
    usage: Any = field(default_factory=lambda: dict(USAGE))
    message: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Status:
    """An error, with headers such as `Retry-After`."""

    status: int
    message: str = "refused"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Body:
    """Any answer."""

    body: str | bytes
    status: int = 200
    content_type: str = "application/json"


Scripted = str | Says | Status | Body


@dataclass
class ModelEndpoint:
    """The endpoint's script, and what it was asked."""

    replies: list[Scripted] = field(default_factory=list)
    script: Callable[[dict[str, Any]], Scripted] = lambda _: "Hello"
    knows_stream_options: bool = True
    model: str = "m-1"
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        """One answer."""
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(request.url.path)
        if "stream_options" in body and not self.knows_stream_options:
            return JSONResponse({"detail": [{"loc": ["body", "stream_options"], "msg": "forbidden"}]}, 422)
        reply = self.replies.pop(0) if self.replies else self.script(body)
        if isinstance(reply, Body):
            return Response(reply.body, reply.status, media_type=reply.content_type)
        if isinstance(reply, Status):
            return JSONResponse({"error": {"message": reply.message}}, reply.status, dict(reply.headers))
        if reply == HANGS:
            await asyncio.sleep(60)
        if reply in (CUTS, STALLS) and not body.get("stream"):
            return StreamingResponse(self._broken(str(reply), b'{"choices": '), media_type="application/json")
        if body.get("stream"):
            return StreamingResponse(self._stream(reply, body), media_type="text/event-stream")
        says = Says(text=reply) if isinstance(reply, str) else reply
        message = {"role": "assistant", "content": says.text, **says.message}
        if says.calls:
            message["tool_calls"] = _calls(says)
        choice = {"index": 0, "message": message, "finish_reason": says.finish}
        made = {"id": "c", "created": 1, "model": self.model, "object": "chat.completion"}
        text = json.dumps(made | {"choices": [choice], "usage": says.usage})  # NaN too
        return Response(text, media_type="application/json")

    async def _stream(self, reply: Scripted, body: Mapping[str, Any]) -> AsyncIterator[bytes]:
        def event(choices: list[Any], **more: Any) -> bytes:
            made = {"id": "c", "created": 1, "model": self.model, "object": "chat.completion.chunk"}
            return f"data: {json.dumps(made | {'choices': choices} | more)}\n\n".encode()

        def delta(finish: str | None = None, **more: Any) -> bytes:
            return event([{"index": 0, "delta": more, "finish_reason": finish}])

        if reply in (CUTS, STALLS):
            async for piece in self._broken(str(reply), delta(content=FIRST_WORDS)):
                yield piece
        says = Says(text=reply) if isinstance(reply, str) else reply
        assert isinstance(says, Says)
        half = len(says.text) // 2
        for text in (says.text[:half], says.text[half:]):
            if text:
                yield delta(content=text)
        for number, call in enumerate(_calls(says)):
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = arguments[:3]
            yield delta(tool_calls=[{"index": number, **call}])
            yield delta(tool_calls=[{"index": number, "function": {"arguments": arguments[3:]}}])
        yield delta(says.finish, **says.message)
        if "stream_options" in body:
            yield event([], usage=says.usage)
        yield b"data: [DONE]\n\n"

    @staticmethod
    async def _broken(how: str, first: bytes) -> AsyncIterator[bytes]:
        yield first
        if how == STALLS:
            await asyncio.sleep(60)
        raise RuntimeError("the endpoint cuts the connection")


def _calls(says: Says) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(says.calls)
    ]


@contextlib.contextmanager
def model_endpoint(*replies: Scripted) -> Iterator[ModelEndpoint]:
    """A running endpoint, at its `url` (a base URL, ending in /v1)."""
    scripted = ModelEndpoint(list(replies))
    routes = [Route("/{path:path}", scripted.answer, methods=["POST"])]
    with serving(Starlette(routes=routes)) as url:
        scripted.url = f"{url}/v1"
        yield scripted
