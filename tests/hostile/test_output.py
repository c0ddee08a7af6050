"""Hostile programs, cases 35 to 44: output and input."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest
from hostile.watching import PROMPT, stream

from executor_service.guest.protocol import Kind, pack, pack_json

pytestmark = pytest.mark.hostile

MiB = 1 << 20


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_35_infinite_output(attack, name):
    """Endless output is cut at its limit: a program is killed, a kernel interrupted with its state kept."""
    code = f"import sys\nwhile True: sys.{name}.write('x' * 1000)"
    other = {"stdout": "stderr", "stderr": "stdout"}[name]
    session = attack.session()
    session.execute("kept = 7")
    limits = {"output_bytes": 100_000, "wall_time": 60}
    for ran in (
        attack.run(code, limits=limits),
        session.command("python3 -", stdin=code, limits=limits),
        session.execute(code, limits=limits),
    ):
        assert ran["outcome"] == "output_limit"
        assert ran[name] == "x" * 100_000
        assert (ran[f"{name}_truncated"], ran[f"{other}_truncated"]) == (True, False)
        assert ran["duration"] < PROMPT
    assert session.execute("kept")["result"]["text/plain"] == "7"


TWO_STREAMS = """
import sys
for _ in range(2000):
    sys.stdout.write('o' * 1000)
    sys.stderr.write('e' * 1000)
"""


def test_36_both_pipes_full(attack):
    """Megabytes on both streams at once neither deadlock nor get lost."""
    limits = {"output_bytes": 4 * MiB}
    for ran in (attack.run(TWO_STREAMS, limits=limits), attack.session().execute(TWO_STREAMS, limits=limits)):
        assert (ran["outcome"], ran["stdout"], ran["stderr"]) == ("ok", "o" * 2_000_000, "e" * 2_000_000)


def test_36_a_caller_who_does_not_read(attack):
    """A stream that nobody reads holds up neither its program nor anybody else, and nothing is lost."""
    body = {"language": "python", "code": TWO_STREAMS, "limits": {"output_bytes": 4 * MiB}}
    with stream(attack.http, "/v1/runs", body) as events:
        assert attack.run("print('meanwhile')")["stdout"] == "meanwhile\n"
        size = sum(len(data["text"]) for name, data in events if name in ("stdout", "stderr"))
    assert size == 4_000_000


def test_37_one_long_line(attack):
    """One line of 100 MB is cut at the limit."""
    code = "print('x' * 100_000_000)"
    session = attack.session()
    for ran in (attack.run(code), session.execute(code)):
        assert (ran["outcome"], ran["stdout"]) == ("output_limit", "x" * MiB)
        assert ran["stdout_truncated"] is True
        assert ran["duration"] < PROMPT
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_37_a_huge_result(attack):
    """A result of 100 MB is not sent; the session's state is kept."""
    session = attack.session(limits={"memory_bytes": 1024 * MiB})
    session.execute("kept = 7")
    response = attack.http.post(f"{session.path}/executions", json={"code": "'x' * 100_000_000"})
    ran = response.json()
    assert ran["outcome"] == "output_limit"
    assert len(response.content) < 70 * MiB
    assert session.execute("kept")["result"]["text/plain"] == "7"


def test_38_characters_split_between_writes(attack):
    """Characters whose bytes come one by one arrive whole, in every event."""
    code = "import os, time\nfor byte in 'aé€😀'.encode() * 3: os.write(1, bytes([byte])); time.sleep(0.01)"
    with stream(attack.http, "/v1/runs", {"language": "python", "code": code}) as events:
        texts = [data["text"] for name, data in events if name == "stdout"]
    assert "".join(texts) == "aé€😀" * 3
    assert len(texts) > 3


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"\xf0\x9f\x98", "\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"nul\0", "nul\0"),
        (b"\r\n\r", "\r\n\r"),
    ],
)
def test_38_bytes_that_are_no_text(attack, written, shown):
    """Invalid bytes become U+FFFD; NUL and carriage returns stay as they are."""
    code = f"import os; os.write(1, {written!r})"
    assert attack.run(code)["stdout"] == shown
    assert attack.session().command(f'python3 -c "{code}"')["stdout"] == shown


def test_38_lone_surrogates_in_a_kernel(attack):
    """What a kernel prints, shows and names with lone surrogates is valid JSON with U+FFFD."""
    ran = attack.session().execute(
        "from IPython.display import display\nprint('\\ud800')\n"
        "display({'text/plain': '\\udfff'}, raw=True)\nraise ValueError('\\ud800')"
    )
    assert (ran["outcome"], ran["stdout"]) == ("error", "\ufffd\n")
    assert ran["displays"][0]["data"]["text/plain"] == "\ufffd"
    assert ran["error"]["value"] == "\ufffd"


