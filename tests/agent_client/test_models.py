"""Model clients: the real `openai` package against a scripted endpoint, llm_config, prices, replays."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_client import errors
from agent_client.blocking import run_sync
from agent_client.messages import Artifact, Message, ToolCall, ToolResponse, data_url
from agent_client.models import (
    ModelResponse,
    OpenAIChatCompletionClient,
    ReplayChatCompletionClient,
    model_client_from,
)
from agent_client.models.chat_messages import MAX_IMAGE_BYTES, MAX_IMAGES, chat_messages
from agent_client.models.prices import price_of, sees_images
from agent_client.usage import Usage
from tests.agent_client.model_endpoint import CUTS, ModelEndpoint, Says, Status, model_endpoint

HI = [Message(role="system", content="be brief"), Message(content="hi", name="Zoë B")]
DEAD = {"model": "x", "api_key": "dead-secret-key", "base_url": "http://127.0.0.1:9/v1"}
PNG = b"\x89PNG\r\n\x1a\n"
WEBP = b"RIFF1234WEBP"


@pytest.fixture
def endpoint() -> Iterator[ModelEndpoint]:
    """A running scripted endpoint."""
    with model_endpoint() as running:
        yield running


def client_of(endpoint: ModelEndpoint, **options: Any) -> OpenAIChatCompletionClient:
    """A client of it."""
    options = {"model": "m", "api_key": "k", "base_url": endpoint.url} | options
    return OpenAIChatCompletionClient(**options)


async def test_a_reply(endpoint: ModelEndpoint) -> None:
    """A reply comes with its usage and cost; options, organization and key reach the endpoint."""
    client = client_of(endpoint, price=[1.0, 2.0], temperature=0, organization="o", stop=None)
    response = await client.create(HI)
    await client.close()
    assert (response.content, response.model, response.finish_reason) == ("Hello", "m-1", "stop")
    assert (response.usage.total_tokens, response.usage.cost, response.usage.requests) == (1500, 2.0, 1)
    (asked,) = endpoint.asked
    assert set(asked) == {"model", "messages", "temperature"}
    assert asked["messages"][1] == {"content": "hi", "role": "user", "name": "Zo__B"}
    assert endpoint.headers[0]["authorization"] == "Bearer k"
    assert endpoint.headers[0]["openai-organization"] == "o"


@pytest.mark.parametrize("knows", [True, False])
async def test_streaming(endpoint: ModelEndpoint, knows: bool) -> None:
    """Text comes piece by piece, also from an endpoint that cannot tell usage in a stream."""
    endpoint.knows_stream_options = knows
    client = client_of(endpoint)
    pieces: list[str] = []
    response = await client.create(HI, stream=pieces.append)
    assert pieces == ["He", "llo"]
    assert response.content == "Hello"
    assert response.usage.total_tokens == (1500 if knows else 0)
    await client.create(HI, stream=pieces.append)
    assert len(endpoint.asked) == (2 if knows else 3)
    await client.close()


@pytest.mark.parametrize("streamed", [True, False])
async def test_tool_calls(endpoint: ModelEndpoint, streamed: bool) -> None:
    """Tools reach the endpoint, and calls come back with their arguments exactly as the model wrote them."""
    endpoint.replies = [
        Says(calls=[("add", '{"a": 1,\n "b": 2}'), ("add", '{"a": oops')], finish="tool_calls")
    ]
    client = client_of(endpoint, parallel_tool_calls=False)
    schema = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    response = await client.create(HI, tools=[schema], stream=(lambda _: None) if streamed else None)
    assert response.tool_calls == (
        ToolCall(id="call_0", name="add", arguments='{"a": 1,\n "b": 2}'),
        ToolCall(id="call_1", name="add", arguments='{"a": oops'),
    )
    assert (response.content, response.finish_reason) == ("", "tool_calls")
    assert endpoint.asked[0]["tools"] == [schema]
    assert endpoint.asked[0]["parallel_tool_calls"] is False
    await client.create(HI)
    assert "parallel_tool_calls" not in endpoint.asked[1]
    await client.close()


async def test_the_sink_s_own_error_is_not_the_model_s(endpoint: ModelEndpoint) -> None:
    """What the receiver of the stream raises comes out as it is, and the connection is given back."""

    def sink(_: str) -> None:
        raise KeyError("mine")

    client = client_of(endpoint)
    with pytest.raises(KeyError, match="mine"):
        await client.create(HI, stream=sink)
    assert (await client.create(HI)).content == "Hello"
    await client.close()


def test_tool_messages() -> None:
    """Calls and their answers become the messages of chat completions; other keys of a dict are not sent."""
    call = ToolCall(id="c1", name="add", arguments="{bad")
    said = [
        Message.of({"content": "hi", "context": {"secret": 1}, "cost": 3}),
        Message(content="", role="assistant", name="bot", tool_calls=[call, ToolCall(id="c2", name="f")]),
        Message(
            content="3\n\nx",
            role="tool",
            tool_responses=[
                ToolResponse(call_id="c1", name="add", content="3"),
                ToolResponse(call_id="c2", name="f", content="x"),
            ],
        ),
        Message.of({"role": "tool", "tool_call_id": "c9", "content": "own"}),
    ]
    user, asks, *answers = chat_messages(said, vision=False)
    assert user == {"role": "user", "content": "hi"}
    assert (asks["content"], asks["name"]) == (None, "bot")
    assert [c["function"] for c in asks["tool_calls"]] == [
        {"name": "add", "arguments": "{bad"},
        {"name": "f", "arguments": "{}"},
    ]
    assert answers == [
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c2", "content": "x"},
        {"role": "tool", "tool_call_id": "c9", "content": "own"},
    ]


def test_images(tmp_path: Path) -> None:
    """Images of users and tools go to models that see: a tool's after all answers, from memory or a file."""
    (tmp_path / "plot.png").write_bytes(PNG)
    plot = Artifact(name="plot.png", mime="image/png", path=tmp_path / "plot.png")
    photo = Artifact(name="photo", mime="image/webp", data=WEBP)
    part = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    answer = ToolResponse(call_id="c1", name="f", content="made", artifacts=[plot])
    said = [
        Message(content="look", parts=[part], artifacts=[photo, Artifact(name="t.csv", data=b"1")]),
        Message(content="", role="assistant", tool_calls=[ToolCall(id="c1", name="f")], artifacts=[photo]),
        Message(content="made", role="tool", tool_responses=[answer]),
        Message(
            content="two", role="tool", tool_responses=[ToolResponse(call_id="c2", name="f", content="")]
        ),
        Message(content="and?"),
    ]

    def image(mime: str, data: bytes) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": data_url(mime, data)}}

    sent = chat_messages(said, vision=True)
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert sent[0]["content"] == [{"type": "text", "text": "look"}, part, image("image/webp", WEBP)]
    assert sent[4]["content"][1:] == [image("image/png", PNG)]
    assert chat_messages(said[:3], vision=True)[-1] == sent[4]
    blind = chat_messages(said, vision=False)
    assert blind[0]["content"] == [{"type": "text", "text": "look"}, part]  # what the user wrote
    assert "image" not in json.dumps(blind[1:])


