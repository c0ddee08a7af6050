"""What agents say to each other: messages, tool calls and their answers, files and images that come along."""

from __future__ import annotations

import base64
import functools
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Json = Any  # a value that json.dumps accepts
Role = str  # "system", "user", "assistant", "tool"; what else a caller gives is passed on
Kind = Literal["text", "human", "code", "stop", "handoff"]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file or image that code made.

    `path` is where it was saved on this machine, `data` its bytes where they are held in memory;
    both are None for a file that stayed in the sandbox.
    """

    name: str
    mime: str = "application/octet-stream"
    size: int = 0
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    def read(self, max_bytes: int = 8 << 20) -> bytes | None:
        """Its bytes; None where they are not here, cannot be read, are more than `max_bytes`, or are a pipe's
        or device's.
        """
        if self.data is not None or self.path is None:
            return self.data if self.data is not None and len(self.data) <= max_bytes else None
        try:
            with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would block
                is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                data = file.read(max_bytes + 1) if is_file else None
        except (OSError, ValueError):
            return None
        return data if data is not None and len(data) <= max_bytes else None


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A model wants a tool called. `arguments` is JSON text exactly as the model wrote it, so it may be
    malformed.
    """

    id: str
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, kw_only=True)
class ToolResponse:
    """What came of one tool call: text for the model, and images or files where it made any."""

    call_id: str
    name: str
    content: str
    is_error: bool = False
    artifacts: Sequence[Artifact] = ()


@dataclass(frozen=True, kw_only=True)
class Message:
    """One thing said. `name` is the speaker's; `kind` says how it came about: "human" was typed, "code" is
    the output of code, "stop" wants the run to end, "handoff" passes the word to `target`.

    `parts` are content parts beside the text in the form of chat APIs (`{"type": "image_url", ...}`).
    `inner` is what its speaker did before saying it (its own tool calls and their answers), which only the
    speaker's model is shown. `extra` holds further keys of a chat message.
    """

    content: str
    role: Role = "user"
    name: str | None = None
    kind: Kind = "text"
    target: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    tool_responses: Sequence[ToolResponse] = ()
    parts: Sequence[Mapping[str, Json]] = ()
    inner: Sequence[Message] = ()
    artifacts: Sequence[Artifact] = ()
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def source(self) -> str | None:
        """The speaker's name, as AutoGen 0.4 calls it."""
        return self.name

    def to_dict(self) -> dict[str, Json]:
        """The message as chat APIs and AutoGen's callables know it."""
        text = {"type": "text", "text": self.content}
        made: dict[str, Json] = {"content": [text, *self.parts] if self.parts else self.content}
        made["role"] = self.role
        if self.name:
            made["name"] = self.name
        if self.tool_calls:
            made["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        if self.tool_responses:
            made["tool_responses"] = [
                {"tool_call_id": r.call_id, "role": "tool", "content": r.content} for r in self.tool_responses
            ]
        return {**made, **self.extra}

    @classmethod
    def of(cls, value: str | Mapping[str, Json] | Message, *, role: Role = "user") -> Message:
        """A message from a text, a dict such as `{"content": ...}`, or a message.

        Raises:
            TypeError: anything else, or a dict whose content is neither text nor content parts.
        """
        if isinstance(value, Message):
            return value
        if isinstance(value, str):
            return cls(content=value, role=role)
        if not isinstance(value, Mapping):
            raise TypeError(f"a message is a str, a dict or a Message, not {type(value).__name__}")
        text, parts = _content(value.get("content"))
        known = ("content", "role", "name", "tool_calls", "tool_responses")
        return cls(
            content=text,
            role=value.get("role", role),
            name=value.get("name"),
            parts=parts,
            tool_calls=tuple(_call(c) for c in value.get("tool_calls") or ()),
            tool_responses=tuple(_response(r) for r in value.get("tool_responses") or ()),
            extra={k: v for k, v in value.items() if k not in known},
        )

    def save(self) -> dict[str, Json]:
        """All of it as JSON, its own values as text where JSON has no such; artifacts without their bytes."""
        own: Any = {"artifacts": {"__all__": {"data"}}, "tool_responses": {"__all__": {"artifacts"}}}
        left_out = own | {"inner": {"__all__": own}}
        saved = _adapter().dump_python(
            self, mode="json", exclude_defaults=True, exclude=left_out, fallback=str
        )
        return dict(saved)

    @classmethod
    def load(cls, saved: Mapping[str, Json]) -> Message:
        """The message that `save` wrote."""
        return _adapter().validate_python(saved)


@functools.cache
def _adapter() -> TypeAdapter[Message]:
    from pydantic import TypeAdapter

    return TypeAdapter(Message)


def TextMessage(*, content: str, source: str | None = None) -> Message:  # noqa: N802 - AutoGen 0.4's name
    """A message in AutoGen 0.4's words; `source` is the speaker's name."""
    return Message(content=content, name=source)


def data_url(mime: str, data: bytes) -> str:
    """Bytes as a `data:` URL (RFC 2397)."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _content(content: Json) -> tuple[str, tuple[Mapping[str, Json], ...]]:
    """The text and the other parts of a chat message's content."""
    if content is None or isinstance(content, str):
        return content or "", ()
    if not isinstance(content, list) or not all(isinstance(part, str | Mapping) for part in content):
        raise TypeError(f"a message's content is a str or a list of parts, not {type(content).__name__}")
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    texts = [str(part.get("text", "")) for part in parts if part.get("type") == "text"]
    return "\n".join(texts), tuple(part for part in parts if part.get("type") != "text")


def _call(call: Mapping[str, Json]) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(
        id=str(call.get("id", "")),
        name=str(function.get("name", "")),
        arguments=str(function.get("arguments") or "{}"),
    )


def _response(response: Mapping[str, Json]) -> ToolResponse:
    return ToolResponse(
        call_id=str(response.get("tool_call_id", "")),
        name=str(response.get("name", "")),
        content=str(response.get("content", "")),
    )
