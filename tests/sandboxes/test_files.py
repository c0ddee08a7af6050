"""The host's file operations against the real guest code, and against guests that misbehave."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executor_service.errors import (
    CodecellError,
    DiskFull,
    FileMissing,
    InvalidPath,
    InvalidRequest,
    IsADirectory,
    PayloadTooLarge,
    RangeNotSatisfiable,
    SandboxFailed,
)
from executor_service.guest.protocol import HEADER, Kind, pack, pack_json
from executor_service.sandboxes.files import Entry, Files, now_ns

REPO = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("file_guest.py")
PROMPT = 20.0  # seconds; what must not hang is far quicker, the machine may be busy


class PathSandbox:
    """As much of a sandbox as `Files` needs: connections to a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self._path))


class Guest(SimpleNamespace):
    files: Files
    root: Path
    process: subprocess.Popen[bytes]


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that another uid may enter (pytest's own are private), on a tmpfs where there is one."""
    path = Path(tempfile.mkdtemp(prefix="cc-files-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=False)  # shutil recurses, and trees here are deep


@pytest.fixture
def guest(base: Path) -> Iterator[Guest]:
    """A guest with an empty workspace."""
    root = base / "workspace"
    root.mkdir()
    yield from _serve(base, root, [])


@pytest.fixture
def small_guest(base: Path) -> Iterator[Guest]:
    """A guest whose workspace is a tmpfs of 1 MiB and 64 inodes."""
    root = base / "workspace"
    root.mkdir()
    script = f'mount -t tmpfs -o size=1m,nr_inodes=64 tmpfs {root} && exec "$@"'
    prefix = ["unshare", "-rm", "sh", "-c", script, "sh"]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this host allows no mount in a user namespace")
    for served in _serve(base, root, prefix, "keep-uid"):
        served.root = Path(f"/proc/{served.process.pid}/root{root}")
        yield served


def _serve(base: Path, root: Path, prefix: list[str], *more: str) -> Iterator[Guest]:
    path = base / "socket"
    argv = [*prefix, sys.executable, str(SERVER), str(REPO), str(path), str(root), *more]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        path.chmod(0o777)
        yield Guest(files=Files(PathSandbox(path)), root=root, process=process)  # type: ignore[arg-type]
        process.kill()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """`parts` as an upload."""
    for part in parts:
        yield part


async def read(files: Files, path: str, offset: int = 0, length: int | None = None) -> bytes:
    """The whole body of a download."""
    async with files.read(path, offset, length) as (_, content):
        return b"".join([chunk async for chunk in content])


async def archive(files: Files, path: str = ".") -> bytes:
    """A whole tar stream."""
    async with files.archive(path) as content:
        return b"".join([chunk async for chunk in content])


def tar(*members: tuple[str, bytes, str], content: bytes = b"x") -> bytes:
    """A tar of members (name, type, linkname)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def plant(root: Path, name: bytes, content: bytes) -> None:
    """A file whose name need not be UTF-8."""
    Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(content)


async def until(check: Callable[[], bool]) -> None:
    """Wait until `check` holds; it fails after a generous deadline."""
    async with asyncio.timeout(PROMPT):
        while not check():  # noqa: ASYNC110 (another process; nothing tells us)
            await asyncio.sleep(0.02)


def leftovers(root: Path) -> list[str]:
    """Partial files that an operation left."""
    return [name for _, dirs, files in os.walk(root) for name in (*dirs, *files) if ".codecell-" in name]


async def test_write_read_stat_round_trip(guest: Guest) -> None:
    """What is written, parents and all, is read back and described, with mode 0644."""
    body = os.urandom(300_000)
    written = await guest.files.write("a/b/data.bin", chunks(body[:100_000], b"", body[100_000:]))
    assert (written.path, written.type, written.size, written.mode) == (
        "a/b/data.bin",
        "file",
        300_000,
        0o644,
    )
    assert await read(guest.files, "a/b/data.bin") == body
    assert await guest.files.stat("a/b/data.bin") == written
    assert abs(written.modified_at - time.time()) < 60


async def test_ranges(guest: Guest) -> None:
    """Offset and length select; an offset behind the end is refused, but 0 of an empty file is not."""
    await guest.files.write("f", chunks(b"0123456789"))
    assert await read(guest.files, "f", 3, 4) == b"3456"
    assert await read(guest.files, "f", 8, 100) == b"89"
    assert await read(guest.files, "f", 0, 0) == b""
    with pytest.raises(RangeNotSatisfiable):
        await read(guest.files, "f", 10)
    await guest.files.write("empty", chunks())
    assert await read(guest.files, "empty") == b""


async def test_listing(guest: Guest) -> None:
    """A listing names each type, flat or recursive, relative to the workspace, links not followed."""
    await guest.files.put([("d/x.txt", b"1"), ("y.txt", b"22")])
    (guest.root / "link").symlink_to("/etc")
    os.mkfifo(guest.root / "pipe")
    flat = {e.path: e.type for e in await guest.files.list()}
    assert flat == {"d": "directory", "link": "symlink", "pipe": "other", "y.txt": "file"}
    assert [e.path for e in await guest.files.list(".", recursive=True)] == [
        "d",
        "link",
        "pipe",
        "y.txt",
        "d/x.txt",
    ]
    assert [e.path for e in await guest.files.list("d")] == ["d/x.txt"]
    assert [e.path for e in await guest.files.list(str(guest.root / "d"))] == ["d/x.txt"]


async def test_absolute_paths(guest: Guest) -> None:
    """An absolute path names the sandbox's own file system, with the user's own rights."""
    assert (await guest.files.stat("/etc/passwd")).path == "/etc/passwd"
    assert b"root" in await read(guest.files, "/etc/passwd")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another uid")
async def test_the_kernel_refuses_what_the_user_may_not_do(guest: Guest) -> None:
    """Files of others can be neither read, replaced nor deleted through the guest."""
    with pytest.raises(InvalidPath, match="Permission denied"):
        await read(guest.files, "/etc/shadow")
    with pytest.raises(InvalidPath, match="Permission denied"):
        await guest.files.write("/etc/planted", chunks(b"x"))
    with pytest.raises(InvalidPath):
        await guest.files.delete("/etc/passwd")


async def test_delete_mkdir_move(guest: Guest) -> None:
    """Directories are made with parents, moved, and deleted with all they hold."""
    await guest.files.mkdir("m/n")
    await guest.files.mkdir("m/n")
    await guest.files.put([("m/n/f", b"1"), ("g", b"2")])
    await guest.files.move("m", "deep/er/m")
    assert await read(guest.files, "deep/er/m/n/f") == b"1"
    await guest.files.move("g", "deep/er/m/n/f")
    assert await read(guest.files, "deep/er/m/n/f") == b"2"
    await guest.files.delete("deep")
    assert await guest.files.list() == []


async def test_delete_removes_links_not_their_targets(guest: Guest) -> None:
    """Deleting a tree with links to a directory elsewhere leaves that directory alone."""
    await guest.files.put([("keep/f", b"1"), ("gone/f", b"1")])
    (guest.root / "gone" / "link").symlink_to(guest.root / "keep")
    (guest.root / "link").symlink_to("keep")
    await guest.files.delete("gone")
    await guest.files.delete("link")
    assert [e.path for e in await guest.files.list(".", recursive=True)] == ["keep", "keep/f"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing", FileMissing),
        ("missing/below", FileMissing),
        ("dir", IsADirectory),
        (".", IsADirectory),
        ("file/below", InvalidPath),
        ("../etc/passwd", InvalidPath),
        ("dir/../file", InvalidPath),
        ("/../etc/passwd", InvalidPath),
        ("a\0b", InvalidPath),
        ("", InvalidPath),
        ("\ud800", InvalidPath),
        ("n" * 300, InvalidPath),
        ("d/" * 2500, InvalidPath),
        ("loop", InvalidPath),
        ("fifo", InvalidPath),
        ("socket", InvalidPath),
        ("/dev/zero", InvalidPath),
        ("dangling", FileMissing),
    ],
)
async def test_reading_what_is_no_readable_file(guest: Guest, path: str, error: type[CodecellError]) -> None:
    """Each wrong path is refused by its own type, and at once: FIFOs and devices never block."""
    await guest.files.put([("dir/x", b""), ("file", b"")])
    (guest.root / "loop").symlink_to("loop")
    (guest.root / "dangling").symlink_to("nowhere")
    os.mkfifo(guest.root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(guest.root / "socket"))
    async with asyncio.timeout(PROMPT):
        with pytest.raises(error) as caught:
            await read(guest.files, path)
    assert caught.value.detail


@pytest.mark.parametrize("path", ["../x", "a/../../x", "dir", "dir/", "new/", "file/below", "a\0b", ".", "/"])
async def test_writing_where_no_file_can_be(guest: Guest, path: str) -> None:
    """Uploads to such paths are refused, however much is on its way, and leave nothing behind."""
    await guest.files.put([("dir/x", b""), ("file", b"")])
    before = sorted(os.listdir(guest.root))
    for big in (b"x", bytes(3_000_000)):
        with pytest.raises((InvalidPath, IsADirectory)):
            await guest.files.write(path, chunks(big))
        with pytest.raises((InvalidPath, IsADirectory)):
            await guest.files.put([(path, big)])
    assert sorted(os.listdir(guest.root)) == before


async def test_deep_paths_are_made(guest: Guest) -> None:
    """A file 1,000 directories down can be written, read and deleted."""
    path = "d/" * 1000 + "f"
    await guest.files.write(path, chunks(b"deep"))
    assert await read(guest.files, path) == b"deep"
    await guest.files.delete("d")
    assert await guest.files.list() == []


async def test_write_replaces_atomically(guest: Guest) -> None:
    """A reader sees the old file until the new one is whole; an aborted upload changes nothing."""
    await guest.files.write("f", chunks(b"old"))

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(200_000)
        assert await read(guest.files, "f") == b"old"
        raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError):
        await guest.files.write("f", broken())
    assert await read(guest.files, "f") == b"old"
    await until(lambda: not leftovers(guest.root))


async def test_write_replaces_a_planted_link(guest: Guest) -> None:
    """A link planted where the service writes is replaced, never written through (case 49)."""
    (guest.root / "victim").write_bytes(b"precious")
    (guest.root / "trap").symlink_to("victim")
    await guest.files.write("trap", chunks(b"new"))
    await guest.files.put([("trap2/f", b"1")])
    assert (guest.root / "victim").read_bytes() == b"precious"
    assert (guest.root / "trap").read_bytes() == b"new"
    assert not (guest.root / "trap").is_symlink()


async def test_names_with_invalid_bytes(guest: Guest) -> None:
    """Names that are not UTF-8 show with U+FFFD and can be read and deleted so (case 55)."""
    plant(guest.root, b"caf\xe9.txt", b"latin")
    (entry,) = await guest.files.list()
    assert entry.path == "caf\ufffd.txt"
    entry.path.encode()
    assert await read(guest.files, entry.path) == b"latin"
    files, _ = await guest.files.collect(["*.txt"])
    assert files == [("caf\ufffd.txt", b"latin")]
    await guest.files.delete(entry.path)
    assert await guest.files.list() == []


async def test_a_shrinking_file_is_cut_with_an_error(guest: Guest) -> None:
    """A file that shrinks while it is read ends in an error, never in a silently short body (case 52)."""
    await guest.files.write("f", chunks(bytes(20_000_000)))
    with pytest.raises(FileMissing, match="shorter"):  # noqa: PT012 (the body is what raises)
        async with guest.files.read("f") as (entry, content):
            assert entry.size == 20_000_000
            async for _ in content:
                with (guest.root / "f").open("r+b") as opened:
                    opened.truncate(1000)


async def test_a_growing_file_gives_what_was_announced(guest: Guest) -> None:
    """A file that grows while it is read gives exactly the announced bytes."""
    await guest.files.write("f", chunks(bytes(2_000_000)))
    got = 0
    async with guest.files.read("f") as (entry, content):
        async for chunk in content:
            got += len(chunk)
            with (guest.root / "f").open("ab") as opened:
                opened.write(b"more" * 1000)
    assert got == entry.size == 2_000_000


async def test_a_large_file_is_streamed_and_a_reader_may_leave(guest: Guest) -> None:
    """A sparse 1 PiB file can be opened, read a little, and left; its guest ends (cases 47, 61)."""
    (guest.root / "huge").touch()
    try:
        os.truncate(guest.root / "huge", 1 << 50)
    except OSError:
        os.truncate(guest.root / "huge", 1 << 40)
    async with asyncio.timeout(PROMPT):
        async with guest.files.read("huge") as (entry, content):
            assert entry.size >= 1 << 40
            assert await anext(content) == bytes(65536)
        files, (omitted,) = await guest.files.collect(["*"])
        assert (files, omitted.path, omitted.reason) == ([], "huge", "too_large")
        with pytest.raises(PayloadTooLarge, match="huge"):
            await archive(guest.files)
        await until(lambda: not _children(guest.process.pid))


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


async def test_cancelling_a_call_ends_it_in_the_guest(guest: Guest) -> None:
    """A cancelled upload leaves neither a helper nor a partial file."""
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(_written(guest.files, endless()))
    await started.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await until(lambda: not _children(guest.process.pid))
    assert os.listdir(guest.root) == []


async def _written(files: Files, body: AsyncIterator[bytes]) -> None:
    await files.write("f", body)


async def test_collect(guest: Guest) -> None:
    """Globs select regular files; links, FIFOs and what is over the bounds are named with the reason."""
    await guest.files.put(
        [(f"out/{n}.txt", b"x") for n in range(5)] + [("a.png", b"PNG"), ("big.png", bytes(100))]
    )
    (guest.root / "passwd.png").symlink_to("/etc/passwd")
    os.mkfifo(guest.root / "pipe.png")
    (guest.root / "dir.png").mkdir()
    async with asyncio.timeout(PROMPT):
        files, omitted = await guest.files.collect(["*.png"], max_bytes=50)
        assert files == [("a.png", b"PNG")]
        assert {o.path: o.reason for o in omitted} == {
            "big.png": "too_large",
            "passwd.png": "not_a_file",
            "pipe.png": "not_a_file",
        }
        files, omitted = await guest.files.collect(["**/*.txt", "out/*"], max_files=3)
    assert [path for path, _ in files] == ["out/0.txt", "out/1.txt", "out/2.txt"]
    assert {o.reason for o in omitted} == {"too_many"}
    assert await guest.files.collect([]) == ([], [])


@pytest.mark.parametrize("glob", ["/etc/*", "../*", "a/../../*", "a\0", ""])
async def test_globs_that_leave_the_workspace(guest: Guest, glob: str) -> None:
    """A glob is relative to the workspace and stays there."""
    with pytest.raises(InvalidPath):
        await guest.files.collect([glob])


async def test_collect_of_links_to_a_large_file(guest: Guest) -> None:
    """A hundred links to one large file cost nothing (case 48)."""
    (guest.root / "large").write_bytes(bytes(32 << 20))
    for n in range(100):
        (guest.root / f"link{n}").symlink_to("large")
    files, omitted = await guest.files.collect(["*"])
    assert files == []
    assert sorted({o.reason for o in omitted}) == ["not_a_file", "too_large"]
    assert len(await archive(guest.files)) < 40 << 20


async def test_changed(guest: Guest) -> None:
    """Files made or changed since an instant are listed; older ones and housekeeping are not."""
    await guest.files.put([("old", b"1"), ("rewritten", b"1")])
    await asyncio.sleep(0.05)
    since = now_ns()
    (guest.root / "rewritten").write_bytes(b"22")
    await guest.files.put([("new/f", b"333"), (".local/lib/x.py", b""), ("p/__pycache__/x.pyc", b"")])
    (guest.root / "link").symlink_to("old")
    assert await guest.files.changed(since) == ([("new/f", 3), ("rewritten", 2)], False)
    files, more = await guest.files.changed(0, limit=2)
    assert (len(files), more) == (2, True)


async def test_changed_right_after_the_mark_is_seen(guest: Guest) -> None:
    """A file written in the same instant as the mark is never lost to the coarse clock of files."""
    for n in range(50):
        since = now_ns()
        (guest.root / f"f{n}").write_bytes(b"x")
        files, _ = await guest.files.changed(since)
        assert f"f{n}" in dict(files)


def grow(root: Path) -> None:
    """Make 300,000 files, and 3,000 directories in one another, below `root`."""
    script = (
        "import os, sys\nos.chdir(sys.argv[1])\nos.mkdir('many')\n"
        "for n in range(300_000): open(f'many/{n}', 'w').close()\n"
        "os.mkdir('deep'); os.chdir('deep')\n"
        "for n in range(3000): os.mkdir('d' * 20); os.chdir('d' * 20)\n"
        "open('bottom', 'w').close()\n"
        "open(sys.argv[1] + '/z.png', 'w').close()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(root)], check=True)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "1000:1000", str(root)], check=True)


@pytest.mark.slow
async def test_huge_directories_and_deep_trees_do_not_hang(guest: Guest) -> None:
    """300,000 files and 3,000 levels are searched within bounds, and can be deleted (case 54)."""
    grow(guest.root)
    _, truncated = await guest.files.changed(0)
    assert truncated
    files, omitted = await guest.files.collect(["**/*.png"])
    assert files == [("z.png", b"")]
    assert [(o.path, o.reason) for o in omitted] == [(".", "not_searched")]
    files, omitted = await guest.files.collect(["deep/**/*.png", "*.png"])
    assert (files, len(omitted)) == ([("z.png", b"")], 1)
    with pytest.raises(PayloadTooLarge):
        await guest.files.list("many")
    with pytest.raises(PayloadTooLarge):
        await guest.files.list("deep", recursive=True)
    with pytest.raises(PayloadTooLarge):
        await archive(guest.files, "deep")
    await guest.files.delete("deep")
    _, truncated = await guest.files.changed(0)
    assert truncated
    await guest.files.delete("many")
    assert [e.path for e in await guest.files.list()] == ["z.png"]


async def test_archive_round_trip(guest: Guest) -> None:
    """What archive gives, extract restores: contents, modes, links, odd and long names."""
    name = "sub/" + "long-name-" * 20
    await guest.files.put([(name, b"1" * 100_000), ("sub/tool.sh", b"#!/bin/sh\n"), ("empty", b"")])
    (guest.root / "sub" / "tool.sh").chmod(0o755)
    (guest.root / "sub" / "link").symlink_to("../empty")
    os.mkfifo(guest.root / "sub" / "pipe")
    plant(guest.root, b"\xff\xfe", b"")
    data = await archive(guest.files)
    await guest.files.extract("copy", chunks(data[:70_000], data[70_000:]))
    copied = guest.root / "copy"
    assert (copied / name).read_bytes() == b"1" * 100_000
    assert (copied / "sub" / "tool.sh").stat().st_mode & 0o777 == 0o755
    assert os.readlink(copied / "sub" / "link") == "../empty"
    assert not (copied / "sub" / "pipe").exists()
    assert b"\xff\xfe" in os.listdir(os.fsencode(copied))
    assert leftovers(guest.root) == []
    with tarfile.open(fileobj=io.BytesIO(await archive(guest.files, "empty"))) as single:
        assert single.getnames() == ["empty"]
    with pytest.raises(FileMissing):
        await archive(guest.files, "nothing")


@pytest.mark.parametrize(
    "members",
    [
        [("../x", tarfile.REGTYPE, "")],
        [("a/../../x", tarfile.REGTYPE, "")],
        [("/tmp/x-planted", tarfile.REGTYPE, "")],
        [("l", tarfile.SYMTYPE, "/etc/passwd")],
        [("l", tarfile.SYMTYPE, "../x")],
        [("d/l", tarfile.SYMTYPE, "../../x")],
        [("d/up", tarfile.SYMTYPE, ".."), ("esc", tarfile.SYMTYPE, "d/up/..")],
        [("up", tarfile.SYMTYPE, "d"), ("d", tarfile.DIRTYPE, ""), ("up/x", tarfile.REGTYPE, "")],
        [("out/x", tarfile.REGTYPE, "")],
        [("h", tarfile.LNKTYPE, "../../etc/passwd")],
        [("h", tarfile.LNKTYPE, "/etc/passwd")],
        [("h", tarfile.LNKTYPE, "out/victim")],
        [("pipe", tarfile.FIFOTYPE, "")],
        [("dev", tarfile.CHRTYPE, "")],
        [("dev", tarfile.BLKTYPE, "")],
        [("f", tarfile.REGTYPE, ""), ("f/x", tarfile.REGTYPE, "")],
    ],
)
async def test_archives_that_try_to_leave(guest: Guest, members: list[tuple[str, bytes, str]]) -> None:
    """No member leaves the target, by name or through a link of the archive or planted before (case 56)."""
    outside = guest.root / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "victim").write_bytes(b"precious")
    await guest.files.mkdir("in")
    (guest.root / "in" / "out").symlink_to(outside)
    with pytest.raises(InvalidPath):
        await guest.files.extract("in", chunks(tar(*members)))
    assert os.listdir(outside) == ["victim"]
    assert sorted(os.listdir(guest.root)) == ["in", "outside"]
    assert leftovers(guest.root) == []


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, b"\x1f\x8b\x08" + bytes(2000), b"x"])
async def test_what_is_no_tar(guest: Guest, data: bytes) -> None:
    """Anything but a plain tar is the caller's mistake, and said so."""
    with pytest.raises(InvalidRequest):
        await guest.files.extract(".", chunks(data))


async def test_a_cut_tar(guest: Guest) -> None:
    """A tar that ends inside a member is refused, and the member is not left half written."""
    with pytest.raises((InvalidRequest, InvalidPath)):
        await guest.files.extract(
            ".", chunks(tar(("f", tarfile.REGTYPE, ""), content=bytes(50_000))[:20_000])
        )
    assert os.listdir(guest.root) == []


async def test_a_tar_with_a_giant_header(guest: Guest) -> None:
    """An extended header that claims gigabytes is refused instead of read into memory."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(InvalidRequest):
        await guest.files.extract(".", chunks(info.tobuf(tarfile.GNU_FORMAT), bytes(100_000)))


async def test_a_full_disk(small_guest: Guest) -> None:
    """A disk that fills up is DiskFull for uploads and archives, leaves no part, and is usable again (45)."""
    files = small_guest.files
    with pytest.raises(DiskFull):
        await files.write("f", chunks(*[bytes(1_000_000)] * 20))
    with pytest.raises(DiskFull):
        await files.put([("a", bytes(2_000_000))])
    with pytest.raises(DiskFull):
        await files.extract(".", chunks(tar(("bomb", tarfile.REGTYPE, ""), content=bytes(30_000_000))))
    with pytest.raises(DiskFull):
        await files.extract(".", chunks(tar(*[(f"d{n}", tarfile.DIRTYPE, "") for n in range(200)])))
    for entry in await files.list():
        assert entry.type == "directory"
        await files.delete(entry.path)
    await files.write("f", chunks(bytes(500_000)))
    assert [e.path for e in await files.list()] == ["f"]


async def test_inodes_exhausted(small_guest: Guest) -> None:
    """A workspace without free inodes is DiskFull too, and stays readable (case 46)."""
    with pytest.raises(DiskFull):
        await small_guest.files.put([(f"f{n}", b"") for n in range(100)])
    assert len(await small_guest.files.list()) > 50


async def test_a_guest_killed_in_the_middle(guest: Guest, base: Path) -> None:
    """When the guest's helper is killed during a call, the caller hears of it at once."""
    await guest.files.write("f", chunks(bytes(5_000_000)))
    async with asyncio.timeout(PROMPT):
        with pytest.raises(SandboxFailed, match="ended"):  # noqa: PT012 (as above)
            async with guest.files.read("f") as (_, content):
                await anext(content)
                for pid in _children(guest.process.pid).split():
                    os.kill(int(pid), 9)
                async for _ in content:
                    pass

        async def forever() -> AsyncIterator[bytes]:
            while True:
                yield bytes(65536)
                for pid in _children(guest.process.pid).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), 9)

        with pytest.raises(SandboxFailed, match="ended"):
            await guest.files.write("g", forever())


class LyingSandbox:
    """A guest that says `reply` to whatever it is asked, and then closes (or stays silent)."""

    def __init__(self, reply: bytes, *, stay: bool = False) -> None:
        self._reply = reply
        self._stay = stay
        self._kept: list[Any] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        writer.write(self._reply)
        self._kept.append((reader, writer))
        if not self._stay:
            writer.write_eof()
        return await asyncio.open_unix_connection(sock=ours)

    def close(self) -> None:
        for _, writer in self._kept:
            writer.transport.abort()


CALLS: dict[str, Callable[[Files], Awaitable[object]]] = {
    "list": lambda files: files.list(),
    "stat": lambda files: files.stat("f"),
    "read": lambda files: read(files, "f"),
    "write": lambda files: files.write("f", chunks(b"x" * 1000)),
    "put": lambda files: files.put([("f", b"x")]),
    "delete": lambda files: files.delete("f"),
    "archive": archive,
    "extract": lambda files: files.extract(".", chunks(b"x" * 1000)),
    "collect": lambda files: files.collect(["*"], max_files=2, max_bytes=10),
    "changed": lambda files: files.changed(0, limit=2),
}
END = pack(Kind.DATA, b"")
GOOD = ["f", "file", 3, 0.0, 0o644]


ODD: list[list[object]] = [  # for each field of an entry, what it may not be
    ["", "a\0b", "../x", 5, None, "x" * 5000],
    ["device", 1, None, []],
    [-1, 1.5, True, "3", 1 << 63],
    ["now", None, [], True],
    [-1, 1 << 20, True, None],
]


def entry_reply(position: int, value: object) -> bytes:
    """A plausible answer with one field of the entry replaced."""
    entry: list[object] = list(GOOD)
    entry[position] = value
    return pack_json({"type": "entry", "entry": entry, "length": 3})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\x00",
        pack(Kind.JSON, b"{"),
        pack(Kind.JSON, b"[]"),
        pack(Kind.JSON, b"[" * 100_000),
        pack(Kind.STDOUT, b"x"),
        END,
        pack(Kind.DATA, b"x"),
        b"\xff" * 5,
        HEADER.pack(Kind.JSON, 60 << 20),
        pack_json({}),
        pack_json({"type": ["done"]}),
        pack_json({"type": "pong"}),
        pack_json({"type": "error", "code": ["x"], "detail": {}}),
        pack_json({"type": "error", "code": "unauthorized", "detail": "log in"}),
    ],
)
async def test_nonsense_from_the_guest_is_sandbox_failed(call: str, reply: bytes) -> None:
    """Whatever a hostile guest answers, every call ends promptly as SandboxFailed."""
    sandbox = LyingSandbox(reply)
    async with asyncio.timeout(PROMPT):
        with pytest.raises(SandboxFailed):
            await CALLS[call](Files(sandbox))  # type: ignore[arg-type]
    sandbox.close()


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        *[("stat", entry_reply(at, value)) for at, values in enumerate(ODD) for value in values],
        ("read", pack_json({"type": "entry", "entry": GOOD, "length": 4}) + pack(Kind.DATA, b"1234") + END),
        ("read", pack_json({"type": "entry", "entry": GOOD, "length": 3}) + pack(Kind.DATA, b"1234") + END),
        ("read", pack_json({"type": "entry", "entry": GOOD, "length": 3}) + pack(Kind.DATA, b"12") + END),
        ("list", pack_json({"type": "entries", "entries": []})),
        ("list", pack_json({"type": "entries", "entries": [GOOD] * 1000}) * 51),
        ("changed", pack_json({"type": "changed", "files": [["f", 1]] * 3})),
        ("changed", pack_json({"type": "changed", "files": [["/f", 1]]})),
        ("changed", pack_json({"type": "changed", "files": [["f"]]})),
        ("collect", pack_json({"type": "file", "path": "/etc/x", "size": 0}) + END),
        ("collect", pack_json({"type": "file", "path": "a", "size": 11}) + END),
        ("collect", (pack_json({"type": "file", "path": "a", "size": 0}) + END) * 3),
        ("collect", pack_json({"type": "omitted", "files": [["a", 1, "because"]]})),
        ("collect", pack_json({"type": "omitted", "files": [["a", 1, "too_many"]] * 1001})),
    ],
)
async def test_answers_that_break_their_bounds(call: str, reply: bytes) -> None:
    """Every field from the guest is checked: types, ranges, counts, and paths that lead out."""
    sandbox = LyingSandbox(reply + pack_json({"type": "done"}))
    async with asyncio.timeout(PROMPT):
        with pytest.raises(SandboxFailed, match="no sense"):
            await CALLS[call](Files(sandbox))  # type: ignore[arg-type]
    sandbox.close()


