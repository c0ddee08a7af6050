"""Transcripts: what is in the files, when it gets there, and that they are bounded and whole."""

from __future__ import annotations

import base64
import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agent_client import transcript_file
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
from agent_client.messages import Artifact, Message, ToolCall, ToolResponse
from agent_client.transcript_file import TranscriptWriter
from agent_client.usage import Usage
from agent_client.wire.notebook import image_html, image_mime

PNG = b"\x89PNG\r\n\x1a\n rest"
SVG = b"<?xml version='1.0'?>\n<!DOCTYPE svg>\n<svg xmlns='http://www.w3.org/2000/svg'/>"
MARKDOWN = "I **plot** `x`.\n\n- one\n- <b>two</b>\n\n```python\nfor n in x: print('<')\n```\nDone."


def conversation(folder: Path) -> list[ChatEvent]:
    """One event of each kind; an image in memory, one on disk, a file that is neither."""
    (folder / "b.png").write_bytes(PNG)
    call = ToolCall(id="1", name="search", arguments='{"q": "x"}')
    image = Artifact(name="a.png", mime="image/png", data=PNG)
    saved = Artifact(name="b.png", mime="image/png", path=folder / "b.png")
    answer = ToolResponse(call_id="1", name="search", content="found", artifacts=(image,))
    return [
        MessageSent(sender="user", recipient="bot", message=Message(content="Task", kind="human")),
        SpeakerSelected(agent="bot"),
        ModelText(agent="bot", recipient="user", text="I plot"),
        ToolCalled(agent="bot", call=call),
        ToolReturned(agent="bot", response=answer),
        MessageSent(sender="bot", recipient="user", message=Message(content=MARKDOWN, tool_calls=(call,))),
        CodeStarted(agent="user", language="python", index=0, count=2, code="print(1)"),
        CodeOutput(agent="user", text="first\n", stream="stdout"),
        CodeOutput(agent="user", text="second \x1b[31mred\x1b[0m\n", stream="stdout"),
        CodeOutput(agent="user", text="warned\n", stream="stderr"),
        ArtifactCreated(agent="user", artifact=saved),
        ArtifactCreated(agent="user", artifact=Artifact(name="data.bin", data=b"\0\1")),
        MessageSent(
            sender="user",
            recipient="bot",
            message=Message(content="exitcode: 0 (execution succeeded)", kind="code"),
        ),
        Notice(agent="user", text="USING AUTO REPLY..."),
        HumanAsked(agent="user", prompt="Say: "),
        Ended(reason="max_turns: 1", usage=Usage(requests=2, cost=0.5), duration=1.5),
    ]


def written(path: Path, events: list[ChatEvent]) -> str:
    """The file after a conversation."""
    with TranscriptWriter(path) as transcript:
        for event in events:
            transcript(event)
    return path.read_text("utf-8")


def test_json_lines(tmp_path: Path) -> None:
    """Each event is a line with its time, name and fields, images' bytes too; streamed tokens are not."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in written(tmp_path / "out.jsonl", conversation(tmp_path)).splitlines()
    ]
    assert [line["event"] for line in lines] == [
        "message_sent", "speaker_selected", "tool_called", "tool_returned", "message_sent", "code_started",
        "code_output", "code_output", "code_output", "artifact_created", "artifact_created", "message_sent",
        "notice", "human_asked", "ended",
    ]  # fmt: skip
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    assert lines[4]["message"]["content"] == MARKDOWN
    (wanted,) = lines[4]["message"]["tool_calls"]
    assert (wanted["name"], wanted["arguments"]) == ("search", '{"q": "x"}')
    assert lines[2]["call"] == {"id": "1", "name": "search", "arguments": '{"q": "x"}'}
    assert base64.b64decode(lines[3]["response"]["artifacts"][0]["data"]) == PNG
    assert lines[9]["artifact"]["path"] == str(tmp_path / "b.png")
    assert base64.b64decode(lines[9]["artifact"]["data"]) == PNG
    assert lines[10]["artifact"]["data"] is None  # no image
    assert lines[-1]["usage"] == {"requests": 2, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.5}
    assert lines[-1]["duration"] == 1.5


def test_json_lines_are_there_as_it_happens(tmp_path: Path) -> None:
    """A crash loses nothing: a line is in the file before the next event."""
    path = tmp_path / "out.jsonl"
    transcript = TranscriptWriter(path)
    for count, event in enumerate(
        [e for e in conversation(tmp_path) if not isinstance(e, ModelText)], start=1
    ):
        transcript(event)
        assert len(path.read_text().splitlines()) == count
    transcript.close()
    transcript.close()
    transcript(Notice(agent="late", text="late"))
    assert "late" not in path.read_text()


def test_json_lines_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    """Whoever looks at the file with `cat` is safe: it is printable ASCII; half characters survive."""
    evil = "\x1b]0;x\x07\x9b2J\u202e\ud800"
    text = written(tmp_path / "out.jsonl", [Notice(agent="a", text=evil)])
    assert text.rstrip("\n").isascii()
    assert text.rstrip("\n").isprintable()
    assert json.loads(text)["text"] == evil


def test_what_json_does_not_know(tmp_path: Path) -> None:
    """An agent's own values in a message become text."""
    message = Message(content="x", extra={"when": Path("/a")}, parts=({"type": "image_url"},))
    text = written(tmp_path / "out.jsonl", [MessageSent(sender="a", recipient="b", message=message)])
    assert json.loads(text)["message"]["extra"]["when"] == "/a"


