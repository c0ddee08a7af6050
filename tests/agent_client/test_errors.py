"""What a caller sees when the service is wrong, dead, or dies: one typed error that says what to do."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Route

from agent_client.client import ExecutorClient
from agent_client.errors import (
    ApiError,
    AuthenticationFailed,
    Capacity,
    CodecellError,
    InvalidRequest,
    LimitTooHigh,
    MissingDependency,
    ServiceFault,
    ServiceUnreachable,
    SessionClosed,
    SessionNotFound,
    StreamBroken,
    UnexpectedAnswer,
    api_error,
)
from tests.agent_client.fake_service import BREAK, KEY, FakeService, serving


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound but not listening: refuses
        yield holder.getsockname()[1]


def run_at(url: str, key: str | None = None) -> None:
    """Try a run at an address."""
    with ExecutorClient(url, key) as client:
        client.run("x")


def test_nothing_answers(free_port: int) -> None:
    """A dead service is `ServiceUnreachable`, after few tries, and says how to start one."""
    begun = time.monotonic()
    with pytest.raises(ServiceUnreachable, match=r"codecell-executor serve.*CODECELL_URL"):
        run_at(f"http://127.0.0.1:{free_port}")
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "ftp://h", "http://", "no such url", "http://h:port"])
def test_a_url_that_is_none(url: str) -> None:
    """Something that is no URL is `ServiceUnreachable` and says how one looks."""
    with pytest.raises(ServiceUnreachable, match="http://"):
        run_at(url)


@pytest.mark.parametrize(
    "answer",
    [
        HTMLResponse("<h1>It works</h1>"),
        HTMLResponse("no", 404),
        HTMLResponse("a proxy's page", 401),
        RedirectResponse("/x"),
    ],
)
def test_another_server_answers(answer: Any) -> None:
    """A server that is not ours is `UnexpectedAnswer` and says to check the URL."""

    async def endpoint(_: Any) -> Any:
        return answer

    server = Starlette(routes=[Route("/{p:path}", endpoint, methods=["GET", "POST"])])
    with serving(server) as url, pytest.raises(UnexpectedAnswer, match="CODECELL_URL"):
        run_at(url)


def test_a_wrong_key(fake: FakeService) -> None:
    """A wrong key is `AuthenticationFailed`, names the variable, and does not repeat the key."""
    with pytest.raises(AuthenticationFailed, match="CODECELL_API_KEY") as caught:
        run_at(fake.url, "wrong-secret")
    assert "wrong-secret" not in str(caught.value)
    assert caught.value.status == 401
    with pytest.raises(ServiceUnreachable, match="header"):
        run_at(fake.url, "clé")


def test_the_service_dies_mid_stream(client: ExecutorClient, fake: FakeService) -> None:
    """What came before the break is delivered, then `StreamBroken` with the last event's number."""
    fake.script = lambda _: [("stdout", {"text": "a"}), (BREAK, {})]
    seen: list[Any] = []
    with pytest.raises(StreamBroken, match="healthz") as caught:
        seen.extend(client.stream_run("x"))
    assert caught.value.last_event_id == 2


def test_a_stream_without_an_end(client: ExecutorClient, fake: FakeService) -> None:
    """A stream that ends without `completed` is broken, however politely it was closed."""
    fake.script = lambda _: [("stdout", {"text": "a"})]
    with pytest.raises(StreamBroken):
        list(client.stream_run("x"))


def test_busy_service_is_asked_again(client: ExecutorClient, fake: FakeService) -> None:
    """503 with Retry-After is tried again, since nothing has started; without it, it is not."""
    full = {"code": "capacity", "detail": "all sandboxes are taken"}
    fake.refuse = [(503, {"Retry-After": "0"}, full)] * 2
    assert client.run("x").ok
    fake.refuse = [(503, {"Retry-After": "0"}, full)] * 9
    with pytest.raises(Capacity):
        client.run("x")
    assert len(fake.refuse) == 5
    fake.refuse = [(503, {}, full)] * 2
    with pytest.raises(Capacity):
        client.run("x")
    assert len(fake.refuse) == 1


def test_a_broken_post_is_not_sent_twice(client: ExecutorClient, fake: FakeService) -> None:
    """A POST whose connection broke is never repeated: it may have run."""
    fake.script = lambda _: [(BREAK, {})]
    with pytest.raises(StreamBroken):
        list(client.stream_run("x"))
    assert len(fake.bodies("/runs")) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "session_not_found", SessionNotFound),
        (410, "session_closed", SessionClosed),
        (422, "limit_too_high", LimitTooHigh),
        (422, "invalid_request", InvalidRequest),
        (500, "internal", ServiceFault),
        (599, "of_tomorrow", ServiceFault),
        (499, "of_tomorrow", ApiError),
    ],
)
def test_codes_become_types(status: int, code: str, kind: type[ApiError]) -> None:
    """Each code of the API has its class; an unknown one falls back to its family."""
    error = api_error(status, {"code": code, "detail": "d", "errors": [{"loc": "a"}, 3]}, url="u")
    assert type(error) is kind
    assert isinstance(error, CodecellError)
    assert error.errors == ({"loc": "a"},)


def test_a_gone_session(client: ExecutorClient, fake: FakeService) -> None:
    """A session that was closed answers `SessionClosed`; leaving its context is quiet."""
    with client.create_session() as session:
        client.close_session(session.id)
        with pytest.raises(SessionClosed, match="deleted"):
            session.execute("x")
    with pytest.raises(SessionNotFound):
        client.get_session("nope")


def test_terminal_refusals(
    fake: FakeService, client: ExecutorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that is refused, cut, or lacks its package says so."""
    with client.create_session() as session:
        with session.terminal() as terminal:
            terminal.write("drop\n")
            with pytest.raises(StreamBroken):
                terminal.read()
        session.async_._transport._address = type(session.async_._transport._address)(
            url=fake.url, api_key="bad"
        )
        with pytest.raises(AuthenticationFailed), session.terminal():
            pass
        monkeypatch.setitem(__import__("sys").modules, "websockets.asyncio.client", None)
        with pytest.raises(MissingDependency, match="pip install websockets"), session.terminal():
            pass
        session.async_._transport._address = type(session.async_._transport._address)(
            url=fake.url, api_key=KEY
        )
