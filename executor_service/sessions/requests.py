"""What a caller asked for, as frozen values: one dataclass for each thing that can be asked.

The HTTP layer makes these from JSON and has checked only types; whether they make sense (paths,
limits, languages) is checked in this room, before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Network = bool | Mapping[str, tuple[str, ...]]
"""False, True, or ``{"allow": (host patterns)}``."""


def network_view(network: Network) -> bool | dict[str, list[str]]:
    """The same as JSON."""
    return network if isinstance(network, bool) else {"allow": list(network["allow"])}


LimitsAsked = Mapping[str, float | None]
"""Limits by name; absent or None means the default."""


@dataclass(frozen=True, kw_only=True)
class FileIn:
    """A file to put into the workspace before a run. `content` is already decoded."""

    path: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One program in a fresh sandbox. Exactly one of `code` and `entrypoint` (a path among `files`)."""

    language: str
    code: str | None = None
    entrypoint: str | None = None
    stdin: bytes = b""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FileIn, ...] = ()
    collect: tuple[str, ...] = ()
    image: str | None = None
    limits: LimitsAsked = field(default_factory=dict)
    network: Network = False
    detach: bool = False


@dataclass(frozen=True, kw_only=True)
class SessionRequest:
    """A stateful claim on a sandbox. `ttl` and `idle_ttl` are seconds; None means the default."""

    language: str = "python"
    image: str | None = None
    limits: LimitsAsked = field(default_factory=dict)
    network: Network = False
    env: Mapping[str, str] = field(default_factory=dict)
    ttl: float | None = None
    idle_ttl: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExecutionRequest:
    """One piece of code for a session's kernel, or for `bash` when `language` says so."""

    code: str
    language: str | None = None
    limits: LimitsAsked = field(default_factory=dict)
    allow_input: bool = False
    detach: bool = False


@dataclass(frozen=True, kw_only=True)
class CommandRequest:
    """One process in a session's sandbox. Exactly one of `command` (for bash) and `argv`.

    `cwd` is relative to the workspace, or absolute; None means the workspace. `stdin` None leaves
    the input open for later `input` calls when detached, and closes it otherwise.
    """

    command: str | None = None
    argv: tuple[str, ...] | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    limits: LimitsAsked = field(default_factory=dict)
    detach: bool = False
