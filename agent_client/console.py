"""Prints a conversation's events as they happen, in the form that AutoGen's users know."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterable, Generator
from contextlib import aclosing, nullcontext
from typing import Any, TextIO

from agent_client import chat_events as events
from agent_client import code_blocks
from agent_client.messages import Artifact, Message
from agent_client.output_text import COLOUR, Cleaner, clean, coloured_code, ended_line, label, visible
from agent_client.terminal_image import MAX_BYTES, image_protocol, inline_image

RULE = "-" * 80
_RED, _GREEN, _YELLOW, _DIM, _RESET = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
_MAY_BE_FENCE = re.compile(r"[ \t>]*(?:[-*+]|\d{1,9}[.)]?)?[ \t]*(?:`{0,2}|~{0,2}|(?:`{3,}|~{3,}).*)$")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_CONTEXT = 1_000  # characters before a streamed line that its colours take into account


class Console:
    """An event sink that prints. `await Console(stream)` prints a stream of events and gives its last item
    that is none: the result of a `run_stream`.

    On a terminal code is coloured, and images are shown where it can; `NO_COLOR` and `colours` are heeded.
    No control sequence of a model, a tool or a sandbox is let through, except the colours of output.
    """

    def __init__(
        self,
        stream: AsyncIterable[Any] | None = None,
        *,
        file: TextIO | None = None,
        colours: bool | None = None,
    ) -> None:
        self._stream = stream
        self._file = file
        self._colours = colours
        self._turn = ""  # whose header stands above
        self._text: FencedText | None = None  # the model's that is being printed
        self._streamed = ""  # by models in this turn
        self._ran: list[str] = []  # output of code printed in this turn
        self._seen = ""  # the last message: its code is not printed again where it runs
        self._line_open = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._print_all().__await__()

    async def _print_all(self) -> Any:
        if self._stream is None:
            raise TypeError(
                "a Console is awaited with a stream of events: await Console(team.run_stream(...))"
            )
        last: Any = None
        closing: Any = aclosing if hasattr(self._stream, "aclose") else nullcontext
        try:
            async with closing(self._stream):
                async for item in self._stream:
                    if isinstance(item, events.ChatEvent):
                        self(item)
                    else:
                        last = item
        finally:
            self._close()
        return last

    def __call__(self, event: events.ChatEvent) -> None:
        """Print an event."""
        if not isinstance(event, events.ModelText | events.CodeOutput):
            self._close()
        match event:
            case events.ModelText():
                self._model_text(event)
            case events.MessageSent():
                self._message(event)
            case events.SpeakerSelected():
                self._line(f"\n{_GREEN}Next speaker: {label(event.agent)}{_RESET}\n")
            case events.CodeStarted():
                self._code(event)
            case events.CodeOutput():
                self._output(event)
            case events.ArtifactCreated():
                self._artifact(event.agent, event.artifact)
            case events.ToolCalled():
                self._note(event.agent, f"calls {label(event.call.name)}({label(event.call.arguments)})")
            case events.ToolReturned():
                said, colour = event.response, _RED if event.response.is_error else ""
                self._note(event.agent, f"{label(said.name)} -> {colour}{label(said.content)}{_RESET}")
                for artifact in said.artifacts:
                    self._artifact(event.agent, artifact)
            case events.Notice():
                self._notice(event.text)
            case events.Ended():
                self._line(f"\n{_RED}{ended_line(event.reason, event.usage, event.duration)}{_RESET}")

    def _model_text(self, event: events.ModelText) -> None:
        if self._text is None or self._turn != event.agent:
            self._close()
            self._line("") if self._turn == event.agent else self._header(event.agent, event.recipient)
            self._text = FencedText(coloured=self._use_colours())
        self._streamed += event.text
        self._write(self._text.feed(event.text))

    def _message(self, event: events.MessageSent) -> None:
        message = event.message
        if not message.tool_responses:  # those were told as they came
            self._header(event.sender, event.recipient)
            self._body(message)
        for call in message.tool_calls:
            self._note(event.sender, f"suggests {label(call.name)}({label(call.arguments)})")
        self._line(f"\n{RULE}")
        self._seen, self._turn = message.content, ""
        self._ran.clear()

    def _header(self, sender: str, recipient: str) -> None:
        if self._turn != sender:
            to = f" (to {label(recipient)})" if recipient else ""
            self._line(("\n" if self._ran else "") + f"{_YELLOW}{label(sender)}{_RESET}{to}:\n")
            self._turn, self._streamed = sender, ""

    def _body(self, message: Message) -> None:
        content = message.content.rstrip()
        if message.kind == "code":
            self._line(self._not_printed_yet(clean(content)) + _RESET)
        elif content and content.strip() not in self._streamed:
            self._line(FencedText(coloured=self._use_colours()).feed(content, last=True))
        for part in message.parts:
            self._line(f"[{label(str(part.get('type')))}]")

    def _not_printed_yet(self, content: str) -> str:
        """A code reply without the lines of output that were printed as they came."""
        status, found, output = content.partition("\nCode output: ")
        printed = set(COLOUR.sub("", "".join(self._ran)).split("\n"))
        rest = [line for line in output.split("\n") if COLOUR.sub("", line) not in printed]
        return status + (found + "\n".join(rest) if rest else "")

    def _code(self, event: events.CodeStarted) -> None:
        which = f" {event.index + 1} of {event.count}" if event.count > 1 else ""
        self._notice(f"EXECUTING CODE BLOCK{which} (inferred language is {event.language})...")
        if event.code.strip() not in self._seen:
            code = clean(event.code.strip("\n"), colours=False)
            self._line(_for_terminal(code, event.language) if self._use_colours() else code)

    def _output(self, event: events.CodeOutput) -> None:
        if self._text is not None:
            self._close()
        self._ran.append(clean(event.text))
        for line in _LINE.findall(self._ran[-1]):
            prefix = "" if self._line_open else f"{_DIM}[{label(event.agent)}]{_RESET} "
            self._write(prefix + line.replace("\n", _RESET + "\n"))

    def _artifact(self, agent: str, artifact: Artifact) -> None:
        made = f"made {label(artifact.name)}"
        self._note(agent, f"saved {label(str(artifact.path))}" if artifact.path else made)
        protocol = image_protocol(os.environ) if self._out().isatty() and self._use_colours() else None
        if protocol is not None:
            self._out().write(inline_image(artifact.read(MAX_BYTES) or b"", protocol))
            self._out().flush()

    def _notice(self, text: str) -> None:
        self._line(f"\n{_RED}>>>>>>>> {label(text, limit=2000)}{_RESET}")

    def _note(self, agent: str, text: str) -> None:
        self._line(f"{_DIM}[{label(agent)}]{_RESET} {text}")

    def _line(self, text: str) -> None:
        self._write(text + "\n")

    def _close(self) -> None:
        """End what is being printed: a model's text, a line of output."""
        text, self._text = self._text, None
        if text is not None:
            self._write(text.feed("", last=True))
        if self._line_open:
            self._line(_RESET)

    def _use_colours(self) -> bool:
        if self._colours is not None:
            return self._colours
        return self._out().isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def _out(self) -> TextIO:
        return self._file or sys.stdout

    def _write(self, text: str) -> None:
        if text:
            out = self._out()
            shown = visible(text if self._use_colours() else COLOUR.sub("", text))
            encoding = getattr(out, "encoding", None) or "utf-8"
            out.write(shown.encode(encoding, "replace").decode(encoding))
            out.flush()
            self._line_open = not text.endswith("\n")


