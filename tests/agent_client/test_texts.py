"""Texts: control sequences, bounds, termination words, event decoding, notebook HTML."""

from __future__ import annotations

import time

import pytest

from agent_client.output_text import Cleaner, clean, for_model, overwritten
from agent_client.termination import last_word_is_terminate, without_terminate
from agent_client.wire.events import ServerSentEvent, SseDecoder, Stdout, UnknownEvent, parse_event
from agent_client.wire.notebook import bundle_html, result_html
from agent_client.wire.results import ErrorInfo, ExecutionResult, RunResult, exit_status

HOSTILE = [
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07",  # writes the clipboard
    "\x1b[2J\x1b[H",
    "\x1b[6n",  # asks for the cursor: the answer lands in the shell's input
    "\x1b[?1049h",
    "\x1bP+q544e\x1b\\",
    "\x1b_G payload\x1b\\",
    "\x1bc",
    "\x1b(0",
    "\x1b7\x1b8",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x90q\x9c",
    "\x07\x08\x7f\x00\x0e",
    "\x1b[38;5;1",  # unfinished
    "\x1b]0;never ended",
    "\x1b",
]


@pytest.mark.parametrize("sequence", HOSTILE)
def test_control_sequences_go(sequence: str) -> None:
    """Each control sequence is removed and the text around it stays."""
    kept = clean(f"a{sequence}")
    assert "\x1b" not in kept
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in kept)
    assert kept.startswith("a")


@pytest.mark.parametrize("sequence", HOSTILE)
def test_control_sequences_go_however_they_are_cut(sequence: str) -> None:
    """A sequence that arrives a character at a time is removed as well."""
    cleaner = Cleaner()
    whole = "".join(cleaner.feed(c) for c in f"a{sequence}b\x1b[31mred") + cleaner.finish()
    assert whole.replace("\x1b[31m", "").isprintable()


