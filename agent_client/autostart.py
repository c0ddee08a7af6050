"""A service of our own, for programs that were given none: started at need, ended with the program.

It is `codecell-executor serve` as a child process on a free port of the loopback, with a random key
and a private state directory. Its stdin is a pipe from us and it is told to end when that closes,
so that it ends even if this process is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import http.client
import importlib.util
import json
import os
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

from agent_client.errors import AutostartFailed

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8700
DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
START_TIME = 900.0  # the first start builds the image
SAY_SO_AFTER = 3.0
STOP_TIME = 15.0
_LOOK_EVERY = 0.05
_LISTENING = re.compile(r"Listening on (http://\S+)\s")
_UNTIL = "--until-stdin-closes"
_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a service is, and the key that it wants."""

    url: str
    api_key: str | None = None


class OwnService:
    """A service child of this process. `start` blocks until it listens; `stop` ends it."""

    def __init__(self, *, say: Callable[[str], None] | None = None) -> None:
        self._say = say or _to_stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> Address:
        """Start it and wait until it listens.

        Raises:
            AutostartFailed: no service is installed, or it ended before it listened.
        """
        command = [*service_command(), "serve", "--port", "0"]
        key = secrets.token_urlsafe(24)
        self._directory = directory = Path(tempfile.mkdtemp(prefix="codecell-"))  # mode 0700
        try:
            key_file = directory / "key"
            key_file.touch(mode=0o600)
            # Its digest alone, so that a process that is killed leaves no key behind.
            key_file.write_text(f"sha256:{hashlib.sha256(key.encode()).hexdigest()}\n")
            command += ["--state-dir", str(directory / "state"), "--api-key-file", str(key_file)]
            url = self._listening([*command, _UNTIL], directory) or self._listening(command, directory)
        except BaseException:
            self.stop()
            raise
        assert url is not None
        return Address(url=url, api_key=key)

    def _listening(self, command: list[str], directory: Path) -> str | None:
        """Its address once it listens; None from an older service, which does not know `_UNTIL`."""
        log = directory / "service.log"
        with log.open("wb") as output:
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours to handle; we end it after closing our sessions
            )
        begun, said, words = time.monotonic(), False, ""
        while (waited := time.monotonic() - begun) < START_TIME:
            status = process.poll()  # before its words are read, so that these are its last
            words = log.read_text(errors="replace")
            if match := _LISTENING.search(words):
                return match[1].rstrip("/")
            if status == 2 and _UNTIL in command and _UNTIL in words:
                self._end_process()
                return None
            if status is not None:
                raise _failed(f"ended with status {status} before it listened", words)
            if waited > SAY_SO_AFTER and not said:
                self._say("Starting a Codecell service...")
                said = True
            time.sleep(_LOOK_EVERY)
        raise _failed(f"did not come up within {START_TIME:g} s", words)

    def stop(self) -> None:
        """End it and remove its directory. Stopping twice is fine."""
        self._end_process()
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Address:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_or_start(key: str | None) -> Address:
    """The service on 127.0.0.1:8700, else one of our own, shared by this process.

    Raises:
        AutostartFailed: none answers and none can be started.
    """
    if answers_as_codecell(DEFAULT_HOST, DEFAULT_PORT):
        return Address(url=DEFAULT_URL, api_key=key)
    with _LOCK:
        return _own_service(os.getpid())


@functools.cache
def _own_service(pid: int) -> Address:
    """The one service that this process (a forked child is another) has started for itself."""
    service = OwnService()
    found = service.start()
    atexit.register(lambda: service.stop() if os.getpid() == pid else None)  # never a fork's parent's
    return found


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


def _failed(how: str, words: str) -> AutostartFailed:
    tail = "\n".join(words.splitlines()[-15:])
    return AutostartFailed(
        f"The Codecell service {how}. Its last words:\n{tail}\n"
        "Try `codecell-executor doctor`, or use a service elsewhere with CODECELL_URL."
    )


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
