"""What the programs beside this file share. They run where one framework is installed, and pytest is not."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent_client.client import ExecutorClient

DEADLINE = 30.0
MADE = "open('out.txt', 'w').write('made'); print(6 * 7)"
FOREVER = "x = 41\nopen('begun', 'w').close()\nwhile True:\n    pass"  # and the state that must outlive it
NOISE = "print('x' * 10_000_000, end='')\nprint('the end')"


def main(cases: dict[str, Any]) -> None:
    """Run the functions called `case_*`, each in a directory of its own; report one JSON line each."""
    failed = False
    for name, function in cases.items():
        if not name.startswith("case_") or not inspect.isfunction(function):
            continue
        begun, problem = time.monotonic(), None
        try:
            with tempfile.TemporaryDirectory() as directory:
                os.chdir(directory)
                function(Path(directory))
                os.chdir("/")
            assert not sessions(), f"sessions are left: {sessions()}"
        except BaseException:  # noqa: BLE001 - whatever it is, it is this case's
            problem = traceback.format_exc()
            with ExecutorClient() as client:
                for session in list(client.iter_sessions()):
                    client.close_session(session.id)
        failed = failed or problem is not None
        report = {"case": name, "problem": problem, "seconds": round(time.monotonic() - begun, 2)}
        print(f"\nREPORT {json.dumps(report)}", flush=True)
    sys.exit(1 if failed else 0)


def sessions() -> list[str]:
    """The ids of the open sessions."""
    with ExecutorClient() as client:
        return [session.id for session in client.iter_sessions()]


def wait_until_begun() -> None:
    """Return once the code of `FOREVER` runs."""
    deadline = time.monotonic() + DEADLINE
    with ExecutorClient() as client:
        while time.monotonic() < deadline:
            for session in sessions():
                if any(entry.path == "begun" for entry in client.get_session(session).files.list()):
                    return
            time.sleep(0.05)
    raise AssertionError("the code did not begin")


@contextlib.contextmanager
def when_begun(act: Callable[[], object]) -> Iterator[None]:
    """Meanwhile, call `act` from another thread as soon as the code of `FOREVER` runs."""

    def watch() -> None:
        wait_until_begun()
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join(DEADLINE)


def error_of(kind: type[BaseException], act: Callable[[], object]) -> str:
    """The text of the error that `act` must raise."""
    try:
        act()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")


def snippets(title: str, language: str) -> list[str]:
    """What docs/integrations.md shows in that language below `title`."""
    page = Path(__file__).parents[3].joinpath("docs", "integrations.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, title
    return found


def guide(title: str, **names: object) -> str:
    """Run the Python that is shown below `title`, with these names; what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for snippet in snippets(title, "python"):
            exec(compile(snippet, title, "exec"), names)
    return printed.getvalue()


def press_ctrl_c() -> None:
    """As the terminal does it."""
    os.kill(os.getpid(), signal.SIGINT)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """What is inside must be done in far less time than the code's own limit."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < DEADLINE, "it took too long"


@contextlib.contextmanager
def scripted_model(*replies: str) -> Iterator[str]:
    """The base URL of a chat-completions endpoint that gives these replies in order, then TERMINATE."""
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            text = left.pop(0) if left else "TERMINATE"
            message = {"role": "assistant", "content": text}
            body = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "scripted",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