class FencedText:
    """What a model writes on its way to a terminal, piece by piece: cleaned, its code coloured if asked.

    Prose comes out at once, code line by line.
    """

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured
        self._cleaner = Cleaner()
        self._held = ""  # the start of a line that is not printed yet
        self._in_line = False  # the start of this line is printed, so it is no fence
        self._fence = ""
        self._language = ""
        self._before = ""  # code above, for a lexer to know where it is

    def feed(self, text: str, *, last: bool = False) -> str:
        """What can be printed now; with `last`, all of it."""
        text = COLOUR.sub("", self._cleaner.feed(text) + (self._cleaner.finish() if last else ""))
        if not self._coloured:
            return text
        self._held += text
        if self._fence and "\n" not in text and not last:
            return ""
        lines = _LINE.findall(self._held)
        self._held, shown, code = "", "", ""
        for line in lines:
            whole = last or line.endswith("\n")
            if not whole and not self._in_line and (self._fence or _MAY_BE_FENCE.match(line)):
                self._held = line
            elif self._fence and not code_blocks.closes(line, self._fence):
                code += line
            else:
                shown += self._painted(code) + self._prose(line)
                code = ""
        return shown + self._painted(code)

    def _prose(self, line: str) -> str:
        opened = None if self._fence or self._in_line else code_blocks.opening(line.rstrip("\n"))
        _, self._fence, self._language = opened or ("", "", "")
        self._before, self._in_line = "", not line.endswith("\n")
        return line

    def _painted(self, code: str) -> str:
        if not code.strip():
            return code
        above = self._before if len(self._before) <= _CONTEXT else ""
        self._before = above + code
        return "".join(_LINE.findall(_for_terminal(self._before, self._language))[above.count("\n") :])


def _for_terminal(code: str, info: str) -> str:
    """Code, which was cleaned, in colours; the same number of lines."""
    return coloured_code(code, code_blocks.language_of(info), "terminal", bg="dark") or code
