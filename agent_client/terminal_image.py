"""Images inside a terminal: the control sequences that show one, where the terminal is known to understand.

Kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/, iTerm2: https://iterm2.com/documentation-images.html.
Nothing but base64 of bytes whose kind was checked, and numbers, gets into a sequence.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal

from agent_client.wire.notebook import image_mime

Protocol = Literal["kitty", "iterm2"]
MAX_BYTES = 4 << 20
_MAX_PIXELS = 40_000_000  # of a PNG: a small file can be a large picture
_WIDE, _COLUMNS = 640, 72  # pixels from which on an image is fitted into so many columns
_CHUNK = 4096


def image_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """Which way of showing images the terminal of that environment has. With a multiplexer between: none."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or "STY" in environment or term.startswith(("screen", "tmux")):
        return None
    if program in ("iTerm.app", "WezTerm", "mintty") or "WEZTERM_PANE" in environment:
        return "iterm2"
    if "KITTY_WINDOW_ID" in environment or program == "ghostty" or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    return None


def inline_image(data: bytes, protocol: Protocol) -> str:
    """What to print to show the image; "" where it is no PNG (or, for iTerm2, JPEG), or too large."""
    mime = image_mime(data)
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))  # of a PNG (section 11.2.1)
    if len(data) > MAX_BYTES or (mime == "image/png" and not 0 < width * height <= _MAX_PIXELS):
        return ""
    text = base64.b64encode(data).decode("ascii")
    if protocol == "iterm2" and mime in ("image/png", "image/jpeg"):
        return f"\x1b]1337;File=inline=1;size={len(data)};preserveAspectRatio=1:{text}\x07\n"
    if protocol == "kitty" and mime == "image/png":
        # q=2: the terminal answers nothing, which would land in the next program's input.
        keys = "a=T,f=100,q=2," + (f"c={_COLUMNS}," if width > _WIDE else "")
        chunks = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
        last = f"\x1b_G{'' if chunks[1:] else keys}m=0;{chunks[-1]}\x1b\\\n"
        more = (f"\x1b_G{'' if at else keys}m=1;{chunk}\x1b\\" for at, chunk in enumerate(chunks[:-1]))
        return "".join(more) + last
    return ""
