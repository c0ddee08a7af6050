"""The console: what it prints and colours, when it shows images, that nobody else drives the terminal."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import struct
import sys
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from agent_client.chat_events import (
    ArtifactCreated,
    ChatEvent,
    CodeOutput,
    CodeStarted,
    Ended,
    HumanAsked,
    MessageSent,
    ModelText,
    Notice,
    SpeakerSelected,
    ToolCalled,
    ToolReturned,
)
from agent_client.console import Console, FencedText
from agent_client.messages import Artifact, Message, ToolCall, ToolResponse
from agent_client.output_text import COLOUR, ended_line, label, visible
from agent_client.terminal_image import MAX_BYTES, image_protocol, inline_image
from agent_client.usage import Usage

MARKDOWN = (
    'I **plot** it.\n\n```python\ns = """two\nlines"""\nfor n in range(3):\n    print(n)  # n\n```\n\nDone.'
)
CODE = 's = """two\nlines"""\nfor n in range(3):\n    print(n)  # n'
EVIL = [
    "\x1b]52;c;ZXZpbA==\x07",  # writes the clipboard
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H",
    "\x1b[?1049h",
    "\x1b[6n\x1b[c\x1b[>q",  # the answers land in the shell's input
    '\x1bP$q"p\x1b\\',
    "\x1b_Ga=T,f=100,t=f;L2V0Yy9wYXNzd2Q=\x1b\\",  # has the terminal read a file
    "\x1b]1337;File=inline=1:AAAA\x07",
    "\x1b]1337;File=name=eA==:AAAA\x07",  # iTerm2 saves it among the downloads
    "\x9b2J\x9d0;title\x9c\x90q\x9c",
    "\x1bc\x07\x08\r\x00\x7f",
    "\x1b]0;never ended",
    "\x1b",
]


def png(width: int = 3, height: int = 2) -> bytes:
    """A small PNG that says it is of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (4 * 2))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def printed(events: Sequence[ChatEvent], *, colours: bool = False) -> str:
    """What a console prints of the events."""
    out = io.StringIO()
    console = Console(file=out, colours=colours)
    for event in events:
        console(event)
    return out.getvalue()


def said(text: str, sender: str = "bot", **fields: object) -> MessageSent:
    """A message to the user."""
    return MessageSent(sender=sender, recipient="user", message=Message(content=text, **fields))  # type: ignore[arg-type]


def everything(text: str, *, image: bytes = b"") -> list[ChatEvent]:
    """Every event, with `text` in every field that a model, a tool or a sandbox may have written."""
    artifact = Artifact(name=text, mime=text, data=image)
    call = ToolCall(id=text, name=text, arguments=text)
    response = ToolResponse(call_id=text, name=text, content=text, artifacts=(artifact,))
    return [
        said(text, sender=text, tool_calls=(call,), parts=({"type": text},)),
        SpeakerSelected(agent=text),
        ModelText(agent=text, recipient=text, text=text),
        ModelText(agent=text, recipient=text, text=f"{text}\n```python\n{text}\n```\n"),
        said("other", sender=text),
        CodeStarted(agent=text, language=text, index=0, count=1, code=text),
        CodeStarted(agent=text, language="python", index=0, count=2, code=f"x = '{text}'"),
        CodeOutput(agent=text, text=text, stream="stdout"),
        CodeOutput(agent=text, text=text, stream="stderr"),
        ArtifactCreated(agent=text, artifact=artifact),
        ArtifactCreated(
            agent=text, artifact=Artifact(name="x", path=Path("/nowhere") / text.replace("\0", ""))
        ),
        ToolCalled(agent=text, call=call),
        ToolReturned(agent=text, response=response),
        MessageSent(sender=text, recipient=text, message=Message(content=text, kind="code")),
        MessageSent(sender=text, recipient=text, message=Message(content=text, tool_responses=(response,))),
        Notice(agent=text, text=text),
        HumanAsked(agent=text, prompt=text),
        Ended(reason=text, usage=Usage()),
    ]


def test_the_form_of_a_conversation() -> None:
    """Headers, rules and lines are those that AutoGen's users know; streamed text is printed once."""
    text = printed(
        [
            MessageSent(sender="user", recipient="bot", message=Message(content="Task", kind="human")),
            *(ModelText(agent="bot", recipient="user", text=c) for c in MARKDOWN),
            said(MARKDOWN),
            CodeStarted(agent="user", language="python", index=0, count=1, code=CODE),
            CodeOutput(agent="user", text="0\n1", stream="stdout"),
            CodeOutput(agent="user", text="\n2\n", stream="stdout"),
            said("exitcode: 0 (execution succeeded)\nCode output: 0\n1\n2\n", sender="user", kind="code"),
            Ended(
                reason="max_turns: 1",
                usage=Usage(requests=1, prompt_tokens=1, completion_tokens=2),
                duration=2,
            ),
        ]
    )
    rule = "-" * 80
    assert text == (
        f"user (to bot):\n\nTask\n\n{rule}\nbot (to user):\n\n{MARKDOWN}\n\n{rule}\n"
        "\n>>>>>>>> EXECUTING CODE BLOCK (inferred language is python)...\n[user] 0\n[user] 1\n[user] 2\n"
        f"\nuser (to user):\n\nexitcode: 0 (execution succeeded)\n\n{rule}\n"
        "\nStopped: max_turns: 1 · 1 model call, 1 + 2 tokens · 2.0 s\n"
    )