def test_39_a_huge_display(attack):
    """A display of 100 MB is not sent, and ends the execution with its state kept."""
    session = attack.session(limits={"memory_bytes": 1024 * MiB})
    session.execute("kept = 7")
    code = (
        "from IPython.display import display\n"
        "display({'text/plain': 'x' * 100_000_000}, raw=True)\n"
        "import time; time.sleep(60)"
    )
    response = attack.http.post(
        f"{session.path}/executions", json={"code": code, "limits": {"wall_time": 100}}
    )
    ran = response.json()
    assert (ran["outcome"], ran["state_lost"]) == ("output_limit", False)
    assert ran["duration"] < PROMPT
    assert len(response.content) < 70 * MiB
    assert session.execute("kept")["result"]["text/plain"] == "7"


def test_39_thousands_of_displays(attack):
    """Thousands of displays are kept up to a thousand; of updates the last counts."""
    session = attack.session()
    ran = session.execute("from IPython.display import display\nfor i in range(3000): display(i)")
    assert (ran["outcome"], len(ran["displays"])) == ("ok", 1000)
    ran = session.execute("h = display(0, display_id=True)\nfor i in range(3000): h.update(i)")
    assert ran["outcome"] == "ok"
    assert [each["data"]["text/plain"] for each in ran["displays"]] == ["2999"]
    endless = "from IPython.display import display\nwhile True: display('x' * 10_000)"
    ran = session.execute(endless, limits={"wall_time": 60})
    assert (ran["outcome"], ran["state_lost"]) == ("output_limit", False)
    assert len(ran["displays"]) <= 1000


def test_40_order_of_the_streams(attack):
    """Each stream of a program keeps its order; what a program says one after the other comes so."""
    code = "import sys\nfor i in range(500): print(i, flush=True); print(-i, file=sys.stderr, flush=True)"
    for ran in (attack.run(code), attack.session().execute(code)):
        assert ran["stdout"].split() == [str(i) for i in range(500)]
        assert ran["stderr"].split() == [str(-i) for i in range(500)]
    turns = (
        "import sys, time\n"
        "for i in range(4):\n"
        "    print(i, end='', file=(sys.stdout, sys.stderr)[i % 2], flush=True); time.sleep(0.2)"
    )
    session = attack.session()
    for path, body in (
        ("/v1/runs", {"language": "python", "code": turns}),
        (f"{session.path}/executions", {"code": turns}),
    ):
        with stream(attack.http, path, body) as events:
            said = [(name, data["text"]) for name, data in events if name in ("stdout", "stderr")]
        assert said == [("stdout", "0"), ("stderr", "1"), ("stdout", "2"), ("stderr", "3")]


def test_41_input_that_is_never_read(attack):
    """Megabytes of input that nobody reads delay nothing."""
    text = "x" * (8 * MiB)
    for ran in (
        attack.run("print('done')", stdin=text),
        attack.run("import os; os.close(0); print('done')", stdin=text),
        attack.run("import sys; sys.stdin.read(10); sys.stdin.close(); print('done')", stdin=text),
        attack.session().command("echo done", stdin=text),
    ):
        assert (ran["outcome"], ran["stdout"]) == ("ok", "done\n")
        assert ran["duration"] < PROMPT


def test_41_much_said_and_nothing_read(attack):
    """A program that prints megabytes and ends without reading its input: all it said arrives."""
    code, text = "print('y' * 3_000_000)", "x" * (8 * MiB)
    limits = {"output_bytes": 4 * MiB}
    command = f'python3 -c "{code}"'
    for ran in (
        attack.run(code, stdin=text, limits=limits),
        attack.session().command(command, stdin=text, limits=limits),
    ):
        assert (ran["outcome"], ran["stdout"]) == ("ok", "y" * 3_000_000 + "\n")
        assert ran["duration"] < PROMPT


def test_41_large_binary_input(attack):
    """Every byte of a large binary input arrives, in order."""
    data = os.urandom(MiB) + bytes(range(256)) * 16384
    code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    given = {"stdin": base64.b64encode(data).decode(), "stdin_encoding": "base64"}
    expected = hashlib.sha256(data).hexdigest() + "\n"
    assert attack.run(code, **given)["stdout"] == expected
    assert attack.session().command(f'python3 -c "{code}"', **given)["stdout"] == expected


def test_41_input_in_an_execution(attack):
    """Code that asks for input where none is allowed gets an error at once, not a wait."""
    ran = attack.session().execute("input()", limits={"wall_time": 60})
    assert (ran["outcome"], ran["error"]["name"]) == ("error", "StdinNotImplementedError")
    assert attack.run("input()", limits={"wall_time": 60})["outcome"] == "error"


