"""Text from a sandbox made safe to print and fit for a model: control sequences out, length bounded.

What a program prints can move the cursor, retitle the window, answer queries into the shell's
input or hide what came before. Only colours (`ESC [ ... m`) are let through (ECMA-48 for the forms).
"""

from __future__ import annotations

import re
from typing import Any

from agent_client.usage import Usage

MAX_FOR_MODEL = 20_000
# Models choose the language and the code: lexers of bounded pace only (those of C and Java need minutes for
# many empty lines), and no endless text.
_COLOURED = frozenset([
    "python", "sh", "javascript", "typescript", "go", "rust", "ruby", "perl", "php", "lua", "r", "sql",
    "json", "yaml", "toml", "html", "css", "diff",
])  # fmt: skip
_MAX_COLOURED = 10_000

# A sequence that is complete, by introducer: CSI, strings (OSC, DCS, APC, PM, SOS), two-byte escapes.
_SEQUENCE = re.compile(
    r"(?P<colour>\x1b\[[0-9;:]{0,64}m)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-Z\\`-~]"
    r"|(?P<newline>\r\n)"
    r"|(?P<control>[\x00-\x08\x0b-\x1f\x7f-\x9f])"
)
_UNFINISHED = re.compile(
    r"(?:\x1b|(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*\x1b?"
    r"|\x1b[ -/]+|\r)\Z"
)
_MAX_HELD = 4096
COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# What embeds, overrides or isolates a direction can make code read as what it is not (CVE-2021-42574).
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


class Cleaner:
    """Removes control sequences from a stream of text, also those that chunks cut in two."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The printable part of what has come so far; an unfinished sequence is held back."""
        text = self._held + text
        match = _UNFINISHED.search(text)
        cut = match.start() if match and len(text) - match.start() <= _MAX_HELD else len(text)
        self._held = text[cut:]
        return _SEQUENCE.sub(_replace, text[:cut])

    def finish(self) -> str:
        """What was held back, at the end of the stream: without its introducer it is plain text."""
        held, self._held = self._held, ""
        return "\n" if held == "\r" else ""


def clean(text: str, *, colours: bool = True) -> str:
    """`text` without terminal control sequences; newline and tab stay, a lone CR becomes a newline."""
    cleaner = Cleaner()
    done = cleaner.feed(text) + cleaner.finish()
    return done if colours else COLOUR.sub("", done)


def coloured_code(code: str, language: str, formatter: str, **options: Any) -> str | None:
    """`code` as one of Pygments' formatters writes it ("terminal", "html"); None without Pygments (the extra
    `cli`), in a language that is not known, or too long. For a terminal it was cleaned before.
    """
    if language not in _COLOURED or len(code) > _MAX_COLOURED:
        return None
    try:
        import pygments  # type: ignore[import-untyped]
        from pygments import formatters, lexers
    except ImportError:
        return None
    lexer = lexers.get_lexer_by_name(language, stripnl=False)
    made: str = pygments.highlight(code, lexer, formatters.get_formatter_by_name(formatter, **options))
    return made if code.endswith("\n") else made.removesuffix("\n")


def visible(text: str) -> str:
    """`text` for people, with characters that reorder what follows shown by their code points."""
    return _DIRECTION.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def label(text: str, *, limit: int = 200) -> str:
    """A name, an argument, a reason: cleaned, without colours, on one line of at most `limit` characters."""
    line = " ".join(visible(clean(text[: 4 * limit], colours=False)).split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 3] + "..."


def ended_line(reason: str, usage: Usage, duration: float) -> str:
    """Why a run stopped and what it took: model calls, tokens in + out, cost if known, seconds."""
    parts = [f"Stopped: {label(reason, limit=500)}"]
    if usage.requests:
        calls = "1 model call" if usage.requests == 1 else f"{usage.requests:,} model calls"
        parts.append(f"{calls}, {usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens")
    if usage.cost:
        parts.append(f"${usage.cost:.4f}" if usage.cost >= 0.0001 else "under $0.0001")
    return " · ".join([*parts, f"{duration:.1f} s"])


def _replace(match: re.Match[str]) -> str:
    if match["colour"]:
        return match["colour"]
    if match["newline"] or match["control"] == "\r":
        return "\n"
    return ""


def overwritten(text: str) -> str:
    """What a terminal would show of lines redrawn with CR (progress bars): the last state of each."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)


def for_model(text: str, *, limit: int = MAX_FOR_MODEL) -> str:
    """Output as a model gets it: cleaned, progress bars folded, at most about `limit` characters.

    Too long a text loses its middle: errors stand at the end, what a program says of itself at the start.
    """
    text = clean(overwritten(text))
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    left_out = len(text) - head - tail
    return f"{text[:head]}\n... [{left_out} characters left out] ...\n{text[-tail:]}"