def test_what_was_not_printed_yet_is() -> None:
    """Code that no message showed, output that did not stream, and a text that a hook changed are printed."""
    started = CodeStarted(agent="user", language="python", index=1, count=2, code="x = 1")
    assert "BLOCK 2 of 2 (inferred language is python)...\nx = 1\n" in printed([started])
    reply = said("exitcode: 1 (execution failed)\nCode output: a\n(a hint)", sender="user", kind="code")
    live = CodeOutput(agent="user", text="a\n", stream="stderr")
    assert "Code output: a\n(a hint)\n" in printed([reply])
    assert "Code output: (a hint)\n" in printed([live, reply])
    assert "Changed" in printed([ModelText(agent="bot", recipient="user", text="Said"), said("Changed")])


def test_tools_in_a_turn() -> None:
    """Tool calls and answers are a line each, errors in red, and the speaker's name stands once."""
    call = ToolCall(id="1", name="search", arguments='{"q": "x",\n "n": 3}')
    failed = ToolResponse(call_id="1", name="search", content="No\nnetwork", is_error=True)
    events = [
        ModelText(agent="bot", recipient="user", text="I look."),
        ToolCalled(agent="bot", call=call),
        ToolReturned(agent="bot", response=failed),
        ModelText(agent="bot", recipient="user", text="Nothing."),
        said("Nothing."),
        said("", tool_calls=(call,)),
        SpeakerSelected(agent="critic"),
    ]
    assert printed(events).startswith(
        'bot (to user):\n\nI look.\n[bot] calls search({"q": "x", "n": 3})\n[bot] search -> No network\n'
        f"\nNothing.\n\n{'-' * 80}\n"
        'bot (to user):\n\n[bot] suggests search({"q": "x", "n": 3})\n'
    )
    assert "Next speaker: critic" in printed(events)
    assert "\x1b[31mNo network\x1b[0m" in printed(events, colours=True)
    long = printed([ToolCalled(agent="bot", call=ToolCall(id="1", name="f", arguments="x" * 100_000))])
    assert len(long) < 300


def test_code_is_coloured_as_it_streams() -> None:
    """However the text is cut, code has the same colours, over lines too, and no text is lost."""
    whole = FencedText(coloured=True).feed(MARKDOWN, last=True)
    assert "\x1b[94mfor\x1b[39;49;00m" in whole
    assert COLOUR.sub("", whole) == MARKDOWN
    for size in (1, 2, 7, 50):
        text = FencedText(coloured=True)
        pieces = [text.feed(MARKDOWN[at : at + size]) for at in range(0, len(MARKDOWN), size)]
        assert COLOUR.sub("", "".join(pieces)) == MARKDOWN
        assert "".join([*pieces, text.feed("", last=True)]) == whole
    prose = FencedText(coloured=True)
    assert prose.feed("I pl") == "I pl"  # prose does not wait for the line's end
    assert prose.feed("ot\n``") == "ot\n"
    assert prose.feed("x``") == "``x``"


@pytest.mark.parametrize("line", ["\n", " \n", "a\n", "a ", '"\\', "a.b", "x = f(1)  # c\n"])
@pytest.mark.parametrize("language", ["c", "java", "python", "typescript"])
def test_colouring_keeps_pace(language: str, line: str) -> None:
    """No code makes a lexer work for minutes, and the text is all there."""
    text = f"```{language}\n{line * 10_000}\n```\n"
    fenced = FencedText(coloured=True)
    started = time.process_time()
    shown = "".join(fenced.feed(text[at : at + 50]) for at in range(0, len(text), 50)) + fenced.feed(
        "", last=True
    )
    assert time.process_time() - started < 30
    assert COLOUR.sub("", shown) == text


