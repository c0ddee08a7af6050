"""The output of one message's blocks as it grows: reported piece by piece, kept for the reply."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from agent_client.executors.base import ArtifactMade, Output, Progress, ProgressSink, Stream
from agent_client.messages import Artifact
from agent_client.output_text import Cleaner, for_model
from agent_client.wire.events import Display, Error, Event, Result, Stderr, Stdout

MAX_KEPT = 200_000  # characters of raw output: half from the start, half from the end
MAX_IMAGES = 20
_IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
_NO_NETWORK = re.compile(
    r"No matching distribution found|Could not find a version|[Nn]ame resolution|NewConnectionError"
    r"|Network is unreachable|Failed to establish a new connection"
)
NETWORK_HINT = (
    "(The sandbox has no network, so pip cannot download packages. Use the packages that are installed; or"
    " the user can allow it with RemoteCodeExecutor(network=True), where the service permits.)"
)


class OutputLog:
    """Takes events and texts in order. `text()` is what the model gets."""

    def __init__(self, sink: ProgressSink | None) -> None:
        self._sink = sink
        self._parts: list[str] = []
        self._kept = 0
        self._dropped = 0
        self._last = "\n"
        self._cleaners: dict[Stream, Cleaner] = {"stdout": Cleaner(), "stderr": Cleaner()}
        self.images: list[tuple[str, bytes]] = []  # mime, bytes

    def report(self, progress: Progress) -> None:
        """Tell whoever watches."""
        if self._sink is not None:
            self._sink(progress)

    def event(self, event: Event) -> None:
        """Take in what the code printed, showed or raised."""
        match event:
            case Stdout():
                self._print(event.text, "stdout")
            case Stderr():
                self._print(event.text, "stderr")
            case Display(update=False):
                self._show(event.data)
            case Result():
                self._show(event.data)
            case Error():
                self.line("\n".join(event.traceback) or f"{event.name}: {event.value}", "stderr")

    def line(self, text: str, stream: Stream = "stdout") -> None:
        """A text on lines of its own."""
        start = "" if self._last == "\n" else "\n"
        self._print(f"{start}{text}" + ("" if text.endswith("\n") else "\n"), stream)

    def end_block(self) -> None:
        """A block has ended: what follows starts on a new line."""
        for stream, cleaner in self._cleaners.items():
            rest = cleaner.finish()
            if rest:
                self.report(Output(text=rest, stream=stream))
        if self._last != "\n":
            self._print("\n", "stdout")

    def artifact(self, artifact: Artifact) -> None:
        self.report(ArtifactMade(artifact=artifact))

    def text(self) -> str:
        """All output, cleaned and bounded."""
        text = for_model("".join(self._parts))
        if self._dropped:
            text += f"[{self._dropped} more characters of the middle were left out]\n"
        return text

    def _print(self, text: str, stream: Stream) -> None:
        if not text:
            return
        self._last = text[-1]
        self._parts.append(text)
        self._kept += len(text)
        if self._kept > 2 * MAX_KEPT:
            self._drop_middle()
        printable = self._cleaners[stream].feed(text)
        if printable:
            self.report(Output(text=printable, stream=stream))

    def _drop_middle(self) -> None:
        text = "".join(self._parts)
        self._parts = [text[: MAX_KEPT // 2], text[-MAX_KEPT // 2 :]]
        self._kept = MAX_KEPT
        self._dropped += len(text) - MAX_KEPT

    def _show(self, data: Mapping[str, Any]) -> None:
        text = data.get("text/plain")
        if isinstance(text, str) and text:
            self.line(text)
        for mime in _IMAGES:
            if isinstance(data.get(mime), str) and len(self.images) < MAX_IMAGES:
                content = _image_bytes(mime, data[mime])
                if content:
                    self.images.append((mime, content))
                return


def image_name(number: int, mime: str) -> str:
    """The file name of the `number`-th image that was shown rather than saved."""
    return f"figure-{number}.{_IMAGES[mime]}"


def network_hint(code: str, output: str) -> str | None:
    """What to say when `pip install` failed for want of network."""
    wants = re.search(r"\b(pip3?|uv)\b.*\binstall\b", code) is not None
    return NETWORK_HINT if wants and _NO_NETWORK.search(output) else None


def _image_bytes(mime: str, text: str) -> bytes:
    if mime == "image/svg+xml":
        return text.encode("utf-8", "replace")
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