def test_images_are_bounded(tmp_path: Path) -> None:
    """The newest images are sent, none that is too large, gone, of another type, or no image at all."""
    large = Artifact(name="l", mime="image/png", data=PNG + b"x" * MAX_IMAGE_BYTES)
    gone = Artifact(name="g", mime="image/png", path=tmp_path / "gone.png")
    drawing = Artifact(name="s", mime="image/svg+xml", data=b"<svg/>")
    images = [Artifact(name="i", mime="image/png", data=PNG + bytes([n])) for n in range(MAX_IMAGES + 4)]
    other = Artifact(name="o", mime="image/png", data=b"root:x:0:0")  # which an endpoint would refuse
    bad = [large, gone, drawing, other]
    said = [Message(content="a", artifacts=images), Message(content="b", artifacts=bad)]
    first, second = chat_messages(said, vision=True)
    urls = [part["image_url"]["url"] for part in first["content"][1:]]
    assert urls == [data_url("image/png", PNG + bytes([n])) for n in range(4, MAX_IMAGES + 4)]
    assert second["content"] == "b"


def test_vision_is_declared_or_known() -> None:
    """Vision is on for models known to see, else where it is declared."""
    assert OpenAIChatCompletionClient("gpt-4o").vision
    assert not OpenAIChatCompletionClient("llama3").vision
    assert OpenAIChatCompletionClient("llama3", vision=True).vision
    assert OpenAIChatCompletionClient("llama3", model_info={"vision": True, "family": "x"}).vision
    assert not OpenAIChatCompletionClient("gpt-4o", model_info={"vision": False}).vision
    assert [sees_images(m) for m in ("openai/gpt-4.1-mini", "gpt-5", "o3", "o4-mini")] == [True] * 4
    assert [sees_images(m) for m in ("gpt-4", "gpt-3.5-turbo", "o3-mini", "o1-mini", "m")] == [False] * 5


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gpt-4o", (2.5, 10)),
        ("openai/gpt-4o-mini", (0.15, 0.6)),
        ("gpt-4o-2024-05-13", (5, 15)),
        ("gpt-4o-2024-08-06", (2.5, 10)),
        ("gpt-4-0613", (30, 60)),
        ("gpt-4-1106-preview", (10, 30)),
        ("claude-sonnet-4-20250514", (3, 15)),
        ("gpt-4o-of-my-own", None),
        ("gpt-5.9", None),
        ("llama3", None),
    ],
)
def test_prices(model: str, price: tuple[float, float] | None) -> None:
    """Snapshots cost what their model costs; of a model that is not known no price is guessed."""
    found = price_of(model)
    assert (found and tuple(1000 * each for each in found)) == (price and pytest.approx(price))


