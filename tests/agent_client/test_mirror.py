"""Mirroring: all that a hostile sandbox can make us write is new files below the directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent_client.executors.mirror import RECORD, Mirror, Refused, once


async def save(mirror: Mirror, path: str, data: bytes = b"new") -> Path:
    """Save a file as if it came from a sandbox."""
    return await mirror.save(path, len(data), once(data))


def below(directory: Path) -> list[str]:
    """Everything below a directory, sorted."""
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*"))


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """A mirror with low bounds."""
    made = Mirror(tmp_path / "work", max_files=5, max_bytes=1000)
    made.open()
    return made


async def test_files_are_saved(mirror: Mirror) -> None:
    """A new file is written below the directory with mode 0644, and replaced when it changes."""
    old = os.umask(0o077)
    try:
        path = await save(mirror, "a/b/plot.png")
    finally:
        os.umask(old)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    await save(mirror, "a/b/plot.png", b"newer")
    assert path.read_bytes() == b"newer"
    assert sorted(p.name for p in path.parent.iterdir()) == ["plot.png"]


@pytest.mark.parametrize(
    "path",
    [
        "../x", "a/../../x", "/etc/x", "a//b", "a/./b", "", ".", "..", "a/", ".bashrc", ".env",
        "a/.env.local", ".envrc", ".git/config", "a/.ssh/authorized_keys", ".git/hooks/pre-commit",
        "~/x", "~root", "a\\b", "a\x00b", "a\nb",
        "a\x1b[2Jb", "a\u202egnp.exe", "a\u2028b", "a\ud800b", "x" * 256, "ü" * 200, RECORD,
        "/".join(["d"] * 20),
    ],
)  # fmt: skip
async def test_hostile_names(mirror: Mirror, tmp_path: Path, path: str) -> None:
    """Names that leave the directory, hide, or deceive are refused, and nothing is written."""
    with pytest.raises(Refused):
        await save(mirror, path)
    assert below(tmp_path) == ["work"]


@pytest.mark.parametrize(
    "path",
    [
        "conftest.py", "tests/conftest.py", "CONFTEST.PY", "\uff43onftest.py",
        "sitecustomize.py", "usercustomize.py", "lib/evil.pth", "python311._pth", "pytest.ini", "evil.pyc",
        "__pycache__/json.cpython-311.pyc", "__pycache__/x", "sitecustomize.py/x", "ipython_config.py",
        "ipython_kernel_config.py", "jupyter_server_config.py", "jupyter_notebook_config.json",
    ],
)  # fmt: skip
async def test_what_tools_load_unasked(mirror: Mirror, tmp_path: Path, path: str) -> None:
    """A file that Python, pytest or Jupyter run or load because it lies there is refused, however written."""
    with pytest.raises(Refused, match="without being asked"):
        await save(mirror, path)
    assert below(tmp_path) == ["work"]


async def test_names_that_are_merely_like_those(mirror: Mirror) -> None:
    """Other programs are saved."""
    for path in ("my_conftest.py", "config.py", "conftest.py.txt", "pth"):
        assert (await save(mirror, path)).exists()


async def test_no_link_is_followed(mirror: Mirror, tmp_path: Path) -> None:
    """Symlinks in the directory, to files or directories, are never written through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("safe")
    (mirror.directory / "dir").symlink_to(outside)
    (mirror.directory / "file").symlink_to(victim)
    (mirror.directory / "dangling").symlink_to(outside / "new")
    for path in ("dir/x", "dir/victim", "file", "dangling"):
        with pytest.raises(Refused):
            await save(mirror, path)
    assert [p.name for p in outside.iterdir()] == ["victim"]
    assert victim.read_text() == "safe"


async def test_the_users_files_are_left_alone(mirror: Mirror) -> None:
    """A file of the user's is never overwritten, nor one of ours that the user changed."""
    (mirror.directory / "mine.txt").write_text("mine")
    with pytest.raises(Refused, match="did not write"):
        await save(mirror, "mine.txt")
    ours = await save(mirror, "ours.txt")
    ours.write_text("edited by the user")
    with pytest.raises(Refused, match="changed since"):
        await save(mirror, "ours.txt")
    (mirror.directory / "fifo").mkdir()
    with pytest.raises(Refused):
        await save(mirror, "fifo")
    assert (mirror.directory / "mine.txt").read_text() == "mine"


async def test_the_next_program_knows_the_last_ones_files(mirror: Mirror) -> None:
    """A file of an earlier program is replaced by a later one."""
    path = await save(mirror, "plot.png", b"first")
    later = Mirror(mirror.directory)
    later.open()
    await save(later, "plot.png", b"second")
    assert path.read_bytes() == b"second"


async def test_bounds(tmp_path: Path) -> None:
    """Count and bytes are bounded, also where the sandbox lies about a size."""
    mirror = Mirror(tmp_path, max_files=2, max_bytes=100)
    mirror.open()
    with pytest.raises(Refused, match="bytes"):
        await mirror.save("big", 1000, once(b"x" * 1000))
    with pytest.raises(Refused, match="bytes"):
        await mirror.save("liar", 1, once(b"x" * 1000))
    await save(mirror, "a")
    await save(mirror, "b")
    with pytest.raises(Refused, match="files"):
        await save(mirror, "c")
    assert below(tmp_path) == [RECORD, "a", "b"]


async def test_a_bad_record_is_no_trouble(tmp_path: Path) -> None:
    """A record that is broken, or a symlink, is ignored and never written through."""
    (tmp_path / RECORD).write_text("{")
    Mirror(tmp_path).open()
    (tmp_path / RECORD).unlink()
    victim = tmp_path / "victim"
    victim.write_text("safe")
    (tmp_path / RECORD).symlink_to(victim)
    mirror = Mirror(tmp_path)
    mirror.open()
    await save(mirror, "x")
    assert victim.read_text() == "safe"


def test_what_is_uploaded(tmp_path: Path) -> None:
    """Regular files go in; dotfiles, links and special files stay; count and bytes are bounded."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "data.csv").write_text("a,b")
    (tmp_path / ".env").write_text("SECRET=1")
    (tmp_path / "conftest.py").write_text("mine")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    files, notes = Mirror(tmp_path).local_files()
    assert [f.path for f in files] == ["conftest.py", "d/data.csv"]
    assert notes == []
    (tmp_path / "c").write_text("x" * 50)
    files, notes = Mirror(tmp_path, max_bytes=20).local_files()
    assert [f.path for f in files] == []
    assert len(notes) == 1
