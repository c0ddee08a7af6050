"""What several hostile tests need: to follow a stream, and to look at the sandboxes from the host."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

PROMPT = 30.0  # seconds in which something that takes one must have happened, on a busy machine


class Stream:
    """Server-sent events of one operation, one by one."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.iter_lines()
        self.comments = 0

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        name = ""
        for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))

    def until(self, text: str) -> None:
        """Read until standard output has had `text`."""
        seen = ""
        for name, data in self:
            if name == "stdout":
                seen += data["text"]
            if text in seen:
                return
            assert name != "completed", f"it ended first: {data}"
        raise AssertionError(f"the stream ended without {text!r}")

    def end(self) -> dict[str, Any]:
        """Read to the end; what `completed` says."""
        *_, (name, data) = self
        assert name == "completed", name
        return data


@contextlib.contextmanager
def stream(http: httpx2.Client, path: str, body: dict[str, Any]) -> Iterator[Stream]:
    """Start an operation and follow it; leaving hangs up."""
    with http.stream("POST", path, json=body, headers={"accept": "text/event-stream"}) as response:
        assert response.status_code == 200, response.read()
        yield Stream(response)


def marker() -> str:
    """A number of seconds to sleep that no other process on this host has among its arguments."""
    return f"9{secrets.randbelow(10**8):08}"


def processes_with(word: str) -> list[int]:
    """Processes of the host, those in sandboxes included, that have `word` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object], what: str, seconds: float = PROMPT) -> None:
    """Wait for a condition; fail with `what` if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come in {seconds:g} s: {what}"
        time.sleep(0.02)


def kill_sandbox_of(pid: int) -> None:
    """Kill the first process of the sandbox in which `pid` runs below process 1."""
    while _inner_pids(pid)[-1] != 1:
        pid = int(_status(pid, "PPid"))
    assert len(_inner_pids(pid)) > 1, "this is the host's own first process"
    os.kill(pid, signal.SIGKILL)


def _inner_pids(pid: int) -> list[int]:
    return [int(number) for number in _status(pid, "NSpid").split()]


def _status(pid: int, key: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return line.partition(":")[2].strip()
    raise KeyError(key)