@pytest.mark.parametrize(
    "text",
    [
        "~~~~ py\n~~~\nfor x in y: pass\n~~~~\nfor\n",
        "- ```python\n  pass\n  ```\nfor",
        "> ```js\n> let x = 1\n> ```",
        "````md\n```python\nfor\n```\n````\nfor",
        "```python\nnever closed",
        "``` x`y ```\ntext",
        "1. one\n2. two\n- \n\n```",
        "```nosuchlanguage\n<x>\n```",
        "```python\n" + "x = 1\n" * 3000 + "```\n",
        "```python\na\u2028b\x85c\x0cd\n```\n",
    ],
)
def test_fences_of_any_kind_keep_their_text(text: str) -> None:
    """Colouring adds colours and nothing else."""
    fenced = FencedText(coloured=True)
    shown = "".join(fenced.feed(text[at : at + 99]) for at in range(0, len(text), 99)) + fenced.feed(
        "", last=True
    )
    assert COLOUR.sub("", shown) == re.sub("[\x85\x0c]", "", text)


def test_without_pygments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is printed as it is where Pygments is not installed."""
    monkeypatch.setitem(sys.modules, "pygments", None)
    assert MARKDOWN in printed([said(MARKDOWN)], colours=True)


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("sequence", EVIL)
def test_nobody_else_drives_the_terminal(sequence: str, colours: bool) -> None:
    """Control sequences in any field of any event are removed; colours appear only where they are wanted."""
    text = printed(everything(f"a{sequence}z"), colours=colours)
    left = COLOUR.sub("", text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", left)
    assert ("\x1b" in text) is colours
    assert "Stopped: a" in text


def test_sequences_cut_between_pieces() -> None:
    """A sequence in pieces of model text or of output gets no further than a whole one."""
    sequence = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b6n"
    for of in (
        [ModelText(agent="bot", recipient="user", text=c) for c in sequence],
        [CodeOutput(agent="bot", text=c, stream="stdout") for c in sequence],
        [
            e
            for c in sequence
            for e in (ModelText(agent="bot", recipient="u", text=c), Notice(agent="u", text=c))
        ],
    ):
        text = COLOUR.sub("", printed([*of, said("end")], colours=True))
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_colours_of_output_end_with_its_line() -> None:
    """Output keeps its colours and cannot colour what follows; models and names have none of their own."""
    red = "\x1b[31mred"
    text = printed(
        [CodeOutput(agent="u", text=f"{red}\n{red}", stream="stdout"), Notice(agent="u", text="n")],
        colours=True,
    )
    assert text.count("\x1b[31mred\x1b[0m\n") == 2
    for event in (
        said(f"a {red}"),
        ModelText(agent="b", recipient="u", text=red),
        Notice(agent="u", text=f"a {red}"),
    ):
        assert red not in printed([event], colours=True)
    assert "\x1b" not in label(red)


def test_text_cannot_be_reordered() -> None:
    """Characters that override the direction of what follows are shown by their code points."""
    assert visible("a\u202eb\u2066c") == "a<U+202E>b<U+2066>c"
    for line in printed(everything("x\u202ey"), colours=True).splitlines():
        assert "\u202e" not in line


def test_labels_are_one_bounded_line() -> None:
    """Names and arguments stay on one line, however long they are."""
    assert label("a\n b\t\u2028c") == "a b c"
    assert label("x" * 10_000_000) == "x" * 197 + "..."
    assert label("x" * 200) == "x" * 200
    assert label(" " * 1000 + "end") == "..."


@pytest.mark.parametrize(
    ("usage", "line"),
    [
        (Usage(), "Stopped: why · 12.3 s"),
        (
            Usage(requests=3, prompt_tokens=1234, completion_tokens=567, cost=0.0123),
            "Stopped: why · 3 model calls, 1,234 + 567 tokens · $0.0123 · 12.3 s",
        ),
        (Usage(requests=1, cost=1e-6), "Stopped: why · 1 model call, 0 + 0 tokens · under $0.0001 · 12.3 s"),
    ],
)
def test_the_last_line(usage: Usage, line: str) -> None:
    """It says why the run stopped and what it took."""
    assert ended_line("why", usage, 12.34) == line


async def test_a_stream_is_printed_and_gives_its_result() -> None:
    """`await Console(stream)` prints the events and gives the last item that is none."""
    out = io.StringIO()

    async def stream() -> AsyncGenerator[object]:
        yield said("Hello")
        yield "first"
        yield CodeOutput(agent="u", text="open", stream="stdout")
        yield "result"

    assert await Console(stream(), file=out) == "result"
    assert out.getvalue().endswith("[u] open\n")
    with pytest.raises(TypeError, match="stream"):
        await Console()


async def test_a_stream_that_ends_badly_is_closed() -> None:
    """When printing fails, or it is cancelled, the stream is closed at once: its run does not go on."""
    closed: list[str] = []

    async def stream(name: str) -> AsyncGenerator[ChatEvent]:
        try:
            while True:
                yield said("Hello")
                await asyncio.sleep(0)
        finally:
            closed.append(name)

    gone = io.StringIO()
    gone.close()
    with pytest.raises(ValueError, match="closed file"):
        await Console(stream("broken"), file=gone)
    task = asyncio.ensure_future(Console(stream("cancelled"), file=io.StringIO())._print_all())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["broken", "cancelled"]


def test_text_that_the_file_cannot_hold() -> None:
    """Characters that the output's encoding lacks, and half characters, become question marks."""
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    Console(file=out)(said("pl\u00f6t \ud800 \u2713"))
    out.seek(0)
    assert "pl?t ? ?" in out.read()


