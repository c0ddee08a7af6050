"""Who may call: keys where they are set; else this machine only, and no web page."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets

from executor_service.api.access import host_of, is_loopback
from executor_service.api.assembly import HttpSettings
from executor_service.keys import Key, KeyFileError, KeyRing, digest_of, parse, read, write


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8700", "127.9.9.9", "[::1]:80", "a.localhost"]
)
async def test_loopback_hosts(client: httpx2.AsyncClient, host: str) -> None:
    """Without keys every name of this machine is answered."""
    assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "[::2]", "127.1", "x[::1]"]
)
async def test_foreign_hosts(client: httpx2.AsyncClient, host: str) -> None:
    """Without keys a foreign Host is refused (DNS rebinding)."""
    answer = await client.get("/v1/info", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://"])
async def test_foreign_origins(client: httpx2.AsyncClient, origin: str) -> None:
    """Without keys a web page cannot drive the service."""
    answer = await client.post("/v1/runs", json={}, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_own_origin(client: httpx2.AsyncClient, running: Any) -> None:
    """The service's own pages may."""
    assert (await client.get("/v1/info", headers={"Origin": running.url})).status_code == 200


async def test_websocket_from_a_page(running: Any, session: Any) -> None:
    """A web page cannot open a terminal."""
    where = f"{running.url.replace('http', 'ws')}/v1/sessions/{session.id}/terminal"
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        await websockets.connect(where, additional_headers={"Origin": "https://evil.example"})
    assert caught.value.response.status_code == 403


@contextlib.asynccontextmanager
async def keyed(running_with: Any, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A caller of a service with two keys."""
    async with (
        running_with(keys=["good-key", "other-key"], settings=HttpSettings(**settings)).serving() as found,
        httpx2.AsyncClient(base_url=found.url) as client,
    ):
        yield client


async def test_keys(running_with: Any) -> None:
    """With keys, a known one opens, in either header, whatever Host and Origin say."""
    async with keyed(running_with) as client:
        for headers in (
            {"Authorization": "Bearer good-key"},
            {"authorization": "bearer  good-key"},
            {"X-API-Key": "good-key", "Host": "codecell.example", "Origin": "https://a.example"},
        ):
            assert (await client.get("/v1/info", headers=headers)).status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer bad"},
            {"Authorization": "Bearer"},
            {"Authorization": "Basic good-key"},
            {"X-API-Key": b"\xff\xfe"},  # type: ignore[dict-item]
        ):
            answer = await client.get("/v1/info", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_open_paths(running_with: Any) -> None:
    """With keys only health is open; metrics and the document by setting."""
    async with keyed(running_with) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        for path in ("/metrics", "/docs", "/openapi.json", "/nothing"):
            assert (await client.get(path)).status_code == 401
    async with keyed(running_with, public_metrics=True, public_docs=True) as client:
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


async def test_what_belongs_to_another_key(running_with: Any) -> None:
    """Another key's session answers as if it were not there, on every verb."""
    async with keyed(running_with) as client:
        mine, other = {"X-API-Key": "good-key"}, {"X-API-Key": "other-key"}
        where = (await client.post("/v1/sessions", json={}, headers=mine)).headers["location"]
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/renew"), ("POST", "/interrupt"), ("POST", "/restart"),
            ("POST", "/executions"), ("GET", "/executions"), ("POST", "/commands"), ("GET", "/commands"),
            ("GET", "/files"), ("GET", "/files/a.txt"), ("PUT", "/files/a.txt"), ("DELETE", "/files/a.txt"),
            ("GET", "/archive"), ("PUT", "/archive"),
        ):  # fmt: skip
            theirs = await client.request(method, where + path, headers=other)
            nobodys = await client.request(method, f"/v1/sessions/none{path}", headers=other)
            assert (theirs.status_code, theirs.json()["code"]) == (404, "session_not_found")
            assert (nobodys.status_code, nobodys.json()["code"]) == (404, "session_not_found")
        assert (await client.get("/v1/sessions", headers=other)).json()["items"] == []
        assert (await client.get(where, headers=mine)).status_code == 200


def test_key_files(tmp_path: Path) -> None:
    """A file names keys plainly or by their digest, and is written with digests only."""
    digest = digest_of("two").hex()
    keys = parse(f"# ours\n\none\nalice sha256:{digest}\n", source="f")
    assert [key.name for key in keys] == ["", "alice"]
    write(tmp_path / "keys", keys)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    assert "one" not in (tmp_path / "keys").read_text().replace("alice", "")
    assert read(tmp_path / "keys") == keys


@pytest.mark.parametrize("line", ["a b c", "na/me key", "sha256:12", "x sha256:" + "g" * 64])
def test_bad_key_files(line: str) -> None:
    """A line that makes no sense is named by number and does not show the key."""
    with pytest.raises(KeyFileError, match="line 2") as caught:
        parse(f"fine\n{line}\n", source="f")
    assert "key" not in str(caught.value).replace("KEY", "")


def test_ring_follows_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are added or removed count soon; without any left the ring stays closed."""
    monkeypatch.setattr("executor_service.keys.RELOAD_EVERY", 0.0)
    file = tmp_path / "keys"
    ring = KeyRing(files=[file])
    assert not ring.required
    write(file, [Key(digest=digest_of("k"), name="a")])
    assert ring.required
    assert ring.find(b"k") == Key(digest=digest_of("k"), name="a")
    file.unlink()
    assert ring.find(b"k") is None
    assert ring.required


def test_ids_tell_nothing() -> None:
    """A key's id is neither the key nor its digest."""
    key = Key(digest=digest_of("secret"))
    assert "secret" not in repr(KeyRing([key]))
    assert key.id.removeprefix("key_") not in key.digest.hex()


@pytest.mark.parametrize(("text", "host"), [("[::1]:80", "::1"), ("a:1", "a"), ("A", "a"), ("", "")])
def test_host_of(text: str, host: str) -> None:
    """The host without its port."""
    assert host_of(text) == host
    assert not is_loopback("")
