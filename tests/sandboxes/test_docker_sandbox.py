"""What one sandbox of the Docker backend makes of the words that its guest leaves; needs no engine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest

from executor_service.guest.container import FAILED
from executor_service.sandboxes.docker_options import MEET
from executor_service.sandboxes.docker_sandbox import MAX_WORDS, DockerSandbox
from tests.fakes import SPEC


@pytest.mark.parametrize("more", ["", "  File deep\n" * MAX_WORDS])
def test_callers_get_the_last_line_and_the_log_the_rest(
    more: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However long a guest's traceback is."""
    nothing = cast("Any", None)
    sandbox = DockerSandbox(
        "sb_1", SPEC, nothing, directory=tmp_path, engine=nothing, guest_uid=1, on_closed=nothing
    )
    assert sandbox._failure() is None
    assert not caplog.records
    (tmp_path / MEET).mkdir()
    (tmp_path / MEET / FAILED).write_text(f"Traceback\n{more}  File last\nEOFError: it ended\n")
    assert sandbox._failure() == "the guest did not start: EOFError: it ended"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "File last\nEOFError" in caplog.text