# --- images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/tmux"}, None),
        ({"TERM_PROGRAM": "iTerm.app", "STY": "1"}, None),
        ({"KITTY_WINDOW_ID": "1", "TERM": "screen-256color"}, None),
        ({}, None),
    ],
)
def test_which_terminals_show_images(environment: dict[str, str], protocol: str | None) -> None:
    """Known terminals do, and none behind a multiplexer."""
    assert image_protocol(environment) == protocol


def test_kitty_images() -> None:
    """A PNG goes in chunks that give the bytes back, wants no answer, and a wide one is fitted."""
    data = png() + os.urandom(10_000)
    shown = inline_image(data, "kitty")
    parts = re.fullmatch(r"((?:\x1b_G[^\x1b]*\x1b\\)+)\n", shown)
    assert parts
    commands = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", shown)
    assert [keys for keys, _ in commands] == ["a=T,f=100,q=2,m=1", "m=1", "m=1", "m=0"]
    assert all(len(payload) <= 4096 for _, payload in commands)
    assert base64.b64decode("".join(payload for _, payload in commands)) == data
    assert inline_image(png(), "kitty").startswith("\x1b_Ga=T,f=100,q=2,m=0;")
    assert ",c=72," in inline_image(png(2000, 2), "kitty")


def test_iterm2_images() -> None:
    """PNG and JPEG are shown, without a name and never as a download."""
    for data in (png(), b"\xff\xd8\xff\xe0" + b"x" * 50):
        match = re.fullmatch(
            r"\x1b]1337;File=inline=1;size=(\d+);preserveAspectRatio=1:([\w+/=]+)\x07\n",
            inline_image(data, "iterm2"),
        )
        assert match
        assert int(match[1]) == len(data)
        assert base64.b64decode(match[2]) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG",
        b"GIF89a" + b"x" * 50,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x1b]52;c;ZXZpbA==\x07",
        b"\x89PNG\r\n\x1a\n",  # no size
        png(100_000, 100_000),  # a bomb
        png(0, 5),
        png() + b"x" * MAX_BYTES,
    ],
)
def test_what_is_no_fitting_image_is_not_shown(data: bytes) -> None:
    """Other bytes, whatever their name, and too large ones are left out."""
    assert inline_image(data, "kitty") == ""
    assert inline_image(data, "iterm2") == ""


@pytest.fixture
def terminal() -> Callable[[ChatEvent], str]:
    """Prints an event on a real terminal and gives what arrived there."""

    def show(event: ChatEvent) -> str:
        ours, theirs = os.openpty()
        os.set_blocking(ours, False)
        arrived = b""
        with os.fdopen(ours, "rb", buffering=0) as master, os.fdopen(theirs, "w", encoding="utf-8") as file:
            Console(file=file)(event)
            while piece := master.read(1 << 16):  # None: all that was written is here
                arrived += piece
        return arrived.decode().replace("\r\n", "\n")

    return show


def test_images_on_a_terminal(
    terminal: Callable[[ChatEvent], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a terminal that can, the image follows its path; elsewhere, or with NO_COLOR, it does not."""
    for name in ("TMUX", "STY", "NO_COLOR", "TERM_PROGRAM", "WEZTERM_PANE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "plot.png").write_bytes(png())
    event = ArtifactCreated(agent="u", artifact=Artifact(name="plot.png", path=tmp_path / "plot.png"))
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert terminal(event) == f"\x1b[2m[u]\x1b[0m saved {tmp_path}/plot.png\n" + inline_image(png(), "kitty")
    assert printed([event], colours=True).endswith("plot.png\n")  # no terminal
    for name, value in (("TMUX", "1"), ("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            shown = terminal(event)
            assert "\x1b_G" not in shown
            assert ("\x1b" in shown) is (name == "TMUX")
    monkeypatch.setenv("TERM_PROGRAM", "iTerm.app")
    assert "\x1b]1337;File=inline=1" in terminal(event)
    evil = Artifact(name="\x1b]52;c;eA==\x07.png", data=b"\x1b]52;c;eA==\x07")
    assert "\x1b]" not in terminal(ArtifactCreated(agent="u", artifact=evil))
