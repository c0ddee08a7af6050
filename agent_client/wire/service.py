"""What the service tells about itself: sessions, files, languages, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from agent_client.wire.parse import Parsed

Json = Any


@dataclass(frozen=True, kw_only=True)
class SessionInfo(Parsed):
    id: str = ""
    state: str = ""
    language: str = ""
    image: str | None = None
    backend: str | None = None
    limits: Mapping[str, float | None] = field(default_factory=dict)
    network: Json = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: str | None = None
    expires_at: str | None = None
    last_used_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileEntry(Parsed):
    """One entry of the workspace; `type` is file, directory, symlink or other."""

    path: str = ""
    type: str = "file"
    size: int = 0
    modified_at: str | float | None = None
    mode: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class Language(Parsed):
    name: str = ""
    aliases: Sequence[str] = ()
    version: str | None = None
    stateful: bool = False
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class Image(Parsed):
    """An image; `details` is all that the service says about it."""

    name: str = ""
    details: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: Any) -> Self:
        return super().parse({"name": data.get("name"), "details": data})


@dataclass(frozen=True, kw_only=True)
class ServiceInfo(Parsed):
    """What this service is and enforces."""

    version: str = ""
    backend: str = ""
    isolation: Json = None
    limits: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SessionPage(Parsed):
    """Some sessions, and where the next ones start (None: these were the last)."""

    items: tuple[SessionInfo, ...] = ()
    next_cursor: str | None = None
