"""What an endpoint may do wrong: each is a typed error or an ordinary reply, none a hang.

Over a real socket and through the real `openai` package. What is asserted of each fault is its type, its
message, and that the client works on afterwards.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent_client import errors
from agent_client.messages import Message
from agent_client.models import ModelResponse, OpenAIChatCompletionClient
from agent_client.models.chat_reply import MAX_CHARACTERS
from agent_client.usage import Usage
from tests.agent_client.model_endpoint import (
    CUTS,
    FIRST_WORDS,
    HANGS,
    STALLS,
    Body,
    ModelEndpoint,
    Says,
    Scripted,
    Status,
    model_endpoint,
)

HI = [Message(content="hi")]
DEADLINE = 30.0  # for what must not hang; the client's own timeouts are far shorter
PAGE = (
    "<!doctype html><html><style>p {}</style><body><h1>It works!</h1>"
    + "<p>filler</p>" * 999
    + "</body></html>"
)
SSE = "text/event-stream"
BOTH = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ModelEndpoint]:
    """A running scripted endpoint."""
    with model_endpoint() as running:
        yield running


async def ask(
    endpoint: ModelEndpoint, *replies: Scripted, streamed: bool, retries: int = 0, patience: float = 20
) -> tuple[ModelResponse | errors.ModelError, str]:
    """What came of a call, and what was streamed of it; the client must work on afterwards."""
    endpoint.replies, endpoint.asked = list(replies), []
    client = OpenAIChatCompletionClient(
        "m", api_key="k", base_url=endpoint.url, max_retries=retries, timeout=patience
    )
    pieces: list[str] = []
    outcome: ModelResponse | errors.ModelError
    async with asyncio.timeout(DEADLINE):
        try:
            outcome = await client.create(HI, stream=pieces.append if streamed else None)
        except errors.ModelError as error:
            outcome = error
        assert endpoint.replies == []
        asked = len(endpoint.asked)
        assert (await client.create(HI)).content == "Hello"
        await client.close()
    del endpoint.asked[asked:]
    return outcome, "".join(pieces)


def chunk(**delta: Any) -> str:
    """A chunk of a stream."""
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n"


def sse(*chunks: str) -> Body:
    """A stream of these chunks, which ends in order."""
    return Body(body="".join(chunks) + "data: [DONE]\n\n", content_type=SSE)


def whole(**message: Any) -> Body:
    """A completion with this message."""
    return Body(body=json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))


FAILS: dict[str, tuple[Scripted, type[errors.ModelError], str]] = {
    "429": (Status(status=429), errors.ModelRateLimited, "less often"),
    "500": (Status(status=500, message="boom"), errors.ModelError, "status 500.*boom"),
    "502 HTML": (Body(body=PAGE, status=502, content_type="text/html"), errors.ModelError, "502.*It works!"),
    "200 HTML": (Body(body=PAGE, content_type="text/html"), errors.ModelError, "without a (message|word)"),
    "HTML as JSON": (Body(body=PAGE), errors.ModelError, "not understood|without a word"),
    "422": (Body(body='{"detail": "bad loc"}', status=422), errors.ModelRequestRefused, "bad loc"),
    "413": (Status(status=413), errors.ModelRequestRefused, "refused the request"),
    "nothing": (Body(body=b""), errors.ModelError, "not understood|without a"),
    "204": (Body(body=b"", status=204), errors.ModelError, "not understood|without a"),
    "a list": (Body(body="[]"), errors.ModelError, "without a"),
    "a redirect": (Body(body="", status=308), errors.ModelError, "status 308"),
    "bytes": (Body(body=b"\xff\xfe\x00" * 99), errors.ModelError, "not understood|without a word"),
}


@BOTH
@pytest.mark.parametrize("fault", FAILS)
async def test_a_failure(endpoint: ModelEndpoint, fault: str, streamed: bool) -> None:
    """An endpoint that fails or is something else gives a typed error, on one short line."""
    reply, kind, match = FAILS[fault]
    outcome, _ = await ask(endpoint, reply, streamed=streamed)
    assert type(outcome) is kind, outcome
    with pytest.raises(kind, match=match):
        raise outcome
    assert "'m' at http://127.0.0.1" in str(outcome)
    assert "<p>" not in str(outcome)
    assert len(str(outcome)) < 500


WRONG: dict[str, Body] = {
    "no choices": Body(body='{"choices": []}'),
    "null choices": Body(body='{"choices": null}'),
    "choices are a text": Body(body='{"choices": "none"}'),
    "choices are an object": Body(body='{"choices": {"a": 1}}'),
    "a null choice": Body(body='{"choices": [null]}'),
    "a null message": Body(body='{"choices": [{"message": null}]}'),
    "an error with status 200": Body(body='{"error": {"message": "overloaded"}}'),
    "no chunks": sse(),
    "chunks without choices": sse('data: {"choices": []}\n\n', 'data: {"choices": null}\n\n'),
    "malformed JSON": sse(chunk(content="a"), "data: {oops\n\n"),
    "a chunk that is a list": sse("data: [1]\n\n"),
    "an error in the stream": sse(chunk(content="a"), 'data: {"error": {"message": "overloaded"}}\n\n'),
    "an end without an end": Body(body=chunk(content="a"), content_type=SSE),
    "bytes that are no text": Body(body=b"data: \xff\xff\n\n", content_type=SSE),
}


@pytest.mark.parametrize("fault", WRONG)
async def test_a_wrong_answer(endpoint: ModelEndpoint, fault: str) -> None:
    """An answer that holds no reply, or half of one, is an error."""
    reply = WRONG[fault]
    outcome, _ = await ask(endpoint, reply, streamed=reply.content_type == SSE)
    assert isinstance(outcome, errors.ModelError), outcome
    assert "'m' at http://127.0.0.1" in str(outcome)


CALL = {"index": 0, "function": {"name": "f", "arguments": '{"a"'}}
ODD: dict[str, tuple[Scripted, str, str, list[tuple[str, str]]]] = {
    "null content": (whole(content=None), "", "stop", []),
    "an empty message": (whole(), "", "stop", []),
    "content parts": (whole(content=[{"type": "text", "text": "a"}, {"x": 1}, "b"]), "a", "stop", []),
    "a number as content": (whole(content=5), "", "stop", []),
    "half a surrogate pair": (whole(content="a\ud83d"), "a?", "stop", []),
    "a refusal": (whole(content=None, refusal="no"), "no", "stop", []),
    "a bare call": (whole(tool_calls=[{}, None, {"function": {"name": None}}]), "", "stop", [("", "{}")] * 3),
    "arguments as an object": (
        whole(tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]),
        "",
        "stop",
        [("f", '{"a": 1}')],
    ),
    "the same id twice": (
        whole(tool_calls=[{"id": "1", "function": {"name": n, "arguments": "{}"}} for n in "ab"]),
        "",
        "stop",
        [("a", "{}"), ("b", "{}")],
    ),
    "filtered": (Says(text="", finish="content_filter"), "", "content_filter", []),
    "a streamed call without id": (
        sse(chunk(tool_calls=[CALL]), chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}])),
        "",
        "stop",
        [("f", '{"a": 1}')],
    ),
    "streamed calls without indices": (
        sse(chunk(tool_calls=[{"id": "1", "function": {"name": "f"}}]), chunk(tool_calls=[{"id": "2"}])),
        "",
        "stop",
        [("f", "{}"), ("", "{}")],
    ),
    "null deltas": (sse('data: {"choices": [{"delta": null}]}\n\n', chunk(content="a")), "a", "stop", []),
}
END = 'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'


@pytest.mark.parametrize("oddity", ODD)
async def test_an_odd_answer(endpoint: ModelEndpoint, oddity: str) -> None:
    """What can be understood is an ordinary reply; every call has an id of its own."""
    reply, content, finish, calls = ODD[oddity]
    streamed = isinstance(reply, Says) or reply.content_type == SSE  # type: ignore[union-attr]
    if streamed and isinstance(reply, Body):
        reply = Body(body=str(reply.body).replace("data: [DONE]", END + "data: [DONE]"), content_type=SSE)
    outcome, _ = await ask(endpoint, reply, streamed=streamed)
    assert isinstance(outcome, ModelResponse), outcome
    assert (outcome.content, outcome.finish_reason) == (content, finish)
    assert [(call.name, call.arguments) for call in outcome.tool_calls] == calls
    assert len({call.id for call in outcome.tool_calls} - {""}) == len(calls)


@BOTH
@pytest.mark.parametrize(
    ("usage", "prompt"),
    [
        (None, 0),
        ({}, 0),
        ("many", 0),
        ([1], 0),
        ({"prompt_tokens": -5, "completion_tokens": "7", "cost": "free"}, 0),
        ({"prompt_tokens": 3.5, "completion_tokens": None, "cost": float("nan")}, 3),
        ({"prompt_tokens": 10**40, "completion_tokens": float("inf")}, 0),
    ],
)
async def test_wrong_usage(endpoint: ModelEndpoint, usage: Any, prompt: int, streamed: bool) -> None:
    """Usage that is missing or no sensible number counts as 0, and the reply as a reply."""
    outcome, _ = await ask(endpoint, Says(text="x", usage=usage), streamed=streamed)
    assert isinstance(outcome, ModelResponse), outcome
    assert (outcome.content, outcome.usage) == ("x", Usage(requests=1, prompt_tokens=prompt))


@BOTH
async def test_no_answer(endpoint: ModelEndpoint, streamed: bool) -> None:
    """An endpoint that accepts a request and never answers it times out."""
    outcome, _ = await ask(endpoint, HANGS, streamed=streamed, patience=0.5)
    assert isinstance(outcome, errors.ModelTimeout)
    assert "did not answer for 0.5 s" in str(outcome)


@BOTH
async def test_a_stall(endpoint: ModelEndpoint, streamed: bool) -> None:
    """An answer that stops coming times out; what came was heard."""
    outcome, heard = await ask(endpoint, STALLS, streamed=streamed, patience=0.5)
    assert isinstance(outcome, errors.ModelTimeout)
    assert heard == (FIRST_WORDS if streamed else "")


@BOTH
async def test_a_cut(endpoint: ModelEndpoint, streamed: bool) -> None:
    """A connection that ends in the middle of an answer is an error; what came was heard."""
    outcome, heard = await ask(endpoint, CUTS, streamed=streamed)
    assert isinstance(outcome, errors.ModelUnreachable)
    assert heard == (FIRST_WORDS if streamed else "")


@BOTH
async def test_a_short_rate_limit(endpoint: ModelEndpoint, streamed: bool) -> None:
    """A short wait that the endpoint asks for is kept, and the call made again."""
    limit = Status(status=429, headers={"Retry-After": "0.5"})
    start = time.monotonic()
    outcome, _ = await ask(endpoint, limit, "then", streamed=streamed, retries=2)
    assert isinstance(outcome, ModelResponse), outcome
    assert outcome.content == "then"
    assert time.monotonic() - start >= 0.5


@BOTH
@pytest.mark.parametrize("wait", ["3600", "1e300", "inf"])
async def test_a_long_rate_limit(endpoint: ModelEndpoint, wait: str, streamed: bool) -> None:
    """A wait that is too long is told at once, not kept."""
    limit = Status(status=429, headers={"Retry-After": wait})
    outcome, _ = await ask(endpoint, limit, streamed=streamed, retries=2 if wait != "inf" else 0)
    assert isinstance(outcome, errors.ModelRateLimited)
    assert outcome.retry_after == float(wait)
    assert len(endpoint.asked) == 1


@BOTH
async def test_a_server_error_passes(endpoint: ModelEndpoint, streamed: bool) -> None:
    """A server error is tried again."""
    outcome, _ = await ask(endpoint, Status(status=503), "then", streamed=streamed, retries=1)
    assert isinstance(outcome, ModelResponse), outcome
    assert outcome.content == "then"


@BOTH
async def test_an_enormous_reply(endpoint: ModelEndpoint, streamed: bool) -> None:
    """A reply without measure is cut off, and says so."""
    outcome, heard = await ask(endpoint, Says(text="x" * (3 * MAX_CHARACTERS)), streamed=streamed)
    assert isinstance(outcome, ModelResponse), outcome
    assert (len(outcome.content), outcome.finish_reason) == (MAX_CHARACTERS, "length")
    assert len(heard) == (MAX_CHARACTERS if streamed else 0)


async def test_calls_without_end(endpoint: ModelEndpoint) -> None:
    """A model that does not stop calling tools is cut off."""
    piece = chunk(tool_calls=[{"index": n, "id": f"{n}", "function": {"name": "f"}} for n in range(500)])
    outcome, _ = await ask(
        endpoint, sse(*[piece.replace('"id": "', f'"id": "{n}-') for n in range(60)]), streamed=True
    )
    assert isinstance(outcome, ModelResponse), outcome
    assert outcome.finish_reason == "length"
    assert len(outcome.tool_calls) < 20_000


async def test_cancelled(endpoint: ModelEndpoint) -> None:
    """A call that is cancelled ends at once, in the middle of a stream too."""
    endpoint.replies = [STALLS]
    client = OpenAIChatCompletionClient("m", api_key="k", base_url=endpoint.url)
    heard = asyncio.Event()
    task = asyncio.create_task(client.create(HI, stream=lambda _: heard.set()))
    async with asyncio.timeout(DEADLINE):
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.create(HI)).content == "Hello"
        await client.close()
