"""What agents say to each other: messages, and the files and images that come with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Json = Any  # a value that json.dumps accepts
Role = Literal["system", "user", "assistant", "tool"]


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


@dataclass(frozen=True, kw_only=True)
class Message:
    """One thing said. `name` is the speaker's; `extra` holds further keys of a chat message."""

    content: str
    role: Role = "user"
    name: str | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)
    artifacts: Sequence[Artifact] = ()

    def to_dict(self) -> dict[str, Json]:
        """The message as chat APIs and AutoGen's callables know it."""
        named = {"name": self.name} if self.name else {}
        return {"content": self.content, "role": self.role, **named, **self.extra}

    @classmethod
    def of(cls, value: str | Mapping[str, Json] | Message, *, role: Role = "user") -> Message:
        """A message from a text, a dict such as `{"content": ...}`, or a message.

        Raises:
            TypeError: anything else, or a dict whose content is no text.
        """
        if isinstance(value, Message):
            return value
        if isinstance(value, str):
            return cls(content=value, role=role)
        if not isinstance(value, Mapping):
            raise TypeError(f"a message is a str, a dict or a Message, not {type(value).__name__}")
        content = value.get("content")
        if not isinstance(content, str | None):
            raise TypeError(f"a message's content is a str, not {type(content).__name__}")
        extra = {k: v for k, v in value.items() if k not in ("content", "role", "name")}
        return cls(content=content or "", role=value.get("role", role), name=value.get("name"), extra=extra)
