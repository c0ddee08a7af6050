"""Prints a conversation's events as they happen, in the form that AutoGen's users know."""

from __future__ import annotations

import sys
from typing import TextIO

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
)
from agent_client.output_text import COLOUR, Cleaner, clean

RULE = "-" * 80
_RED, _YELLOW, _DIM, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


class Console:
    """An event sink that prints. Colours only on a terminal; no other control sequence is let through."""

    def __init__(self, file: TextIO | None = None, *, colours: bool | None = None) -> None:
        self._file = file
        self._colours = colours
        self._speaking: Cleaner | None = None  # of the model text being printed
        self._line_open = False  # a line of code output has no end yet

    def __call__(self, event: ChatEvent) -> None:
        match event:
            case ModelText():
                self._model_text(event)
            case MessageSent():
                self._message(event)
            case CodeStarted():
                which = f" {event.index + 1} of {event.count}" if event.count > 1 else ""
                self._notice(f"EXECUTING CODE BLOCK{which} (inferred language is {event.language})...")
            case CodeOutput():
                self._output(event)
            case ArtifactCreated():
                artifact = event.artifact
                where = f"saved {artifact.path}" if artifact.path else f"made {artifact.name}"
                self._line(f"[{event.agent}] {where}")
            case Notice():
                self._notice(event.text)
            case Ended():
                self._notice(f"TERMINATING RUN ({event.reason})")
            case HumanAsked():
                self._close_line()

    def _model_text(self, event: ModelText) -> None:
        if self._speaking is None:
            self._close_line()
            self._header(event.agent, event.recipient)
            self._speaking = Cleaner()
        self._write(self._speaking.feed(event.text))

    def _message(self, event: MessageSent) -> None:
        self._close_line()
        if self._speaking is not None:
            self._speaking = None
            self._write("" if event.message.content.endswith("\n") else "\n")
        else:
            self._header(event.sender, event.recipient)
            self._write(clean(event.message.content).rstrip("\n") + "\n")
        self._write(f"\n{RULE}\n")

    def _header(self, sender: str, recipient: str) -> None:
        to = f" (to {clean(recipient)})" if recipient else ""
        self._write(self._coloured(clean(sender), _YELLOW) + f"{to}:\n\n")

    def _output(self, event: CodeOutput) -> None:
        prefix = self._coloured(f"[{event.agent}] ", _DIM)
        for line in event.text.splitlines(keepends=True):
            self._write(line if self._line_open else prefix + line)
            self._line_open = not line.endswith("\n")

    def _notice(self, text: str) -> None:
        self._line("\n" + self._coloured(f">>>>>>>> {clean(text)}", _RED))

    def _line(self, text: str) -> None:
        self._close_line()
        self._write(text + "\n")

    def _close_line(self) -> None:
        if self._line_open:
            self._write((_RESET if self._use_colours() else "") + "\n")
            self._line_open = False

    def _coloured(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_RESET}" if self._use_colours() else text

    def _use_colours(self) -> bool:
        return self._colours if self._colours is not None else self._out().isatty()

    def _out(self) -> TextIO:
        return self._file or sys.stdout

    def _write(self, text: str) -> None:
        out = self._out()
        shown = text if self._use_colours() else COLOUR.sub("", text)
        encoding = getattr(out, "encoding", None) or "utf-8"
        out.write(shown.encode(encoding, "replace").decode(encoding))
        out.flush()