@pytest.mark.parametrize(
    ("model", "price", "told", "cost"),
    [("gpt-4o", None, None, 0.0075), ("gpt-4o", (0, 0), 9, 0), ("gpt-4o", None, 9, 9), ("m", None, -1, 0)],
)
async def test_cost(
    endpoint: ModelEndpoint, model: str, price: tuple[float, float] | None, told: float | None, cost: float
) -> None:
    """A given price goes before the cost that an endpoint tells, and that before the table's price."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "cost": told}
    endpoint.replies = [Says(text="x", usage=usage)]
    client = client_of(endpoint, model=model, price=price)
    assert (await client.create(HI)).usage.cost == pytest.approx(cost)
    await client.close()


async def test_failures_say_what_to_do(endpoint: ModelEndpoint) -> None:
    """A wrong key, model, request or address is one typed error that names the model, the place and the
    setting, never a key.
    """
    url = endpoint.url.replace("//", "//user:password@")
    client = client_of(endpoint, api_key="sk-very-secret", base_url=url, max_retries=0)
    endpoint.replies = [Status(status=401, message="bad key sk-very-secret"), Status(status=404)]
    with pytest.raises(errors.ModelAuthenticationFailed, match="OPENAI_API_KEY") as failed:
        await client.create(HI)
    assert "'m' at http://127.0.0.1" in str(failed.value)
    assert not any(secret in str(failed.value) for secret in ("secret", "password"))
    assert (failed.value.__cause__, failed.value.__suppress_context__) == (None, True)
    with pytest.raises(errors.ModelError, match=r"'m' at .* is not known"):
        await client.create(HI)
    endpoint.replies = [Status(status=400, message="too long"), Status(status=500, message="oops")]
    with pytest.raises(errors.ModelRequestRefused, match="too long"):
        await client.create(HI)
    with pytest.raises(errors.ModelError, match="oops"):
        await client.create(HI, stream=lambda _: None)
    await client.close()
    dead = OpenAIChatCompletionClient(**DEAD, max_retries=0)
    with pytest.raises(errors.ModelUnreachable, match="OPENAI_BASE_URL"):
        await dead.create(HI)
    await dead.close()
    with pytest.raises(errors.ModelAuthenticationFailed, match="OPENAI_API_KEY"):
        await OpenAIChatCompletionClient("m").create(HI)
    with pytest.raises(errors.ModelError, match="unexpected keyword argument 'tempreature'"):
        await OpenAIChatCompletionClient("m", api_key="k", tempreature=1).create(HI)


async def test_llm_config(endpoint: ModelEndpoint) -> None:
    """AutoGen's llm_config makes a client; what is AutoGen's own is not sent."""
    own = {"cache_seed": 41, "tags": ["a"], "price": [0, 2], "timeout": 30, "filter_func": None}
    entry = {"model": "m", "api_key": "k2", "base_url": endpoint.url, "api_type": "openai"}
    forms: list[Any] = [
        {"config_list": [entry], "temperature": 0, **own},
        {**entry, "temperature": 0, **own},
        [{**entry, "temperature": 0, **own}],
    ]
    for form in forms:
        client = model_client_from(form)
        assert (await client.create(HI)).usage.cost == 1.0
        await client.close()  # type: ignore[attr-defined]
    assert [set(asked) for asked in endpoint.asked] == [{"model", "messages", "temperature"}] * 3


async def test_azure(endpoint: ModelEndpoint) -> None:
    """An entry of Azure's is asked at its deployment, with its version and key."""
    entry = {"model": "dep", "api_key": "k3", "api_type": "azure", "api_version": "2024-10-21"}
    client = model_client_from({"config_list": [entry | {"base_url": endpoint.url.removesuffix("/v1")}]})
    assert (await client.create(HI)).content == "Hello"
    await client.close()  # type: ignore[attr-defined]
    assert endpoint.paths == ["/openai/deployments/dep/chat/completions"]
    assert endpoint.headers[0]["api-key"] == "k3"


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"temperature": 0}, "names no model"),
        ({"config_list": []}, "names no model"),
        ([{"api_key": "k"}], "names no model"),
        ({"model": "m", "api_type": "anthropic"}, "base_url"),
    ],
)
def test_a_wrong_llm_config(config: Any, match: str) -> None:
    """A configuration that cannot be used says what is missing."""
    with pytest.raises(ValueError, match=match):
        model_client_from(config)


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503])
async def test_fail_over(endpoint: ModelEndpoint, status: int) -> None:
    """The next entry is asked at once where one is limited, fails, or refuses its key or model."""
    endpoint.replies = [Status(status=status)]
    live = {"model": "m", "api_key": "k2", "base_url": endpoint.url}
    client = model_client_from({"config_list": [DEAD, live | {"model": "first"}, live]})
    pieces: list[str] = []
    response = await client.create(HI, stream=pieces.append)
    assert (response.content, "".join(pieces)) == ("Hello", "Hello")
    assert [asked["model"] for asked in endpoint.asked] == ["first", "m"]
    await client.close()  # type: ignore[attr-defined]


