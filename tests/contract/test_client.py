"""The client against the real service: every method once. The fixture `service` gives (url, key)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client import AsyncExecutorClient, ExecutorClient, Session
from agent_client.errors import (
    AuthenticationFailed,
    FileMissing,
    InvalidRequest,
    LanguageNotFound,
    LimitTooHigh,
    NetworkNotAllowed,
    NotWaitingForInput,
    RunNotFound,
    SessionBusy,
    SessionClosed,
    SessionNotFound,
)
from agent_client.wire.events import Completed, Started, Stderr, Stdout, UnknownEvent

Service = tuple[str, str | None]


@pytest.fixture
def client(service: Service) -> Iterator[ExecutorClient]:
    """A client of the real service."""
    with ExecutorClient(*service) as made:
        yield made


@pytest.fixture
def session(client: ExecutorClient) -> Iterator[Session]:
    """A session there, closed at the end."""
    with client.create_session(metadata={"test": "contract"}) as made:
        yield made


def test_run(client: ExecutorClient) -> None:
    """A run takes input, arguments, environment and files, and gives files back."""
    code = (
        "import os, sys; print(input(), sys.argv[1:], os.environ['A'], open('d/in.txt').read());"
        "open('out.bin', 'wb').write(bytes(range(256))); sys.exit(3)"
    )
    result = client.run(
        code, stdin="hi", args=["x"], env={"A": "b"}, files={"d/in.txt": "file"}, collect=["*.bin"]
    )
    assert result.stdout == "hi ['x'] b file\n"
    assert (result.outcome, result.exit_code, result.exit_status) == ("error", 3, 3)
    assert [(f.path, f.content) for f in result.files] == [("out.bin", bytes(range(256)))]
    assert result.duration > 0


def test_run_ends(client: ExecutorClient) -> None:
    """How a run ends is an outcome, and an exit status."""
    slow = client.run("print('x', flush=True)\nwhile True: pass", limits={"wall_time": 1})
    assert (slow.outcome, slow.exit_status, slow.stdout) == ("timeout", 124, "x\n")
    killed = client.run("import os; os.kill(os.getpid(), 9)")
    assert (killed.outcome, killed.signal, killed.exit_status) == ("error", "SIGKILL", 137)
    much = client.run("print('x' * 10**7)", limits={"output_bytes": 1000})
    assert much.outcome == "output_limit"
    assert much.stdout_truncated


def test_stream_run(client: ExecutorClient) -> None:
    """Output streams while the program runs; the fold is the folded answer."""
    code = "import sys, time; print('a', flush=True); time.sleep(1); print('b', file=sys.stderr)"
    begun = time.monotonic()
    with client.stream_run(code) as stream:
        events = [(time.monotonic() - begun, event) for event in stream]
    kinds = [type(event) for _, event in events]
    assert kinds[0] is Started
    assert kinds[-1] is Completed
    assert UnknownEvent not in kinds
    first = next(at for at, event in events if isinstance(event, Stdout))
    last = next(at for at, event in events if isinstance(event, Stderr))
    assert last - first > 0.5
    assert (stream.result.stdout, stream.result.stderr, stream.result.outcome) == ("a\n", "b\n", "ok")


def test_detached_run(client: ExecutorClient) -> None:
    """A detached run goes on alone, can be followed and stopped, and is then known as done."""
    run = client.start_run("import time; print('a', flush=True); time.sleep(1); print('b')")
    assert run.get().outcome is None
    assert run.wait().stdout == "a\nb\n"
    assert client.detached_run(run.id).get().state == "done"
    endless = client.start_run("import time; time.sleep(500)")
    endless.stop()
    assert endless.wait().outcome == "interrupted" or endless.get().outcome is not None
    with pytest.raises(RunNotFound):
        client.detached_run("nope").get()


def test_session_state(session: Session) -> None:
    """State is kept between executions; the last expression is the result."""
    assert session.execute("x = 40").ok
    result = session.execute("x + 2")
    assert (result.text, result.outcome) == ("42", "ok")
    failed = session.execute("print('p'); 1/0")
    assert (failed.outcome, failed.exit_status, failed.stdout) == ("error", 1, "p\n")
    assert failed.error is not None
    assert failed.error.name == "ZeroDivisionError"
    assert "\x1b" not in "".join(failed.error.traceback)
    slow = session.execute("while True: pass", limits={"wall_time": 1})
    assert (slow.outcome, slow.state_lost) == ("timeout", False)
    assert session.execute("x").text == "40"


def test_rich_results(session: Session) -> None:
    """Displays come as MIME maps and render themselves; streamed and folded agree."""
    code = "from IPython.display import HTML, display; display(HTML('<b>x</b>')); {'a': 1}"
    folded = session.execute(code)
    assert folded.displays[0].data["text/html"] == "<b>x</b>"
    assert "sandbox=" in folded._repr_html_()
    streamed = session.stream(code).wait()
    assert streamed.displays == folded.displays
    assert streamed.result == folded.result
    plot = session.execute("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()")
    assert any("image/png" in display.data for display in plot.displays)


def test_a_session_sees_its_processors(client: ExecutorClient) -> None:
    """Its kernel, what that starts, and its numeric libraries: also as many threads as processors."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this host has one processor")
    code = "import os\nprint(os.environ['OMP_NUM_THREADS'], os.cpu_count())\n!nproc"
    with client.create_session(limits={"cpus": 2}) as session:
        for _ in range(2):
            assert session.execute(code).stdout.split() == ["2", "2", "2"]
            session.restart()


