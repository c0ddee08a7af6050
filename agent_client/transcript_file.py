"""A conversation written to a file: its events as JSON lines as they happen, or one HTML page at the end.

The page stands alone (no script, no link, nothing is loaded) and trusts nobody: what a model, a tool or a
sandbox wrote stands in it as escaped text, images as data URIs of raster bytes or SVG in an `<img>`.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import uuid
import zlib
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any, Self

from agent_client import chat_events as events
from agent_client import code_blocks
from agent_client.messages import Artifact, Message
from agent_client.output_text import clean, coloured_code, ended_line, label, visible
from agent_client.wire.notebook import image_html, image_mime

MAX_IMAGE = 4 << 20  # bytes of one image that goes into the file
MAX_IMAGES = 64 << 20  # of all in a page
MAX_OUTPUT = 4_000_000  # characters of code output in a page; the oldest goes first
_MAX_TEXT = 400_000  # of one message or tool answer in a page
_TEMPLATE = Path(__file__).with_name("data") / "transcript.html"


class TranscriptWriter:
    """An event sink and context manager that writes `path`: `.jsonl` line by line, `.html` when it is closed.

    A line is `{"time": RFC 3339, "event": the event's name in snake case, ...}` with the event's fields;
    bytes of images are in base64. What models stream is left out, as the messages have it all. The page is
    put in place whole; until then an empty one shows that the file can be written. Existing files are
    replaced.

    Raises:
        ValueError: the suffix is neither.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._closed = False
        self._page = _Page() if self._path.suffix == ".html" else None
        if self._page is not None:
            self._save(self._page)
        elif self._path.suffix == ".jsonl":
            self._lines = self._path.open("w", encoding="ascii")
        else:
            raise ValueError(f"a transcript is written as .jsonl or .html, not {self._path.name!r}")

    def __call__(self, event: events.ChatEvent) -> None:
        """Take in an event."""
        if self._closed or isinstance(event, events.ModelText):
            return
        if self._page is not None:
            self._page.add(event)
        else:
            name = re.sub(r"(?<=.)(?=[A-Z])", "_", type(event).__name__).lower()
            line = {"time": datetime.now(UTC).isoformat(), "event": name, **vars(event)}
            self._lines.write(json.dumps(line, default=_plain) + "\n")
            self._lines.flush()

    def close(self) -> None:
        """Finish the file; what comes later is not written."""
        if not self._closed:
            self._closed = True
            if self._page is not None:
                self._save(self._page)
            else:
                self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _save(self, page: _Page) -> None:
        beside = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            beside.write_text(page.html(), encoding="utf-8", errors="replace")
            os.replace(beside, self._path)
        finally:
            beside.unlink(missing_ok=True)