async def test_fail_over_ends(endpoint: ModelEndpoint) -> None:
    """When all fail the error tells each one's reason and no key; a wrong request is not tried elsewhere, nor
    one of which something was already said.
    """
    live = {"model": "m", "api_key": "live-secret-key", "base_url": endpoint.url, "max_retries": 0}
    client = model_client_from({"config_list": [DEAD, live, live | {"model": "n"}]})
    endpoint.replies = [Status(status=429, message="slow down live-secret-key"), Status(status=500)]
    with pytest.raises(errors.ModelError) as failed:
        await client.create(HI)
    text = str(failed.value)
    told = ("None of 3 models", "'x' at http://127.0.0.1:9/v1 does not answer", "'m'", "slow down", "'n'")
    assert [part for part in told if part not in text] == []
    assert "secret" not in text
    endpoint.replies = [Status(status=400, message="too long")]
    with pytest.raises(errors.ModelRequestRefused, match="too long"):
        await client.create(HI)
    assert len(endpoint.asked) == 3
    endpoint.replies = [CUTS]
    with pytest.raises(errors.ModelUnreachable, match="broke off"):
        await client.create(HI, stream=lambda _: None)
    assert len(endpoint.asked) == 4
    await client.close()  # type: ignore[attr-defined]
    limited = model_client_from([live, live])
    endpoint.replies = [
        Status(status=429, headers={"Retry-After": "900"}),
        Status(status=429, headers={"Retry-After": "600"}),
    ]
    with pytest.raises(errors.ModelRateLimited) as both:
        await limited.create(HI)
    assert both.value.retry_after == 600
    await limited.close()  # type: ignore[attr-defined]


