"""The guest's `fs` operation at the level of frames: requests, refusals, early ends, and globs."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executor_service.guest import files, protocol
from executor_service.guest.fspaths import Refusal, locate, refusal, replace_file, show
from executor_service.guest.globs import Globs
from executor_service.guest.protocol import Kind, pack, pack_json
from executor_service.guest.walk import Budget, walk

Start = Callable[..., socket.socket]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Serve a call on `tmp_path`; gives the host's end of its connection."""
    ends: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def begin(request: dict[str, Any] | None) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        first = {"v": 1, "op": "fs"} if request is None else request

        def work() -> None:
            with theirs:
                files.serve(theirs, first, str(tmp_path))

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        ends.append(ours)
        return ours

    yield begin
    for end in ends:
        end.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def until_end(conn: socket.socket) -> list[tuple[Kind, bytes]]:
    """All frames until the guest closes."""
    frames = []
    while True:
        try:
            frames.append(protocol.recv_frame(conn))
        except EOFError:
            return frames


def test_the_call_comes_in_the_second_frame(start: Start, tmp_path: Path) -> None:
    """The first frame names only the operation; the call follows, read by the helper itself."""
    (tmp_path / "f").write_bytes(b"abc")
    conn = start(None)
    conn.sendall(pack_json({"call": "read", "path": "f"}))
    frames = until_end(conn)
    assert [kind for kind, _ in frames] == [Kind.JSON, Kind.DATA, Kind.DATA]
    assert [payload for _, payload in frames[1:]] == [b"abc", b""]


@pytest.mark.parametrize(
    "request_",
    [
        {"call": "format"},
        {"call": None},
        {"call": ["read"]},
        {"call": "read", "path": "f", "offset": -1},
        {"call": "read", "path": "f", "offset": True},
        {"call": "read", "path": "f", "length": "3"},
        {"call": "put", "files": "f"},
        {"call": "put", "files": [["f"]]},
        {"call": "put", "files": [["f", -1]]},
        {"call": "put", "files": [["f", 5]]},
        {"call": "put", "files": []},
        {"call": "collect", "globs": "*"},
        {"call": "collect", "globs": ["*"], "max_files": 1.5},
        {"call": "changed", "since_ns": None, "limit": "x"},
    ],
)
def test_requests_that_make_no_sense(start: Start, tmp_path: Path, request_: dict[str, Any]) -> None:
    """A request of the wrong shape is refused with `invalid_request`."""
    (tmp_path / "f").write_bytes(b"abc")
    conn = start(request_)
    conn.sendall(pack(Kind.DATA, b"1") + pack(Kind.DATA, b""))
    answer = protocol.recv_json(conn)
    assert (answer["type"], answer["code"]) == ("error", "invalid_request")


@pytest.mark.parametrize("path", [None, 5, "", "a\0", "..", "a/../b", "/..", "\udfff" + "\ud800"])
@pytest.mark.parametrize(
    "call", ["list", "stat", "read", "write", "delete", "mkdir", "archive_get", "archive_put"]
)
def test_paths_that_no_call_takes(start: Start, tmp_path: Path, call: str, path: object) -> None:
    """A path that is no path is refused by every call before anything is touched."""
    conn = start({"call": call, "path": path})
    assert protocol.recv_json(conn)["code"] == "invalid_path"
    assert os.listdir(tmp_path) == []


def test_the_workspace_itself_is_not_deleted(start: Start, tmp_path: Path) -> None:
    """Deleting the workspace or the root directory is refused."""
    (tmp_path / "f").touch()
    for path in (".", "./", "/", str(tmp_path), f"{tmp_path}/."):
        assert protocol.recv_json(start({"call": "delete", "path": path}))["code"] == "invalid_path"
    assert (tmp_path / "f").exists()


@pytest.mark.parametrize("sent", [b"", pack(Kind.DATA, b"x" * 100), pack(Kind.DATA, b"x")[:4], b"\xff" * 100])
@pytest.mark.parametrize("call", ["write", "archive_put", "put"])
def test_a_host_that_goes_away(start: Start, tmp_path: Path, call: str, sent: bytes) -> None:
    """An upload that breaks off leaves nothing behind, and the helper ends."""
    conn = start({"call": call, "path": ".part/f" if call == "write" else ".", "files": [["f", 1000]]})
    conn.sendall(sent)
    conn.shutdown(socket.SHUT_WR)
    until_end(conn)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


def test_a_refused_upload_is_read_to_its_end(start: Start) -> None:
    """The refusal of a large upload reaches a host that is still sending."""
    conn = start({"call": "write", "path": "../f"})
    for _ in range(200):
        conn.sendall(pack(Kind.DATA, bytes(65536)))
    conn.sendall(pack(Kind.DATA, b""))
    assert protocol.recv_json(conn)["code"] == "invalid_path"


def test_another_frame_in_an_upload(start: Start, tmp_path: Path) -> None:
    """Anything but DATA frames in an upload is refused."""
    conn = start({"call": "write", "path": "f"})
    conn.sendall(pack_json({"call": "delete", "path": "f"}))
    assert protocol.recv_json(conn)["code"] == "invalid_request"
    assert os.listdir(tmp_path) == []