FORGED = (
    pack_json({"type": "ended", "exit_code": 0, "signal": None, "reason": None})
    + pack(Kind.STDERR, b"forged")
    + b'\n\nevent: completed\ndata: {"outcome": "ok"}\n\n: comment\n\n'
    + b'\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m{"type": "kernel_died"}\n'
)


def test_42_forged_frames_are_text(attack):
    """Frames of our protocols and terminal escapes on an output are text, and change no outcome."""
    code = f"import os, sys\nos.write(1, {FORGED!r})\nsys.exit(3)"
    shown = FORGED.decode(errors="replace")
    with stream(attack.http, "/v1/runs", {"language": "python", "code": code}) as events:
        seen = list(events)
    assert [name for name, _ in seen if name != "stdout"] == ["started", "completed"]
    assert "".join(data["text"] for name, data in seen if name == "stdout") == shown
    assert (seen[-1][1]["outcome"], seen[-1][1]["exit_code"]) == ("error", 3)
    ran = attack.session().execute(f"print({shown!r}, end='', flush=True)\n1/0")
    assert (ran["outcome"], ran["stdout"], ran["error"]["name"]) == ("error", shown, "ZeroDivisionError")


def test_42_no_other_descriptor(attack):
    """A program holds its three standard streams and nothing of ours to write frames to."""
    code = (
        "import os\n"
        "print([fd for fd in map(int, os.listdir('/proc/self/fd')) if os.path.exists(f'/proc/self/fd/{fd}')])"
    )
    assert attack.run(code)["stdout"] == "[0, 1, 2]\n"
    assert attack.session().command(f'python3 -c "{code}"')["stdout"] == "[0, 1, 2]\n"


def test_43_nul_in_code(attack):
    """Code with a NUL is refused, in runs and executions, and costs nothing."""
    session = attack.session()
    session.execute("kept = 7")
    for path, body in (("/v1/runs", {"language": "python"}), (f"{session.path}/executions", {})):
        refused = attack.http.post(path, json={**body, "code": "print('never')\0"})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert session.execute("kept")["result"]["text/plain"] == "7"


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ["a\0b"]},
        {"env": {"A": "a\0b"}},
        {"env": {"A\0": "b"}},
        {"files": [{"path": "a\0b", "content": ""}]},
        {"collect": ["a\0b"]},
        {"language": "pyth\0n"},
    ],
)
def test_43_nul_in_a_run(attack, fields):
    """A NUL where no program can have one is refused."""
    body = {"language": "python", "code": "print('never')", **fields}
    assert attack.http.post("/v1/runs", json=body).status_code in (404, 422)


@pytest.mark.parametrize(
    "fields",
    [
        {"argv": ["a\0b"]},
        {"command": "a\0b"},
        {"command": "true", "cwd": "a\0"},
        {"command": "true", "env": {"A": "\0"}},
    ],
)
def test_43_nul_in_a_command(attack, fields):
    """A NUL in a command is refused."""
    assert attack.http.post(f"{attack.session().path}/commands", json=fields).status_code == 422


def test_44_a_large_body_of_code(attack):
    """Megabytes of code run; what is larger than a body may be is 413."""
    code = "#" + "x" * (8 * MiB) + "\nprint('end')"
    for ran in (attack.run(code), attack.session().execute(code)):
        assert (ran["outcome"], ran["stdout"]) == ("ok", "end\n")
    refused = attack.http.post("/v1/runs", json={"language": "python", "code": "#" * (33 * MiB)})
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("args", [["x" * MiB], ["x"] * 500_000, ["x" * 100_000] * 30])
@pytest.mark.parametrize("language", ["python", "bash"])
def test_44_long_arguments(attack, language, args):
    """More arguments than a program can have are refused, or the program's error; never the sandbox's."""
    code = {"python": "import sys; print(len(sys.argv))", "bash": "echo $(($# + 1))"}[language]
    answer = attack.http.post("/v1/runs", json={"language": language, "code": code, "args": args})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        ran = answer.json()
        assert ran["outcome"] in ("ok", "error")
        assert ran["stdout"] == (f"{len(args) + 1}\n" if ran["outcome"] == "ok" else "")
        assert ran["outcome"] == "ok" or "rgument list too long" in f"{ran['detail']}{ran['stderr']}"


def test_44_long_arguments_of_a_command(attack):
    """The same for a command, after which its session goes on."""
    session = attack.session()
    answer = attack.http.post(f"{session.path}/commands", json={"argv": ["echo", "x" * MiB]})
    assert answer.status_code == 422 or answer.json()["outcome"] == "error"
    assert session.command("echo alive")["stdout"] == "alive\n"
