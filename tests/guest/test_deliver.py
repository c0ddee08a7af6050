"""How a program's text gets into a workspace that hostile code may have prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from executor_service.guest.deliver import write_source


def test_a_text_replaces_what_stands_at_its_path(tmp_path: Path) -> None:
    """A link is replaced, not followed; parents are made; without a text nothing is written."""
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    workspace.mkdir()
    outside.write_text("precious")
    (workspace / "main.py").symlink_to(outside)
    write_source(str(workspace), {"path": "main.py", "text": "\ud800 1"})
    write_source(str(workspace), {"path": "a/b.py", "text": "2"})
    write_source(str(workspace), {"path": "a/b.py"})
    write_source(str(workspace), None)
    assert outside.read_text() == "precious"
    assert (workspace / "main.py").read_bytes() == b"\xed\xa0\x80 1"
    assert (workspace / "a/b.py").read_text() == "2"


@pytest.mark.parametrize("path", ["link/main.py", "../main.py", "a/../../main.py", "directory"])
def test_no_text_gets_out_of_the_workspace(tmp_path: Path, path: str) -> None:
    """A parent that is a link, or a way up, is refused; so is a directory at the path."""
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    (workspace / "directory").mkdir(parents=True)
    outside.mkdir()
    (workspace / "link").symlink_to(outside)
    with pytest.raises(OSError, match=r"main|link|directory|workspace"):
        write_source(str(workspace), {"path": path, "text": "x"})
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "main.py").exists()