def test_a_reader_that_leaves(start: Start, tmp_path: Path) -> None:
    """A host that stops in the middle of a download ends the helper without an error."""
    (tmp_path / "f").write_bytes(bytes(5_000_000))
    conn = start({"call": "read", "path": "f"})
    protocol.recv_frame(conn)
    conn.close()


def test_listings_come_in_bounded_frames(start: Start, tmp_path: Path) -> None:
    """A directory of thousands of long names comes as many frames, none over 128 KiB."""
    for n in range(2000):
        (tmp_path / f"{n:05}{'é' * 100}").touch()
    frames = until_end(start({"call": "list", "path": "."}))
    assert max(len(payload) for _, payload in frames) < 128 * 1024
    entries = [entry for _, payload in frames[:-1] for entry in protocol.parse_json(payload)["entries"]]
    assert [entry[0] for entry in entries] == sorted(os.listdir(tmp_path))


def test_two_names_that_look_the_same(tmp_path: Path) -> None:
    """Where two names are shown alike neither is guessed; a literal name always wins."""
    for raw in (b"a\xff", b"a\xfe", b"b\xff"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw)).touch()
    root = str(tmp_path)
    assert locate("b\ufffd", root) == os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")
    assert not os.path.exists(locate("a\ufffd", root))
    (tmp_path / "b\ufffd").touch()
    assert locate("b\ufffd", root) == f"{root}/b\ufffd"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, "file_not_found"),
        (errno.EISDIR, "is_a_directory"),
        (errno.ENOTDIR, "invalid_path"),
        (errno.EACCES, "invalid_path"),
        (errno.ELOOP, "invalid_path"),
        (errno.ENAMETOOLONG, "invalid_path"),
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EIO, "sandbox_failed"),
        (errno.EMFILE, "sandbox_failed"),
    ],
)
def test_what_an_errno_means(number: int, code: str) -> None:
    """Each failure of a system call has one stable code, and its detail names the path."""
    found = refusal(OSError(number, "x"), "a/b")
    assert (found.code, found.detail) == (code, f"a/b: {os.strerror(number)}")


def test_show_is_always_valid_text() -> None:
    """A name shown is UTF-8 whatever bytes it has."""
    for name in ("plain", "é", os.fsdecode(b"\xff\xc3"), "\ud800"):
        show(name).encode()
    assert show(os.fsdecode(b"a\xff")) == "a\ufffd"


def test_replace_file_leaves_nothing_when_filling_fails(tmp_path: Path) -> None:
    """An error while a file is written leaves the old one and no part."""
    (tmp_path / "f").write_text("old")

    def fill(fd: int) -> None:
        os.write(fd, b"half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        replace_file(str(tmp_path / "f"), fill)
    assert (os.listdir(tmp_path), (tmp_path / "f").read_text()) == (["f"], "old")


def test_a_walk_stops_at_its_budget(tmp_path: Path) -> None:
    """A walk visits no more entries than its budget, and says that it stopped."""
    for n in range(50):
        (tmp_path / f"d{n}").mkdir()
    budget = Budget(entries=10, seconds=60)
    assert len(list(walk(str(tmp_path), budget, lambda _: True))) == 10
    assert budget.spent
    late = Budget(entries=1000, seconds=-1)
    assert list(walk(str(tmp_path), late, lambda _: True)) == []
    assert late.partial


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*.png", ["a.png", "ü.png"], ["d/a.png", "a.PNG", ".a.png", "a.png.txt"]),
        ("**/*.png", ["a.png", "d/a.png", "d/e/a.png"], [".d/a.png", "d/.a.png"]),
        ("out/**", ["out/a", "out/b/c"], ["out", "outer/a", "out/.hidden"]),
        ("out/", ["out/a", "out/b/c"], ["out"]),
        ("a/**/b/*.t", ["a/b/x.t", "a/1/2/b/x.t"], ["a/b/c/x.t", "b/x.t"]),
        ("./x//y", ["x/y"], ["x"]),
        ("?.t", ["a.t"], ["ab.t", ".t"]),
        ("[ab].t", ["a.t", "b.t"], ["c.t"]),
        (".*", [".hidden"], ["seen"]),
        (".git/**", [".git/config"], ["git/config"]),
        ("**", ["a", "a/b"], [".a"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("exact.txt", ["exact.txt"], ["exactxtxt"]),
    ],
)
def test_globs(glob: str, yes: list[str], no: list[str]) -> None:
    """`*` stays within a directory, `**` crosses them, wildcards match no leading dot."""
    globs = Globs([glob])
    assert [path for path in yes if not globs.matches(path)] == []
    assert [path for path in no if globs.matches(path)] == []


@pytest.mark.parametrize("glob", ["", "/a", "../a", "a/..", "a\0", 5, None, "x" * 2000, "/", "."])
def test_globs_that_are_refused(glob: object) -> None:
    """A glob is text, relative, of a bounded length, without `..`."""
    with pytest.raises(Refusal):
        Globs([glob])


def test_globs_never_backtrack() -> None:
    """Patterns that are exponential for naive matchers are quick on names made to hurt them."""
    globs = Globs(["*a" * 60 + "b", "**/" * 100 + "x/y/z"])
    assert not globs.matches("a" * 255)
    assert not globs.matches("x/y/" * 500 + "q")