class _Page:
    """The page, part by part; output as it came, for pieces to be put together and the oldest dropped."""

    def __init__(self) -> None:
        self._started = datetime.now().astimezone()
        self._parts: dict[int, str | events.CodeOutput] = {}
        self._outputs: deque[tuple[int, int]] = deque()
        self._count = self._kept = self._left_out = self._image_bytes = 0

    def html(self) -> str:
        body = (
            [_note(f"{self._left_out:,} characters of older output are left out")] if self._left_out else []
        )
        for stream, parts in groupby(self._parts.values(), key=lambda part: getattr(part, "stream", "")):
            text = "".join(part if isinstance(part, str) else part.text for part in parts)
            body.append(f'<pre class="{html.escape(stream)}">{_text(text)}</pre>' if stream else text)
        started, template = f"{self._started:%Y-%m-%d %H:%M %Z}", Template(_TEMPLATE.read_text("utf-8"))
        return template.substitute(started=started, body="\n".join(body))

    def add(self, event: events.ChatEvent) -> None:
        self._count += 1
        if not isinstance(event, events.CodeOutput):
            self._parts[self._count] = self._rendered(event)
            return
        self._parts[self._count] = event
        self._outputs.append((self._count, len(event.text)))
        self._kept += len(event.text)
        while self._kept > MAX_OUTPUT:
            key, size = self._outputs.popleft()
            del self._parts[key]
            self._kept -= size
            self._left_out += size

    def _rendered(self, event: events.ChatEvent) -> str:
        match event:
            case events.MessageSent():
                return self._message(event)
            case events.CodeStarted():
                what = f"{event.agent} runs block {event.index + 1} of {event.count} ({event.language})"
                return _folded(what, event.code, event.language)
            case events.ArtifactCreated():
                return self._artifact(event.artifact)
            case events.ToolCalled():
                return _folded(f"{event.agent} calls {event.call.name}", event.call.arguments, "json")
            case events.ToolReturned():
                answer, how = event.response, "failed" if event.response.is_error else "answered"
                told = _folded(f"{answer.name} {how}: {answer.content}", answer.content)
                return told + "".join(map(self._artifact, answer.artifacts))
            case events.Notice():
                return _note(f"{event.agent}: {event.text}")
            case events.HumanAsked():
                return _note(f"{event.agent} asks: {event.prompt}")
            case events.Ended():
                ended = ended_line(event.reason, event.usage, event.duration)
                return f"<footer>{html.escape(ended)}</footer>"
            case _:
                return ""

    def _message(self, event: events.MessageSent) -> str:
        message, sender = event.message, label(event.sender)
        to = f" to {_name(event.recipient)}" if event.recipient else ""
        if message.kind == "code" or message.tool_responses:  # what is in it was told as it came
            content = _folded(message.content.partition("\n")[0] or "answers", message.content)
        else:
            content = _markdown(message.content)
        content += "".join(_folded(f"suggests {c.name}", c.arguments, "json") for c in message.tool_calls)
        content += "".join(_note(f"with {part.get('type')}") for part in message.parts)
        return (
            f'<article style="--hue:{zlib.crc32(ascii(sender).encode()) % 360}">'
            f"<header><b>{_name(sender)}</b>{to}<time>{datetime.now().astimezone():%H:%M:%S}</time></header>{content}</article>"
        )

    def _artifact(self, artifact: Artifact) -> str:
        data = artifact.read(MAX_IMAGE) or b""
        shown = image_html(data) if self._image_bytes + len(data) <= MAX_IMAGES else None
        if shown is None:
            return _note(f"file: {artifact.name}")
        self._image_bytes += len(data)
        return f"<figure>{shown}<figcaption>{_name(artifact.name)}</figcaption></figure>"


def _plain(value: Any) -> Any:
    """What `json.dumps` does not know, as JSON."""
    if isinstance(value, Message):
        return value.save()
    if isinstance(value, Artifact):
        data = value.read(MAX_IMAGE) or b""
        shown = base64.b64encode(data).decode("ascii") if image_mime(data) else None
        return {**vars(value), "data": shown}
    return vars(value) if hasattr(value, "__dataclass_fields__") else str(value)


def _markdown(text: str) -> str:
    """Paragraphs and code blocks; all else stays as it was written."""
    made: list[str] = []
    lines: list[str] = []
    block: tuple[str, str, str] | None = None  # indentation, fence, info string
    for line in clean(text[:_MAX_TEXT], colours=False).split("\n"):
        fence = code_blocks.opening(line) if block is None else None
        if fence or (block and code_blocks.closes(line, block[1])):
            made.append(_lines(lines, block))
            lines, block = [], fence
        else:
            lines.append(line)
    return "".join([*made, _lines(lines, block)])


def _lines(lines: Iterable[str], block: tuple[str, str, str] | None) -> str:
    if block is not None:
        return _code("\n".join(lines), block[2])
    text = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", _text("\n".join(lines).strip()))
    text = re.sub(r"\*\*([^*\n`<]+)\*\*", r"<b>\1</b>", text)
    return "".join(f"<p>{paragraph}</p>" for paragraph in re.split(r"\n{2,}", text) if paragraph)


def _code(code: str, language: str) -> str:
    shown = visible(clean(code[:_MAX_TEXT], colours=False))
    made = coloured_code(shown, code_blocks.language_of(language), "html", nowrap=True)
    return f"<pre>{made or html.escape(shown)}</pre>"


def _folded(summary: str, code: str, language: str = "") -> str:
    short = html.escape(label(summary, limit=120))
    return f"<details><summary>{short}</summary>{_code(code, language)}</details>"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(label(text, limit=2000))}</p>'


def _name(text: str) -> str:
    return f"<bdi>{html.escape(label(text))}</bdi>"


def _text(text: str) -> str:
    return html.escape(visible(clean(text, colours=False)))
