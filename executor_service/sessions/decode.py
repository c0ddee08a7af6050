"""Bytes of an output stream to text, as they come: never splits a character, never waits for a line."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Mapping

from executor_service.events import Json, Stage, Stderr, Stdout


class TextStreams:
    """One incremental UTF-8 decoder for stdout and one for stderr; invalid bytes become U+FFFD.

    Says at most `limit` bytes of each: the guest has cut already, and the guest is not believed.
    """

    def __init__(self, *, limit: int, stage: Stage | None = None) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {"stdout": make("replace"), "stderr": make("replace")}
        self._left = {"stdout": limit, "stderr": limit}
        self._stage: Stage | None = stage

    def feed(self, stream: str, data: bytes) -> Stdout | Stderr | None:
        """The event for a chunk; None when it holds only the beginning of a character."""
        data = data[: self._left[stream]]
        self._left[stream] -= len(data)
        return self._event(stream, self._decoders[stream].decode(data))

    def end(self) -> list[Stdout | Stderr]:
        """What the streams still held: the beginning of a character, as U+FFFD."""
        last = [self._event(stream, self._decoders[stream].decode(b"", True)) for stream in self._decoders]
        return [event for event in last if event is not None]

    def state(self) -> dict[str, Json]:
        """What `restore` must know to go on from here."""
        pending = {name: each.getstate()[0].hex() for name, each in self._decoders.items()}
        return {"pending": pending, "left": dict(self._left)}

    def restore(self, state: Mapping[str, Json]) -> None:
        """Go on where `state` was told. It comes back from a sandbox: what makes no sense is left out."""
        pending: Json = state.get("pending")
        left: Json = state.get("left")
        for name, decoder in self._decoders.items():
            with contextlib.suppress(TypeError, ValueError, KeyError):
                decoder.decode(bytes.fromhex(pending[name])[:3])
            with contextlib.suppress(TypeError, ValueError, KeyError):
                self._left[name] = max(0, min(int(left[name]), self._left[name]))

    def _event(self, stream: str, text: str) -> Stdout | Stderr | None:
        if not text:
            return None
        if stream == "stdout":
            return Stdout(text=text, stage=self._stage)
        return Stderr(text=text, stage=self._stage)
