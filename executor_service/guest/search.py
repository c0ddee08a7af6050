"""Finding files that a program made: `collect` (by globs, with content) and `changed` (since when).

Both walk the workspace within a budget of entries and seconds, follow no link, and look again at
what they open: it may have been swapped since it was found.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

from executor_service.guest import protocol
from executor_service.guest.fspaths import PART_PREFIX, Refusal, open_file, show
from executor_service.guest.fswire import natural, send_batches, send_content
from executor_service.guest.globs import Globs, State
from executor_service.guest.protocol import CHUNK
from executor_service.guest.walk import Budget, Found, walk

HOUSEKEEPING = frozenset({".local", ".cache", ".ipython", ".config", ".jupyter", ".npm"})
_MAX_SEEN = 200_000  # entries that a search may visit


def collect(conn: socket.socket, call: dict[str, Any], root: str) -> None:
    """Send the regular files that the globs match, and what was left out with the reason."""
    globs = call.get("globs")
    if not isinstance(globs, list):
        raise Refusal("invalid_request", "'globs' must be a list")
    max_files, left = natural(call, "max_files", 100) or 0, natural(call, "max_bytes", 10 << 20) or 0
    budget = Budget(entries=_MAX_SEEN, seconds=10)
    wanted, omitted, sent = Globs(globs), list[list[Any]](), 0
    try:
        matching = sorted(_matching(root, wanted, budget), key=lambda f: f.path)
    except OSError:  # the program made its workspace unreadable: its result is still the result
        matching, omitted = [], [[".", 0, "unreadable"]]
    for found in matching:
        path, size = show(found.path), found.status.st_size
        content: bytes | str = "too_many" if sent >= max_files else _content(root, found, left)
        if isinstance(content, str):
            omitted.append([path, size, content])
            continue
        protocol.send_json(conn, {"type": "file", "path": path, "size": len(content)})
        send_content(conn, content)
        sent, left = sent + 1, left - len(content)
    if budget.partial:
        omitted = [*omitted[:999], [".", 0, "not_searched"]]
    send_batches(conn, "omitted", "files", omitted[:1000])
    protocol.send_json(conn, {"type": "done"})


def _matching(root: str, globs: Globs, budget: Budget) -> Iterator[Found]:
    """What the globs match, directories excepted."""
    states: dict[str, State] = {"": globs.start}

    def state_of(path: str) -> State:
        directory, name = os.path.split(path)
        return globs.step(states[directory], name)

    def enter(path: str) -> bool:
        state = state_of(path)
        if state:
            states[path] = state
        return bool(state)

    for found in walk(root, budget, enter):
        if not found.is_directory and globs.accepts(state_of(found.path)):
            yield found


def _content(root: str, found: Found, left: int) -> bytes | str:
    """The file's content, or why it is left out. It may have been swapped since it was found."""
    if not found.is_file:
        return "not_a_file"
    if found.status.st_size > left:
        return "too_large"
    try:
        fd = open_file(os.path.join(root, found.path), os.O_NOFOLLOW)
    except (Refusal, OSError):
        return "unreadable"
    content = bytearray()
    try:
        while chunk := os.read(fd, min(CHUNK, left + 1 - len(content))):
            content += chunk
    except OSError:
        return "unreadable"
    finally:
        os.close(fd)
    return bytes(content) if len(content) <= left else "too_large"


def changed(conn: socket.socket, call: dict[str, Any], root: str) -> None:
    """Send the regular files whose status changed since an instant."""
    since, limit = natural(call, "since_ns", 0) or 0, min(natural(call, "limit", 1000) or 0, 10_000)
    budget = Budget(entries=_MAX_SEEN, seconds=3)
    files: list[list[Any]] = []
    try:
        for found in walk(root, budget, _no_housekeeping):
            if not found.is_file or found.status.st_ctime_ns < since or PART_PREFIX in found.path:
                continue
            if len(files) == limit:
                budget.partial = True
                break
            files.append([show(found.path), found.status.st_size])
    except OSError:  # the workspace was made unreadable: not known what changed, and no failure of ours
        budget.partial = True
    send_batches(conn, "changed", "files", sorted(files))
    protocol.send_json(conn, {"type": "done", "truncated": budget.partial})


def _no_housekeeping(path: str) -> bool:
    return path not in HOUSEKEEPING and os.path.basename(path) != "__pycache__"