def test_colours_stay() -> None:
    """Colours are let through, or dropped where asked."""
    assert clean("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"
    assert clean("\x1b[38;2;1;2;3mx", colours=False) == "x"
    assert clean("a\tb\r\nc\rd\n") == "a\tb\nc\nd\n"


def test_an_endless_sequence_is_not_held_for_ever() -> None:
    """An unfinished sequence holds back a bounded amount of text."""
    cleaner = Cleaner()
    cleaner.feed("\x1b]0;" + "x" * 5000)
    assert "later" in cleaner.feed("\nlater\n")


def test_output_for_a_model_is_bounded() -> None:
    """Head and tail stay, progress bars fold to their last state."""
    text = for_model("start" + "x" * 100_000 + "end", limit=1000)
    assert text.startswith("start")
    assert text.endswith("end")
    assert len(text) < 1100
    assert "left out" in text
    assert overwritten("10%\r50%\r100%\r\ndone\n") == "100%\ndone\n"


@pytest.mark.parametrize(
    ("content", "ends"),
    [
        ("TERMINATE", True),
        ("All done. TERMINATE", True),
        ("Done.\n\nTERMINATE\n\n", True),
        ("Done. **TERMINATE**", True),
        ("Done. TERMINATE.", True),
        ("`TERMINATE`", True),
        ("I will say TERMINATE when done", False),
        ("DETERMINATE", False),
        ("XTERMINATE", False),
        ("terminate", False),
        ("", False),
        (None, False),
    ],
)
def test_termination(content: str | None, ends: bool) -> None:
    """The last word decides."""
    assert last_word_is_terminate({"content": content}) is ends


def test_summaries_lose_the_word() -> None:
    """The closing TERMINATE is taken off, one inside stays."""
    assert without_terminate("TERMINATE is said.\n\nTERMINATE") == "TERMINATE is said."


def test_sse_decoding() -> None:
    """Events survive any chunking, comments, CRLF and unescaped line separators in the data."""
    wire = ': c\r\n\r\n: d\nevent: stdout\r\nid: 7\r\ndata: {"text": "a\u2028\u0085b"}\r\n\r\n'.encode()
    decoder = SseDecoder()
    events = [event for byte in wire for event in decoder.feed(bytes([byte]))]
    assert events == [ServerSentEvent(type="stdout", data='{"text": "a\u2028\u0085b"}', id="7")]
    assert parse_event(events[0]) == Stdout(text="a\u2028\u0085b")
    (joined, bare) = SseDecoder().feed(b"id: 9\n\n\ndata:a\ndata: b\n\nevent: x\n\n")
    assert (joined, bare.id) == (ServerSentEvent(type="message", data="a\nb", id="9"), "9")
    assert isinstance(parse_event(ServerSentEvent(type="stdout", data="[", id="")), UnknownEvent)
    assert isinstance(parse_event(ServerSentEvent(type="stdout", data="[1]", id="")), UnknownEvent)
    assert isinstance(parse_event(ServerSentEvent(type="x", data="{}", id="")), UnknownEvent)


@pytest.mark.parametrize(
    ("outcome", "exit_code", "signal", "status"),
    [
        ("ok", 0, None, 0),
        ("ok", None, None, 0),
        ("error", 3, None, 3),
        ("error", None, None, 1),
        ("error", None, "SIGSEGV", 139),
        ("error", None, "SIGTERM", 143),
        ("error", None, "SIGNOSUCH", 1),
        ("timeout", None, "SIGKILL", 124),
        ("out_of_memory", None, "SIGKILL", 137),
        ("out_of_memory", 1, None, 137),
        ("interrupted", None, None, 130),
        ("output_limit", None, "SIGKILL", 1),
        ("compile_error", 1, None, 1),
        ("sandbox_died", None, None, 1),
        ("of_tomorrow", 0, None, 1),
    ],
)
def test_exit_status(outcome: str, exit_code: int | None, signal: str | None, status: int) -> None:
    """One number stands for each end."""
    assert exit_status(outcome, exit_code, signal) == status


def test_notebook_html_lets_nothing_in() -> None:
    """Scripts in text are escaped, HTML and JavaScript stand in a sandboxed frame, SVG in an image."""
    evil = "<script>alert(1)</script>"
    html = result_html(
        evil,
        evil,
        bundles=[
            {"text/html": evil + '"></iframe>'},
            {"image/svg+xml": f"<svg>{evil}</svg>"},
            {"application/javascript": "alert(1)"},
            {"image/png": f'"><{evil}'},
            {"text/plain": evil},
            {evil: 1},
            {"application/json": {"a": evil}},
        ],
        traceback=evil,
        ended=evil,
    )
    assert "<script" not in html
    assert html.count("<iframe") == html.count("</iframe>") == html.count('sandbox="allow-scripts"')
    assert "allow-same-origin" not in html
    assert bundle_html({"image/png": "aGk="}) == '<img src="data:image/png;base64,aGk=">'
    assert "<pre" in RunResult(stdout="x")._repr_html_()
    assert "<pre" in ExecutionResult(stdout="x")._repr_html_()
    failed = {"outcome": evil, "detail": evil, "error": {"name": evil, "value": evil, "traceback": [evil]}}
    for kind in (RunResult, ExecutionResult):
        assert "<script" not in kind.parse(failed)._repr_html_()


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (RunResult(outcome="ok"), ""),
        (RunResult(outcome="error", exit_code=3), "error (exit status 3)"),
        (RunResult(outcome="timeout", detail="wall time"), "timeout (exit status 124): wall time"),
        (RunResult(), "running"),
        (ExecutionResult(outcome="error", error=ErrorInfo(traceback=("E: v",))), "E: v"),
        (ExecutionResult(outcome="error", detail="exit code 3"), "error (exit status 3): exit code 3"),
    ],
)
def test_notebook_html_says_how_it_ended(result: RunResult | ExecutionResult, says: str) -> None:
    """A notebook shows how code ended, unless it went well or its traceback says it."""
    shown = result._repr_html_()
    assert says in shown
    assert ("exit status" in shown) == ("exit status" in says or result.outcome is None)


@pytest.mark.parametrize(
    "introducer",
    ["\x90", "\x98", "\x9b", "\x9d", "\x1b]", "\x1b[", "\x1bP", "\x1b", "\x1b ", "\x1b[0;", "\r"],
)
def test_cleaning_takes_time_in_proportion(introducer: str) -> None:
    """A flood of unfinished sequences is cleaned in seconds, whole and in pieces."""
    begun = time.process_time()
    clean(introducer * 200_000)
    cleaner = Cleaner()
    for _ in range(1000):
        cleaner.feed(introducer * 200)
    assert time.process_time() - begun < 10
