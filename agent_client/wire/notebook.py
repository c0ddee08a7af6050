"""Results as HTML for a notebook. Nothing from a sandbox gets into the page itself:

text is escaped, images are `<img>` with a data URI (scripts in an SVG do not run there), HTML and
JavaScript stand in a sandboxed iframe without the page's origin and without network.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent_client.output_text import clean

_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; font-src data:;'
    " style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'\">"
)
_PRE = '<pre style="margin:0;white-space:pre-wrap{}">{}</pre>'
_RASTER = ("image/png", "image/jpeg", "image/gif", "image/webp")
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_MAX_TEXT = 200_000


def result_html(
    stdout: str, stderr: str, *, bundles: Sequence[Mapping[str, Any]] = (), traceback: str = "", ended: str
) -> str:
    """What came of code: text, rich outputs, traceback, and how it ended."""
    rich = [bundle_html(bundle) for bundle in bundles]
    errors = [_pre(traceback, "color:#a40000"), _pre(ended, "color:#777")]
    return _stack(_pre(stdout), _pre(stderr, "color:#a40000"), *rich, *errors)


def bundle_html(data: Mapping[str, Any]) -> str:
    """The richest form of a MIME map that can be shown safely."""
    for mime in _RASTER:
        if isinstance(data.get(mime), str) and _is_base64(data[mime]):
            return f'<img src="data:{mime};base64,{"".join(data[mime].split())}">'
    svg = data.get("image/svg+xml")
    if isinstance(svg, str):
        return f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
    if isinstance(data.get("text/html"), str):
        return _frame(data["text/html"])
    if isinstance(data.get("application/javascript"), str):
        return _frame(f"<script>{data['application/javascript']}</script>")
    for mime in ("text/markdown", "text/latex", "text/plain"):
        if isinstance(data.get(mime), str):
            return _pre(data[mime])
    if "application/json" in data:
        return _pre(json.dumps(data["application/json"], indent=1, default=str))
    return _pre(", ".join(sorted(map(str, data))))


def image_mime(data: bytes) -> str | None:
    """What kind of image the bytes themselves say they are, of the kinds that `image_html` shows."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    head = data[:2048].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"<" and b"<svg" in head:
        return "image/svg+xml"
    return next((mime for magic, mime in _MAGIC.items() if data.startswith(magic)), None)


def image_html(data: bytes) -> str | None:
    """Image bytes as an `<img>` with a data URI, where nothing in them runs; None where they are no image."""
    mime = image_mime(data)
    return f'<img alt="" src="data:{mime};base64,{base64.b64encode(data).decode()}">' if mime else None


def _frame(body: str) -> str:
    page = html.escape(_POLICY + body, quote=True)
    style = "border:0;width:100%;height:320px"
    return f'<iframe sandbox="allow-scripts" srcdoc="{page}" style="{style}"></iframe>'


def _pre(text: str, style: str = "") -> str:
    if not text:
        return ""
    shown = clean(text[:_MAX_TEXT], colours=False)
    return _PRE.format(";" + style if style else "", html.escape(shown))


def _stack(*parts: str) -> str:
    return "<div>" + "".join(part for part in parts if part) + "</div>"


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
