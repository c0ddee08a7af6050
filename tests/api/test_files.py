"""Files over HTTP: bytes, ranges, paths, archives, harmless headers."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from executor_service.api.ranges import parse
from executor_service.errors import RangeNotSatisfiable


async def test_bytes(client: httpx2.AsyncClient, session: Any) -> None:
    """A file is read, written, described and removed, and never taken for a page."""
    where = f"/v1/sessions/{session.id}/files"
    got = await client.get(f"{where}/a.txt")
    assert got.content == b"0123456789"
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "sandbox"
    assert got.headers["content-disposition"].startswith("attachment")
    assert got.headers["content-length"] == "10"
    described = await client.head(f"{where}/a.txt")
    assert (described.content, described.headers["content-length"]) == (b"", "10")
    put = await client.put(f"{where}/new/b.bin", content=b"\x00\x01")
    assert (put.status_code, put.json()["size"], put.json()["path"]) == (200, 2, "new/b.bin")
    assert put.json()["modified_at"] == "1970-01-01T00:00:00Z"
    assert (await client.delete(f"{where}/new/b.bin")).status_code == 204
    missing = await client.get(f"{where}/new/b.bin")
    assert (missing.status_code, missing.json()["code"]) == (404, "file_not_found")
    directory = await client.get(f"{where}/dir")
    assert (directory.status_code, directory.json()["code"]) == (422, "is_a_directory")
    assert session.files.calls[-1] == ("closed", "a.txt")


async def test_large_upload_is_streamed(client: httpx2.AsyncClient, session: Any) -> None:
    """A file longer than a JSON body may be goes through."""
    content = bytes(40 * 1024 * 1024)
    answer = await client.put(f"/v1/sessions/{session.id}/files/big", content=content)
    assert answer.json()["size"] == len(content)


@pytest.mark.parametrize(
    ("header", "status", "content", "place"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("items=0-1", 200, b"0123456789", None),
        ("bytes=5-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
    ],
)
async def test_ranges(
    client: httpx2.AsyncClient,
    session: Any,
    header: str,
    status: int,
    content: bytes | None,
    place: str | None,
) -> None:
    """One range is answered as such, nonsense in full, and what lies behind the end is 416."""
    answer = await client.get(f"/v1/sessions/{session.id}/files/a.txt", headers={"Range": header})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == place
    if content is not None:
        assert answer.content == content


def test_range_of_nothing() -> None:
    """An empty file satisfies no range."""
    assert parse(None, 0) is None
    with pytest.raises(RangeNotSatisfiable):
        parse("bytes=0-", 0)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a%2Fb", "a/b"),
        ("%2Fetc/hosts", "/etc/hosts"),
        ("%C3%A9", "é"),
        ("a%0Ab", "a\nb"),
        ("a%0A", "a\n"),
        ("files/x", "files/x"),
        ("a%3Fb%23", "a?b#"),
        ("%2E%2E/x", "../x"),
        ("a%252F", "a%2F"),
    ],
)
async def test_paths_arrive_as_written(
    client: httpx2.AsyncClient, running: Any, session: Any, written: str, path: str
) -> None:
    """What stands behind /files/ is the path, decoded once."""
    url = httpx2.URL(f"{running.url}/v1/sessions/{session.id}/files/{written}")
    answer = await client.put(url, content=b"")
    assert answer.json()["path"] == path


@pytest.mark.parametrize("written", ["", "a%00b", "%FF", "x" * 4097])
async def test_impossible_paths(client: httpx2.AsyncClient, session: Any, written: str) -> None:
    """Empty, NUL, not UTF-8 and too long are invalid paths."""
    answer = await client.put(f"/v1/sessions/{session.id}/files/{written}", content=b"")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_path")


async def test_operations(client: httpx2.AsyncClient, session: Any) -> None:
    """Directories are made and things moved."""
    where = f"/v1/sessions/{session.id}/files"
    assert (await client.post(f"{where}/d", json={"op": "mkdir"})).status_code == 204
    assert (await client.post(f"{where}/d", json={"op": "move", "to": "e"})).status_code == 204
    assert session.files.calls == [("mkdir", "d"), ("move", "d", "e")]
    for body in ({"op": "move"}, {"op": "mkdir", "to": "x"}, {"op": "chmod"}, {}):
        assert (await client.post(f"{where}/d", json=body)).status_code == 422
    assert (await client.get(where, params={"path": "d", "recursive": "true"})).json()["items"][0][
        "size"
    ] == 10
    assert session.files.calls[-1] == ("list", "d", True)


async def test_archive(client: httpx2.AsyncClient, session: Any) -> None:
    """A tree comes and goes as tar."""
    where = f"/v1/sessions/{session.id}/archive"
    got = await client.get(where, params={"path": "d"})
    assert got.content == b"tar" * 1000
    assert got.headers["content-type"] == "application/x-tar"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert (await client.put(where, content=b"abc")).status_code == 204
    assert session.files.calls[-1] == ("extract", ".", b"abc")


async def test_impossible_times(client: httpx2.AsyncClient, session: Any) -> None:
    """A file's time that no calendar has does not break the answer."""
    session.files.content["late"] = b"x"
    assert (await client.get(f"/v1/sessions/{session.id}/files/late")).content == b"x"


async def test_counted_by_template(client: httpx2.AsyncClient, session: Any) -> None:
    """Metrics name a file's route as docs/api.md does, and no file."""
    await client.get(f"/v1/sessions/{session.id}/files/a.txt")
    text = (await client.get("/metrics")).text
    assert 'route="/v1/sessions/{session_id}/files/{path}",status="200"' in text
    assert "a.txt" not in text