def test_files_that_an_execution_made(session: Session) -> None:
    """An execution lists what it made, streamed as well."""
    assert "new.txt" in [f.path for f in session.execute("open('new.txt', 'w').write('1')").files]
    assert "two.txt" in [f.path for f in session.stream("open('two.txt', 'w').write('1')").wait().files]


def test_input(session: Session) -> None:
    """`input()` is answered by the caller; an answer nobody waits for is refused."""
    result = session.execute("print('hello ' + input('name? '))", on_input=lambda prompt: f"<{prompt}>")
    assert result.stdout == "hello <name? >\n"
    with pytest.raises(NotWaitingForInput):
        session.answer(result.id, "x")


def test_interrupt_restart_and_busy(session: Session) -> None:
    """A running execution makes the session busy, can be interrupted, and restart loses state."""
    session.execute("x = 1")
    running = session.start("import time; print('on', flush=True); time.sleep(300)")
    for event in running.stream():
        if isinstance(event, Stdout):
            break
    with pytest.raises(SessionBusy):
        session.execute("1")
    session.interrupt()
    assert running.wait().outcome == "interrupted"
    assert session.execute("x").text == "1"
    session.restart()
    assert session.execute("x").outcome == "error"
    assert session.executions()[0].outcome == "error"


def test_commands(session: Session) -> None:
    """Commands run beside the kernel, with input, and detached ones take input and signals."""
    assert session.command("echo $A | tr a-z A-Z", env={"A": "hi"}).stdout == "HI\n"
    assert session.command(["cat"], stdin=b"in").stdout == "in"
    assert session.stream_command("exit 4").wait().exit_status == 4
    cat = session.start_command(["cat"])
    cat.input("typed\n")
    cat.input(b"", close=True)
    assert cat.wait().stdout == "typed\n"
    sleeper = session.start_command("sleep 300")
    sleeper.signal("SIGTERM")
    assert sleeper.wait().exit_status == 143
    endless = session.start_command("sleep 300")
    endless.stop()
    assert endless.wait().outcome is not None
    assert len(session.commands()) >= 3