async def test_a_resting_entry_is_asked_last(endpoint: ModelEndpoint) -> None:
    """An entry that asked to be left alone is passed over until then, unless there is no other."""
    live = {"api_key": "k", "base_url": endpoint.url, "max_retries": 0}
    client = model_client_from([live | {"model": "a"}, live | {"model": "b"}])
    endpoint.replies = [Status(status=429, headers={"Retry-After": "3600"})]
    for _ in range(3):
        await client.create(HI)
    endpoint.replies = [Status(status=500)]
    await client.create(HI)
    assert [asked["model"] for asked in endpoint.asked] == ["a", "b", "b", "b", "b", "a"]
    await client.close()  # type: ignore[attr-defined]


async def test_a_short_rest_ends(endpoint: ModelEndpoint) -> None:
    """After its time an entry is asked first again."""
    live = {"api_key": "k", "base_url": endpoint.url, "max_retries": 0}
    client = model_client_from([live | {"model": "a"}, live | {"model": "b"}])
    endpoint.replies = [Status(status=429, headers={"Retry-After": "0.2"})]
    await client.create(HI)
    end = time.monotonic() + 30
    while endpoint.asked[-1]["model"] != "a" and time.monotonic() < end:
        await client.create(HI)
    assert endpoint.asked[-1]["model"] == "a"
    await client.close()  # type: ignore[attr-defined]


async def test_many_at_once_share_their_connections(endpoint: ModelEndpoint) -> None:
    """Conversations at the same time share one pool of connections."""
    client = client_of(endpoint)
    made = []
    new_client = client._new_client

    def counted() -> Any:
        made.append(1)
        return new_client()

    client._client._make = counted
    replies = await asyncio.gather(*(client.create(HI, stream=lambda _: None) for _ in range(200)))
    assert {reply.content for reply in replies} == {"Hello"}
    assert len(made) == 1
    await client.close()


def test_one_client_in_several_loops_one_after_another(endpoint: ModelEndpoint) -> None:
    """A client works in the background loop of the blocking calls and in a loop of one's own."""
    client = client_of(endpoint)

    async def ask() -> str:
        try:
            return (await client.create(HI)).content
        finally:
            await client.close()

    assert [run_sync(ask), asyncio.run(ask()), run_sync(ask)] == ["Hello"] * 3


async def test_replay() -> None:
    """The replay gives texts, whole replies and errors in order, and estimates the tokens of texts."""
    whole = ModelResponse(content="", tool_calls=[ToolCall(id="1", name="f")])
    client = ReplayChatCompletionClient(["eight ch", whole, errors.ModelTimeout("late")])
    pieces: list[str] = []
    first = await client.create([Message(content="x" * 40)], stream=pieces.append)
    assert (first.content, pieces) == ("eight ch", ["eight ", "ch"])
    assert first.usage == Usage(requests=1, prompt_tokens=11, completion_tokens=3)
    assert await client.create(HI) is whole
    with pytest.raises(errors.ModelTimeout, match="late"):
        await client.create(HI)
    with pytest.raises(errors.ModelError, match="has only 3 replies"):
        await client.create(HI)
    assert len(client.calls) == 3


def test_replay_from_many_threads() -> None:
    """Each reply is given once, whoever asks."""
    client = ReplayChatCompletionClient(map(str, range(400)))
    got: list[str] = []

    def ask() -> None:
        got.extend(asyncio.run(client.create(HI)).content for _ in range(100))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(int, got)) == list(range(400))
