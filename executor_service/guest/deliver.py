"""What a program finds when it starts: its limits, and its text in the workspace."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import time
from typing import Any


def set_limits(limits: dict[str, Any]) -> None:
    """Open files and CPU seconds of this process; no core dumps."""
    files = int(limits["open_files"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.get("cpu_time"):
        # The kernel counts what this process used before it became the program, too.
        seconds = max(1, math.ceil(limits["cpu_time"] + time.process_time()))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def write_source(workspace: str, source: dict[str, Any] | None) -> None:
    """Write the program's text below `workspace`, replacing whatever stands at its path; no link is followed.

    Raises:
        OSError: a parent is a link or a file, a directory stands at the path, or no space is left.
    """
    if not source or source.get("text") is None:
        return
    *parents, name = (part for part in str(source["path"]).split("/") if part not in ("", "."))
    if ".." in (*parents, name):
        raise OSError(errno.EINVAL, "a path outside of the workspace", source["path"])
    directory = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, dir_fd=directory)
            below = os.open(
                parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
            )
            os.close(directory)
            directory = below
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o644, dir_fd=directory), "wb") as file:
            file.write(str(source["text"]).encode("utf-8", "surrogatepass"))
    finally:
        os.close(directory)
