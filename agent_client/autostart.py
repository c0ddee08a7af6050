"""A service of our own, for programs that were given none: started at need, ended with the program.

It is `codecell-executor serve` as a child process on a free port of the loopback, with a random key
and a private state directory. Its stdin is a pipe from us and it is told to end when that closes,
so that it ends even if this process is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent_client.errors import AutostartFailed

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8700
START_TIME = 900.0  # the first start builds the image
SAY_SO_AFTER = 3.0
STOP_TIME = 15.0
_LISTENING = re.compile(r"Listening on (http://\S+)")
_UNTIL = "--until-stdin-closes"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A running service's address and key."""

    url: str
    api_key: str | None


class OwnService:
    """A service child of this process. `start` blocks until it listens; `stop` ends it."""

    def __init__(self, *, say: Callable[[str], None] | None = None) -> None:
        self._say = say or (_to_stderr)
        self._key = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[str] | None = None
        self._directory: Path | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> Found:
        """Start it and wait until it listens.

        Raises:
            AutostartFailed: no service is installed, or it ended before it listened.
        """
        command = service_command()
        self._directory = Path(tempfile.mkdtemp(prefix="codecell-"))  # mode 0700
        try:
            return self._start(command, [_UNTIL])
        except _OptionUnknown:
            self._end_process()
            return self._start(command, [])
        except BaseException:
            self.stop()
            raise

    def _start(self, command: list[str], extra: list[str]) -> Found:
        assert self._directory is not None
        key_file = self._directory / "key"
        key_file.touch(mode=0o600)
        # Its digest alone, so that a process that is killed leaves no key behind.
        key_file.write_text(f"sha256:{hashlib.sha256(self._key.encode()).hexdigest()}\n")
        log = self._directory / "service.log"
        arguments = [
            "--port",
            "0",
            "--state-dir",
            str(self._directory / "state"),
            "--api-key-file",
            str(key_file),
        ]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, "serve", *arguments, *extra],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is ours to handle; we end it after closing our sessions
            )
        url = self._wait_until_listening(log)
        return Found(url=url, api_key=self._key)

    def _wait_until_listening(self, log: Path) -> str:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        begun, said = time.monotonic(), False
        while time.monotonic() - begun < START_TIME:
            try:
                line = lines.get(timeout=SAY_SO_AFTER)
            except queue.Empty:
                if not said:
                    self._say("Starting a Codecell service...")
                    said = True
                continue
            if line is None:
                raise _failure(process.wait(), log)
            match = _LISTENING.search(line)
            if match:
                return match[1].rstrip("/")
        raise AutostartFailed(f"The Codecell service did not come up within {START_TIME:g} s.\n{_tail(log)}")

    def stop(self) -> None:
        """End it and remove its directory. Stopping twice is fine."""
        self._end_process()
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            process.terminate()
            try:
                process.wait(STOP_TIME)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> Found:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class _Shared:
    """The one service that this process has started for itself, if any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._found: Found | None = None

    def get(self) -> Found:
        with self._lock:
            if self._found is None or self._pid != os.getpid():
                service = OwnService()
                self._found, self._pid = service.start(), os.getpid()
                atexit.register(_stop_in, self._pid, service)
            return self._found


_SHARED = _Shared()


def find_or_start(key: str | None) -> Found:
    """The service on 127.0.0.1:8700, else one of our own, shared by this process.

    Raises:
        AutostartFailed: none answers and none can be started.
    """
    if answers_as_codecell(DEFAULT_HOST, DEFAULT_PORT):
        return Found(url=f"http://{DEFAULT_HOST}:{DEFAULT_PORT}", api_key=key)
    return _SHARED.get()


def answers_as_codecell(host: str, port: int) -> bool:
    """Whether a Codecell service answers `GET /healthz` there."""
    connection = http.client.HTTPConnection(host, port, timeout=2.0)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        body = response.read(65536)
        if response.status != 200 or "X-Request-Id" not in response.headers:
            return False
        return isinstance(json.loads(body or b"{}"), dict)
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()


def service_command() -> list[str]:
    """How to call the service's command line here.

    Raises:
        AutostartFailed: it is not installed.
    """
    if importlib.util.find_spec("executor_service") and importlib.util.find_spec("uvicorn"):
        return [sys.executable, "-m", "executor_service"]
    found = shutil.which("codecell-executor")
    if found:
        return [found]
    raise AutostartFailed(
        "No Codecell service is running and none is installed here. Either install it"
        " (pip install 'codecell[service]'), start one elsewhere (codecell-executor serve), or say where one"
        " is: CODECELL_URL=http://HOST:8700, with CODECELL_API_KEY if it has keys."
    )


class _OptionUnknown(Exception):
    """An older service, which does not know the option."""


def _failure(status: int, log: Path) -> Exception:
    tail = _tail(log)
    if status == 2 and _UNTIL in tail:
        return _OptionUnknown()
    return AutostartFailed(
        f"The Codecell service ended with status {status} before it listened. Its last words:\n{tail}\n"
        "Try `codecell-executor doctor`, or use a service elsewhere with CODECELL_URL."
    )


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    except OSError:
        return ""


def _pump(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Read the child's stdout to its end, so that it never blocks on a full pipe."""
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            lines.put(line)
    lines.put(None)


def _stop_in(pid: int, service: OwnService) -> None:
    if os.getpid() == pid:  # a forked child must not stop its parent's service
        service.stop()