@pytest.mark.parametrize("call", CALLS)
async def test_a_silent_guest_is_given_up(call: str) -> None:
    """A guest that never answers ends every call after the idle time, as SandboxFailed."""
    sandbox = LyingSandbox(b"", stay=True)
    async with asyncio.timeout(PROMPT):
        with pytest.raises(SandboxFailed, match="does not answer"):
            await CALLS[call](Files(sandbox, idle=0.2))  # type: ignore[arg-type]
    sandbox.close()


async def test_a_guest_that_takes_nothing_is_given_up() -> None:
    """An upload to a guest that stops reading ends after the idle time; memory stays bounded."""
    sandbox = LyingSandbox(b"", stay=True)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    with pytest.raises(SandboxFailed, match="does not answer"):
        async with asyncio.timeout(PROMPT):
            await Files(sandbox, idle=0.3).write("f", endless())  # type: ignore[arg-type]
    sandbox.close()


@pytest.mark.parametrize(
    ("told", "shown"),
    [(1e300, 253402300799.0), (10**400, 253402300799.0), (-(10**400), 0.0), (float("nan"), 0.0), (12, 12.0)],
)
async def test_odd_times_and_names_are_made_harmless(told: float, shown: float) -> None:
    """A file time beyond any calendar is brought back; lone surrogates in a name become U+FFFD."""
    sandbox = LyingSandbox(pack_json({"type": "entry", "entry": ["a\udc80", "file", 3, told, 0o644]}))
    got = await Files(sandbox).stat("f")  # type: ignore[arg-type]
    assert got == Entry(path="a\ufffd", type="file", size=3, modified_at=shown, mode=0o644)
    sandbox.close()


async def test_many_at_once(guest: Guest) -> None:
    """Forty calls at the same time are forty connections, none waiting for another."""
    async with asyncio.timeout(60):
        await asyncio.gather(*[guest.files.write(f"f{n}", chunks(bytes(100_000))) for n in range(40)])
        bodies = await asyncio.gather(*[read(guest.files, f"f{n}") for n in range(40)])
    assert {len(body) for body in bodies} == {100_000}


async def test_move_across_file_systems(guest: Guest) -> None:
    """A file moves to another file system as well; a directory does not, and says so."""
    other = tempfile.mkdtemp(prefix="cc-files-", dir="/var/tmp")
    os.chmod(other, 0o777)
    try:
        await guest.files.put([("f", b"1"), ("d/f", b"1")])
        await guest.files.move("f", f"{other}/f")
        assert await read(guest.files, f"{other}/f") == b"1"
        with pytest.raises(InvalidPath):
            await guest.files.move("d", f"{other}/d")
        assert [e.path for e in await guest.files.list()] == ["d"]
    finally:
        shutil.rmtree(other)
