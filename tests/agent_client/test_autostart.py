"""A service of our own: found, started, ended with the program; and what is said where that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent_client import autostart
from agent_client.autostart import AutostartFailed, OwnService, answers_as_codecell

SERVICE = """
    import http.server, os, sys
    arguments = sys.argv[1:]
    if "--old" in arguments and "--until-stdin-closes" in arguments:
        sys.exit(print("error: unrecognized arguments: --until-stdin-closes", file=sys.stderr) or 2)
    if "--broken" in arguments:
        sys.exit("this kernel refuses namespaces")
    key = open(arguments[arguments.index("--api-key-file") + 1]).read().strip()
    assert "serve" in arguments and key and key not in arguments
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.send_header("X-Request-Id", "1"); self.end_headers()
            self.wfile.write(b"{}")
        def log_message(self, *a): pass
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    print("warming up", flush=True)
    print(f"Listening on http://127.0.0.1:{server.server_port}", flush=True)
    import threading
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if "--until-stdin-closes" in arguments:
        sys.stdin.read()
    else:
        threading.Event().wait()
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a stand-in service, which options may be added to."""
    program = tmp_path / "service.py"
    program.write_text(textwrap.dedent(SERVICE))
    command = [sys.executable, str(program)]
    monkeypatch.setattr(autostart, "service_command", lambda: command)
    return command


def test_it_starts_and_stops(service: list[str]) -> None:
    """It listens on a free port with a key, and stopping ends it and removes its directory."""
    own = OwnService()
    with own as found:
        port = int(found.url.rsplit(":", 1)[1])
        assert answers_as_codecell("127.0.0.1", port)
        assert found.api_key
        assert own.pid is not None
        directory = own._directory
        assert directory is not None
        assert directory.stat().st_mode & 0o077 == 0
        assert found.api_key not in (directory / "key").read_text()
    assert not answers_as_codecell("127.0.0.1", port)
    assert not directory.exists()


def test_an_older_service(service: list[str]) -> None:
    """A service that does not know the option is started without it."""
    service.append("--old")
    with OwnService() as found:
        assert found.url.startswith("http://127.0.0.1:")


def test_a_service_that_fails(service: list[str]) -> None:
    """What the service said last is told, with what to try."""
    service.append("--broken")
    with pytest.raises(AutostartFailed, match=r"(?s)refuses namespaces.*doctor"):
        OwnService().start()


def test_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no service is installed, one error says the ways to get one."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(AutostartFailed, match=r"codecell\[service\].*CODECELL_URL"):
        autostart.service_command()


def test_it_ends_with_the_program(service: list[str], tmp_path: Path) -> None:
    """A program that is killed outright takes its service with it; so does one that just ends."""
    program = f"""
        import os, sys
        from agent_client import autostart
        autostart.service_command = lambda: {service!r}
        autostart.answers_as_codecell = lambda *a: False
        print(autostart.find_or_start(None).url, flush=True)
        assert autostart.find_or_start(None) is autostart.find_or_start(None)
        if sys.argv[1] == "kill":
            os.kill(os.getpid(), 9)
    """
    root = Path(autostart.__file__).parents[1]
    for how in ("kill", "end"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), how],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        port = int(done.stdout.strip().rsplit(":", 1)[1])
        deadline = time.monotonic() + 20
        while answers_as_codecell("127.0.0.1", port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