def test_page(tmp_path: Path) -> None:
    """The page has messages, code, output, images, folded calls and the last line, and stands alone."""
    page = written(tmp_path / "out.html", conversation(tmp_path))
    assert page.startswith("<!doctype html>")
    assert "<p>I <b>plot</b> <code>x</code>.</p><p>- one\n- &lt;b&gt;two&lt;/b&gt;</p>" in page
    assert '<span class="k">for</span>' in page
    assert "<p>Done.</p>" in page
    assert '<pre class="stdout">first\nsecond red\n</pre>' in page
    assert '<pre class="stderr">warned\n</pre>' in page
    assert page.count(f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"') == 2
    assert "file: data.bin" in page
    for summary in (
        "bot calls search",
        "search answered: found",
        "user runs block 1 of 2 (python)",
        "suggests search",
    ):
        assert f"<summary>{summary}</summary>" in page
    assert "<summary>exitcode: 0 (execution succeeded)</summary>" in page
    assert "<footer>Stopped: max_turns: 1 · 2 model calls, 0 + 0 tokens · $0.5000 · 1.5 s</footer>" in page
    assert str(tmp_path) not in page  # where things lie on this machine is nobody's business
    assert not re.search(r"https?:|<link|<script|@import|url\(", page)


def test_page_without_pygments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is plain, and escaped, where Pygments is not installed."""
    monkeypatch.setitem(sys.modules, "pygments", None)
    page = written(tmp_path / "out.html", conversation(tmp_path))
    assert "<pre>for n in x: print(&#x27;&lt;&#x27;)</pre>" in page


def test_the_page_is_written_whatever_happens(tmp_path: Path) -> None:
    """An error or Ctrl-C leaves a page of what was said; nothing else stays in the folder."""
    path = tmp_path / "out.html"
    path.write_text("old")

    def interrupted() -> None:
        with TranscriptWriter(path) as transcript:
            assert "old" not in path.read_text()
            transcript(Notice(agent="a", text="was said"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "was said" in path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.html"]


def test_the_page_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that cannot be written leaves the one before it, and no pieces."""
    path = tmp_path / "out.html"
    transcript = TranscriptWriter(path)
    before = path.read_text()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transcript_file.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        transcript.close()
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.html"]


@pytest.mark.parametrize("name", ["out.txt", "out", "out.html.bak", ".jsonl"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    """Whoever asks for something else is told what there is, and nothing is made."""
    with pytest.raises(ValueError, match=r"\.jsonl or \.html"):
        TranscriptWriter(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["html", "jsonl"])
def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path, suffix: str) -> None:
    """Not only when the conversation is over."""
    with pytest.raises(OSError, match="No such file"):
        TranscriptWriter(tmp_path / "missing" / f"out.{suffix}")


def test_the_page_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too much output the oldest goes, with a note; so do images beyond a sum and what is too long."""
    monkeypatch.setattr(transcript_file, "MAX_OUTPUT", 1000)
    monkeypatch.setattr(transcript_file, "MAX_IMAGES", 3 * len(PNG))
    events: list[ChatEvent] = [
        CodeOutput(agent="u", text=f"line {n:04}\n", stream="stdout") for n in range(200)
    ]
    events.insert(100, Notice(agent="u", text="between"))
    events += [ArtifactCreated(agent="u", artifact=Artifact(name=f"{n}.png", data=PNG)) for n in range(5)]
    page = written(tmp_path / "out.html", events)
    assert "1,000 characters of older output are left out" in page
    assert "line 0099" not in page
    assert "line 0100\nline 0101" in page
    assert "between" in page
    assert page.count("<img") == 3
    assert "file: 4.png" in page
    one = [
        CodeOutput(agent="u", text="x" * 5000, stream="stdout"),
        CodeOutput(agent="u", text="end", stream="stderr"),
    ]
    assert '<pre class="stderr">end</pre>' in written(tmp_path / "one.html", [*one])


def test_half_characters_and_dollars(tmp_path: Path) -> None:
    """What UTF-8 cannot hold becomes a question mark, and the template's own marks are text."""
    page = written(tmp_path / "out.html", [Notice(agent="a", text="\ud800 $body ${started} $$ \u202e")])
    assert "a: ? $body ${started} $$ &lt;U+202E&gt;" in page


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (SVG, "image/svg+xml"),
        (b"\xef\xbb\xbf\n<svg/>", "image/svg+xml"),
        (b"<html><script>1</script>", None),
        (b"text <svg/>", None),
        (b"%PDF-1.7", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ],
)
def test_images_are_what_their_bytes_say(data: bytes, mime: str | None) -> None:
    """The kind of an image is read from its bytes, never from a name."""
    assert image_mime(data) == mime
    shown = image_html(data)
    assert shown == (mime and f'<img alt="" src="data:{mime};base64,{base64.b64encode(data).decode()}">')
