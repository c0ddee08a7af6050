"""Model clients: the real `openai` package against a scripted endpoint, and AutoGen's llm_config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent_client.errors import ModelAuthenticationFailed, ModelError, ModelUnreachable
from agent_client.messages import Message
from agent_client.models import OpenAIChatCompletionClient, model_client_from
from tests.agent_client.fake_service import serving

HI = [Message(role="system", content="be brief"), Message(content="hi", name="Zoë B")]


class Endpoint:
    """An OpenAI-compatible endpoint that answers from a script."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.words = ["Hel", "lo"]
        self.refuse: list[tuple[int, str]] = []
        self.knows_stream_options = True
        self.url = ""

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers["authorization"])
        if self.refuse:
            status, message = self.refuse.pop(0)
            return JSONResponse({"error": {"message": message}}, status)
        if "stream_options" in body and not self.knows_stream_options:
            return JSONResponse({"error": {"message": "unknown field stream_options"}}, 400)
        usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
        common = {"id": "c", "created": 1, "model": "m-1"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(self.words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
        common["object"] = "chat.completion.chunk"

        async def chunks() -> Any:
            for word in self.words:
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                yield f"data: {json.dumps({**common, 'choices': [choice]})}\n\n"
            if self.words:
                end = {"index": 0, "delta": {}, "finish_reason": "stop"}
                yield f"data: {json.dumps({**common, 'choices': [end]})}\n\n"
            if "stream_options" in body:
                yield f"data: {json.dumps({**common, 'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A running scripted endpoint."""
    scripted = Endpoint()
    with serving(Starlette(routes=[Route("/v1/chat/completions", scripted.answer, methods=["POST"])])) as url:
        scripted.url = f"{url}/v1"
        yield scripted


async def test_a_reply(endpoint: Endpoint) -> None:
    """A reply comes with its usage and cost; options and key reach the endpoint."""
    client = OpenAIChatCompletionClient(
        "m", api_key="k", base_url=endpoint.url, price=(1.0, 2.0), temperature=0
    )
    response = await client.create(HI)
    await client.close()
    assert (response.content, response.model) == ("Hello", "m-1")
    assert (response.usage.total_tokens, response.usage.cost, response.usage.requests) == (1500, 2.0, 1)
    (asked,) = endpoint.asked
    assert asked["temperature"] == 0
    assert asked["messages"][1] == {"content": "hi", "role": "user", "name": "Zo__B"}
    assert endpoint.keys == ["Bearer k"]


@pytest.mark.parametrize("knows", [True, False])
async def test_streaming(endpoint: Endpoint, knows: bool) -> None:
    """Text comes piece by piece, also from an endpoint that cannot tell usage in a stream."""
    endpoint.knows_stream_options = knows
    client = OpenAIChatCompletionClient("m", api_key="k", base_url=endpoint.url)
    pieces: list[str] = []
    response = await client.create(HI, stream=pieces.append)
    assert pieces == ["Hel", "lo"]
    assert response.content == "Hello"
    assert response.usage.total_tokens == (1500 if knows else 0)
    await client.create(HI, stream=pieces.append)
    assert len(endpoint.asked) == (2 if knows else 3)
    await client.close()


async def test_failures_say_what_to_do(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key, model or address is one typed error that names the setting."""
    client = OpenAIChatCompletionClient("m", api_key="k", base_url=endpoint.url, max_retries=0)
    endpoint.refuse = [(401, "bad key"), (404, "no such model"), (500, "oops")]
    with pytest.raises(ModelAuthenticationFailed, match="OPENAI_API_KEY"):
        await client.create(HI)
    with pytest.raises(ModelError, match="knows no model 'm'"):
        await client.create(HI)
    with pytest.raises(ModelError, match="oops"):
        await client.create(HI, stream=lambda _: None)
    endpoint.words = []
    with pytest.raises(ModelError, match="without a word"):
        await client.create(HI, stream=lambda _: None)
    await client.close()
    dead = OpenAIChatCompletionClient("m", api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(ModelUnreachable, match="OPENAI_BASE_URL"):
        await dead.create(HI)
    await dead.close()
    with pytest.raises(ModelAuthenticationFailed, match="OPENAI_API_KEY"):
        await OpenAIChatCompletionClient("m").create(HI)


async def test_llm_config(endpoint: Endpoint) -> None:
    """AutoGen's llm_config makes a client, and fails over along its list."""
    dead = {"model": "x", "api_key": "k", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0}
    live = {"model": "m", "api_key": "k2", "base_url": endpoint.url, "price": [0, 2]}
    client = model_client_from(
        {"config_list": [dead, live], "temperature": 0, "cache_seed": 41, "timeout": 30}
    )
    pieces: list[str] = []
    response = await client.create(HI, stream=pieces.append)
    assert (response.content, response.usage.cost) == ("Hello", 1.0)
    assert endpoint.asked[0]["temperature"] == 0
    assert "cache_seed" not in endpoint.asked[0]
    await client.close()  # type: ignore[attr-defined]
