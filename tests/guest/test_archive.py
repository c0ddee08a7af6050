"""Tar streams in the guest: what goes in, what comes out, and what is refused on the way."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from executor_service.guest import archive
from executor_service.guest.fspaths import Refusal
from executor_service.guest.fswire import Incoming
from executor_service.guest.protocol import Kind, pack

REG, DIR, SYM, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def tar(*members: tuple[str, bytes, str], content: bytes = b"x", form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members (name, type, linkname), each regular one with `content`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o6777
            info.size = len(content) if kind == REG else 0
            made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def extract(target: Path, data: bytes) -> None:
    """Extract `data` as it would come over a connection, in odd pieces."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        pieces = [data[n : n + 7777] for n in range(0, len(data), 7777)]
        ours.sendall(b"".join(pack(Kind.DATA, piece) for piece in [*pieces, b""]))
        archive.extract(str(target), Incoming(theirs))


def sent(path: Path) -> bytes:
    """The tar stream of `path`."""
    out = bytearray()
    archive.write(str(path), archive.check(str(path)), out.extend)
    return bytes(out)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_formats_are_read(tmp_path: Path, form: int) -> None:
    """Files, directories, links and long names of each tar format are extracted."""
    name = "d/" + "n" * 90 + "/" + "m" * 60
    members = [("./d", DIR, ""), (name, REG, ""), ("d/l", SYM, "../e"), ("f", REG, ""), ("h", HARD, "f")]
    data = tar(*members, form=form, content=b"body")
    extract(tmp_path, data)
    assert (tmp_path / name).read_bytes() == (tmp_path / "h").read_bytes() == b"body"
    assert os.readlink(tmp_path / "d" / "l") == "../e"


def test_modes_are_tamed(tmp_path: Path) -> None:
    """No setuid, setgid or write permission for others comes out of an archive; execution does."""
    extract(tmp_path, tar(("f", REG, "")))
    assert (tmp_path / "f").stat().st_mode & 0o7777 == 0o755


def test_what_lies_there_is_replaced(tmp_path: Path) -> None:
    """Files and links of the same name are replaced, not written through, twice in one archive too."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "f").symlink_to("victim")
    (tmp_path / "l").write_text("old")
    extract(
        tmp_path, tar(("f", REG, ""), ("l", SYM, "f"), ("f", REG, ""), ("h", HARD, "f"), ("h", HARD, "f"))
    )
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "f").is_symlink()
    assert os.readlink(tmp_path / "l") == "f"
    assert sorted(os.listdir(tmp_path)) == ["f", "h", "l", "victim"]


@pytest.mark.parametrize(
    "link", ["/", "/etc", "..", "../..", "a/..", "a/../../b", "./..", "x/./..", "", "../d/.."]
)
def test_links_that_may_leave(tmp_path: Path, link: str) -> None:
    """A link at the top whose text goes up, or anywhere absolute, is refused, whatever it means today."""
    with pytest.raises(Refusal, match="leave"):
        extract(tmp_path, tar(("l", SYM, link), form=tarfile.USTAR_FORMAT))


@pytest.mark.parametrize(
    ("name", "link"), [("a/l", ".."), ("a/b/l", "../../x"), ("l", "a/b"), ("a/l", "../b")]
)
def test_links_that_stay(tmp_path: Path, name: str, link: str) -> None:
    """A link that goes up no further than it is deep is made."""
    extract(tmp_path, tar((name, SYM, link)))
    assert os.readlink(tmp_path / name) == link


def test_a_chain_of_links_leads_nowhere(tmp_path: Path) -> None:
    """Whatever an archive links, every link that it made resolves inside the target."""
    target = tmp_path / "t"
    target.mkdir()
    members = [("a/b/up", SYM, "../.."), ("c", SYM, "a/b/up"), ("a/d", SYM, "b/up"), ("a/e", SYM, "../c")]
    extract(target, tar(*members))
    for name, _, _ in members:
        assert (target / name).resolve().is_relative_to(target.resolve())


@pytest.mark.parametrize("name", ["/x", "..", "a/../b", "../x", "a/.."])
def test_names_that_leave(tmp_path: Path, name: str) -> None:
    """Absolute names and names with `..` are refused before anything is made."""
    with pytest.raises(Refusal, match="relative"):
        extract(tmp_path, tar((name, REG, "")))
    assert os.listdir(tmp_path) == []


def test_a_member_without_a_name(tmp_path: Path) -> None:
    """The target itself may be a directory member, and nothing else."""
    extract(tmp_path, tar((".", DIR, ""), ("./f", REG, "")))
    with pytest.raises(Refusal):
        extract(tmp_path, tar(("./", REG, "")))


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    """Only plain tar is read, so no archive is larger than what was sent."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as made:
        made.addfile(tarfile.TarInfo("f"))
    with pytest.raises(Refusal) as caught:
        extract(tmp_path, packed.getvalue())
    assert caught.value.code == "invalid_request"


def test_the_stream_is_a_plain_tar(tmp_path: Path) -> None:
    """Any tar reads what is sent; parents come first, owners are not told."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"1" * 200_000)
    (tmp_path / "l").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    with tarfile.open(fileobj=io.BytesIO(sent(tmp_path)), mode="r:") as read:
        members = {m.name: m for m in read.getmembers()}
        assert list(members) == ["d", "l", "d/f"]
        assert members["l"].linkname == "/etc/passwd"
        assert (members["d/f"].uid, members["d/f"].uname) == (0, "")
        body = read.extractfile("d/f")
        assert body is not None
        assert body.read() == b"1" * 200_000


def test_an_empty_directory(tmp_path: Path) -> None:
    """An empty directory is an empty archive, which extracts to nothing."""
    data = sent(tmp_path)
    extract(tmp_path, data)
    assert os.listdir(tmp_path) == []


def test_what_is_too_large_is_said_first(tmp_path: Path) -> None:
    """The size is checked before the stream starts, and sparse files count in full."""
    (tmp_path / "small").touch()
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 5 << 30)
    with pytest.raises(Refusal, match="sparse") as caught:
        archive.check(str(tmp_path))
    assert caught.value.code == "payload_too_large"


def test_a_file_that_vanished_is_left_out(tmp_path: Path) -> None:
    """What is gone or became a FIFO since the check is left out; the rest is sent."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    found = archive.check(str(tmp_path))
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()
    os.mkfifo(tmp_path / "b")
    out = bytearray()
    archive.write(str(tmp_path), found, out.extend)
    with tarfile.open(fileobj=io.BytesIO(bytes(out))) as read:
        assert read.getnames() == ["c"]
