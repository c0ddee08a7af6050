"""The disk with the service's state directory is full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.conftest import House, Houses, until

pytestmark = [pytest.mark.docker, pytest.mark.root]

SIZE = 8 << 20  # bytes, of which the guest's code takes one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of few megabytes. It must be there before the services, and go after them."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Take all the room there is."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_no_room_for_another_sandbox(small_disk: Path, houses: Houses) -> None:
    """What is open goes on, what needs room is refused by name, and all is well once there is room."""
    house: House = houses("small/state", "--warm", "0")
    session = house.session()
    house.execute(session, "kept = 7")
    filler = fill(small_disk)
    for path, body in (("/v1/runs", {"language": "python", "code": "1"}), ("/v1/sessions", {})):
        refused = house.http.post(path, json=body)
        assert refused.status_code in (502, 503, 507), refused.text
        assert refused.json()["code"] in ("sandbox_failed", "capacity", "disk_full", "backend_unavailable")
    assert house.execute(session, "kept")["result"] == {"text/plain": "7"}
    assert house.http.put(f"{session}/files/a", content=b"x" * 100_000).status_code == 200
    assert house.http.get("/healthz").status_code == 200
    closing = house.http.post("/v1/sessions/" + session.rpartition("/")[2] + "/interrupt")
    assert closing.status_code == 204
    filler.unlink()
    until(
        lambda: house.http.post("/v1/runs", json={"language": "bash", "code": "1"}).status_code == 200, "room"
    )
    assert house.execute(house.session(), "1 + 1")["result"] == {"text/plain": "2"}
    house.in_order(leased=2)


def test_sessions_close_though_the_disk_is_full(small_disk: Path, houses: Houses) -> None:
    """Closing needs no room, and gives some back."""
    house: House = houses("small/state", "--warm", "0")
    session = house.session()
    filler = fill(small_disk)
    assert house.http.delete(session).status_code == 204
    assert house.http.get(session).status_code in (404, 410)
    until(lambda: not house.containers(), "the container's end")
    filler.unlink()
    house.in_order()