def test_files(session: Session, tmp_path: Path) -> None:
    """Files go in and out, by bytes, by stream and as an archive."""
    files = session.files
    files.write("d ir/ü.txt", "text")
    assert files.read_text("d ir/ü.txt") == "text"
    assert session.command(["cat", "d ir/ü.txt"]).stdout == "text"
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(range(256)) * 8192)
    files.upload(big)
    assert files.download("big.bin", tmp_path / "back.bin").read_bytes() == big.read_bytes()
    assert files.read("big.bin", max_bytes=3) == b"\x00\x01\x02"
    files.mkdir("new")
    files.move("big.bin", "new/big.bin")
    paths = {entry.path: entry.type for entry in files.list(recursive=True)}
    assert paths["new/big.bin"] == "file"
    assert paths["new"] == "directory"
    archive = files.archive("new")
    files.delete("new/big.bin")
    with pytest.raises(FileMissing):
        files.read("new/big.bin")
    files.mkdir("again")
    files.extract(archive, "again")
    assert any(e.path.endswith("big.bin") for e in files.list("again", recursive=True))
    assert b"root" in files.read("/etc/passwd")


def test_terminal(session: Session) -> None:
    """A terminal is a shell on a pseudo-terminal that tells how it ended."""
    with session.terminal(rows=30, cols=100) as terminal:
        terminal.resize(40, 120)
        terminal.write("stty size; exit 5\n")
        seen = b""
        while chunk := terminal.read():
            seen += chunk
        assert b"40 120" in seen
        assert terminal.exit is not None
        assert terminal.exit.exit_code == 5


def test_sessions_are_listed_and_closed(client: ExecutorClient) -> None:
    """Sessions are found by metadata, renewed, and gone when closed."""
    session = client.create_session(metadata={"find": "me"}, ttl=100)
    assert [s.id for s in client.iter_sessions(metadata={"find": "me"})] == [session.id]
    before = session.info.expires_at
    assert session.renew(1000).expires_at != before
    assert client.get_session(session.id).info.backend
    client.close_session(session.id)
    client.close_session(session.id)
    with pytest.raises(SessionClosed):
        session.execute("1")
    with pytest.raises(SessionNotFound):
        client.get_session("nope")


def test_about(client: ExecutorClient) -> None:
    """Languages, images and info are there."""
    python = next(language for language in client.languages() if language.name == "python")
    assert python.stateful
    assert "python" in [image.name for image in client.images()]
    assert client.info().backend
    assert client.ready()


def test_refusals(client: ExecutorClient, service: Service) -> None:
    """What the caller did wrong is a typed error that names it."""
    with pytest.raises(LanguageNotFound):
        client.run("x", language="no such language")
    with pytest.raises(LimitTooHigh):
        client.run("x", limits={"wall_time": 10**6})
    with pytest.raises(InvalidRequest) as caught:
        client.run("x", limits={"wall_time": -1})
    assert caught.value.errors
    with pytest.raises(NetworkNotAllowed):
        client.run("x", network=True)
    if service[1]:
        with ExecutorClient(service[0], "wrong") as stranger, pytest.raises(AuthenticationFailed):
            stranger.run("x")


async def test_leaving_stops_the_work(service: Service) -> None:
    """Closing a stream stops what ran, and the session works on."""
    async with AsyncExecutorClient(*service) as client, client.create_session() as session:
        async with session.stream("import time; print('on', flush=True); time.sleep(300)") as stream:
            async for event in stream:
                if isinstance(event, Stdout):
                    break
        deadline = time.monotonic() + 30
        while True:
            try:
                assert (await session.execute("1")).ok
                break
            except SessionBusy:
                assert time.monotonic() < deadline


def test_the_status_of_an_execution(client: ExecutorClient) -> None:
    """`sys.exit` in a kernel and a shell's exit are known by their codes."""
    with client.create_session() as session:
        for code, status in (
            ("import sys; sys.exit(3)", 3),
            ("import sys; sys.exit()", 0),
            ("raise SystemExit('no')", 1),
            ("1/0", 1),
        ):
            assert session.execute(code).exit_status == status
            assert session.stream(code).wait().exit_status == status
        assert session.execute("exit 3", language="bash").exit_status == 3
        assert session.execute("kill -9 $$", language="bash").exit_status == 137


def test_an_address_with_the_version(service: Service) -> None:
    """The API's own address is understood as the service's."""
    with ExecutorClient(service[0] + "/v1", service[1]) as client:
        assert client.ready()
        assert client.languages()
