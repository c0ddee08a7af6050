"""What the service tells about itself: sessions, files, languages, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_client.wire.parse import items, take

Json = Any


@dataclass(frozen=True, kw_only=True)
class SessionInfo:
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
class FileEntry:
    """One entry of the workspace; `type` is file, directory, symlink or other."""

    path: str = ""
    type: str = "file"
    size: int = 0
    modified_at: str | float | None = None
    mode: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class Language:
    name: str = ""
    aliases: Sequence[str] = ()
    version: str | None = None
    stateful: bool = False
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image; `details` is all that the service says about it."""

    name: str = ""
    details: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ServiceInfo:
    """What this service is and enforces."""

    version: str = ""
    backend: str = ""
    isolation: Json = None
    limits: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SessionPage:
    """Some sessions, and where the next ones start (None: these were the last)."""

    items: Sequence[SessionInfo] = ()
    next_cursor: str | None = None

    @classmethod
    def parse(cls, data: Mapping[str, Json]) -> SessionPage:
        return take(cls, data, items=tuple(take(SessionInfo, e) for e in items(data.get("items"))))
