"""Request bodies of the HTTP API, made from Python arguments. Pure; an absent option is left out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

from agent_client.errors import InvalidPath

Json = Any
Network = bool | Mapping[str, Sequence[str]]
LimitValues = Mapping[str, float | None]


class RunOptions(TypedDict, total=False):
    """Options of a run beside its code. Limits: see docs/api.md (seconds and bytes)."""

    language: str
    stdin: str | bytes
    args: Sequence[str]
    env: Mapping[str, str]
    files: Mapping[str, str | bytes]
    entrypoint: str
    collect: Sequence[str]
    image: str | None
    limits: LimitValues
    network: Network


class SessionOptions(TypedDict, total=False):
    """Options of a session. `ttl` and `idle_ttl` are seconds."""

    language: str
    image: str | None
    limits: LimitValues
    network: Network
    env: Mapping[str, str]
    ttl: float
    idle_ttl: float
    metadata: Mapping[str, str]


class ExecutionOptions(TypedDict, total=False):
    """Options of an execution. `language` names another kernel of the image, or bash."""

    language: str | None
    limits: LimitValues
    allow_input: bool


class CommandOptions(TypedDict, total=False):
    """Options of a command. `cwd` is relative to the workspace unless absolute."""

    cwd: str
    env: Mapping[str, str]
    stdin: str | bytes
    limits: LimitValues


def run_body(code: str | None, **options: Unpack[RunOptions]) -> dict[str, Json]:
    """The body of `POST /v1/runs`."""
    body: dict[str, Json] = {"language": "python", **options}
    body |= {"code": code} if code is not None else {}
    _stdin(body)
    if "files" in body:
        body["files"] = [file_body(path, content) for path, content in options["files"].items()]
    for name in ("args", "collect"):
        if name in body:
            body[name] = list(body[name])
    return _plain(body)


def session_body(**options: Unpack[SessionOptions]) -> dict[str, Json]:
    """The body of `POST /v1/sessions`."""
    return _plain(dict(options))


def execution_body(code: str, **options: Unpack[ExecutionOptions]) -> dict[str, Json]:
    """The body of `POST .../executions`."""
    return _plain({"code": code, **options})


def command_body(command: str | Sequence[str], **options: Unpack[CommandOptions]) -> dict[str, Json]:
    """The body of `POST .../commands`: a text for the shell, or a list of arguments without one."""
    what: dict[str, Json] = {"command": command} if isinstance(command, str) else {"argv": list(command)}
    body = what | dict(options)
    _stdin(body)
    return _plain(body)


def file_body(path: str, content: str | bytes) -> dict[str, str]:
    """A file to put in; bytes go as base64."""
    text, encoding = encoded(content)
    return {"path": path, "content": text, "encoding": encoding}


def file_path(path: str) -> str:
    """The URL path of a workspace file; an absolute path's first slash is escaped.

    Raises:
        InvalidPath: the path is empty, no text, or has a `..` in it (which would name another resource).
    """
    if not path or "\x00" in path or ".." in path.split("/") or not is_text(path):
        raise InvalidPath(f"{path!r} is not a path in the workspace", status=422, code="invalid_path")
    escaped = quote(path.removeprefix("/"), safe="/")
    parts = [part for part in escaped.split("/") if part not in ("", ".")]
    return ("%2F" if path.startswith("/") else "") + "/".join(parts)


def is_text(path: str) -> bool:
    """Whether it can be sent: a name on disk need not be UTF-8, and arrives with half characters then."""
    return path.encode("utf-8", "ignore").decode() == path


def _stdin(body: dict[str, Json]) -> None:
    if isinstance(body.get("stdin"), bytes):
        body["stdin"], body["stdin_encoding"] = encoded(body["stdin"])


def encoded(content: str | bytes) -> tuple[str, str]:
    """A text as it is, bytes as base64; and the name of the encoding."""
    if isinstance(content, str):
        return content, "utf-8"
    return base64.b64encode(content).decode("ascii"), "base64"


def _plain(body: dict[str, Json]) -> dict[str, Json]:
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in body.items() if v is not None}
