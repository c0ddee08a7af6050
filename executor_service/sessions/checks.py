"""What a request must be before anything starts. Pure; each check names the field that is wrong."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from executor_service.egress.policy import Ceiling, Grant, NotOffered
from executor_service.errors import FieldError, InvalidPath, InvalidRequest, NetworkNotAllowed
from executor_service.sessions.requests import FileIn, Network

MAX_CODE = 16 * 1024 * 1024
MAX_WORD = 128 * 1024 - 1  # Linux refuses a longer single argument or variable (MAX_ARG_STRLEN)
MAX_WORDS_TOTAL = 1024 * 1024
MAX_WORDS = 4096
MAX_VARIABLES = 256
MAX_PATH = 1024
MAX_NAME = 255
MAX_GLOBS = 100
MAX_METADATA = 64


def invalid(loc: str, message: str) -> InvalidRequest:
    """The error that says what is wrong with field `loc`."""
    text = f"{loc} {message}"
    return InvalidRequest(text, errors=(FieldError(loc=loc, message=text),))


def check_text(loc: str, text: str, *, longest: int) -> None:
    """Raises InvalidRequest: `text` holds NUL or half a surrogate pair, or is over `longest` bytes."""
    if "\0" in text:
        raise invalid(loc, "must not contain NUL")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise invalid(loc, "is not valid Unicode (it has a lone surrogate)") from None
    if size > longest:
        raise invalid(loc, f"is {size} bytes long, at most {longest} are allowed")


def check_words(loc: str, words: Sequence[str]) -> None:
    """Arguments of a program. Raises InvalidRequest."""
    if len(words) > MAX_WORDS:
        raise invalid(loc, f"has {len(words)} items, at most {MAX_WORDS} are allowed")
    for index, word in enumerate(words):
        check_text(f"{loc}.{index}", word, longest=MAX_WORD)
    if sum(len(word.encode()) + 1 for word in words) > MAX_WORDS_TOTAL:
        raise invalid(loc, f"is longer than {MAX_WORDS_TOTAL} bytes in all")


def check_env(env: Mapping[str, str]) -> None:
    """Environment variables of a program. Raises InvalidRequest."""
    if len(env) > MAX_VARIABLES:
        raise invalid("env", f"has {len(env)} variables, at most {MAX_VARIABLES} are allowed")
    total = 0
    for name, value in env.items():
        if not name or "=" in name:
            raise invalid("env", f"has a variable with the impossible name {name[:80]!r}")
        check_text("env", name, longest=MAX_NAME)
        check_text(f"env.{name}", value, longest=MAX_WORD)
        total += len(name) + len(value.encode())
    if total > MAX_WORDS_TOTAL:
        raise invalid("env", f"is longer than {MAX_WORDS_TOTAL} bytes in all")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """A session's metadata. Raises InvalidRequest."""
    if len(metadata) > MAX_METADATA:
        raise invalid("metadata", f"has {len(metadata)} items, at most {MAX_METADATA} are allowed")
    for key, value in metadata.items():
        check_text("metadata", key, longest=MAX_NAME)
        check_text(f"metadata.{key}", value, longest=4096)


def check_network(network: Network, ceiling: Ceiling) -> Grant | None:
    """What a sandbox may reach; None for no network. Raises NetworkNotAllowed: more than is offered."""
    try:
        return ceiling.grant(network)
    except NotOffered as error:
        message = f"network: {error}"
        raise NetworkNotAllowed(message, errors=(FieldError(loc="network", message=message),)) from None


def check_seconds(loc: str, value: float, *, most: float) -> float:
    """`value`, a time to live. Raises InvalidRequest: not a number above zero, or over `most`."""
    if not value > 0 or value > most:  # NaN is neither
        raise invalid(loc, f"must be above 0 and at most {most:g} seconds")
    return value


def check_signal(name: str) -> str:
    """`name`. Raises InvalidRequest: there is no such signal."""
    if name not in signal.Signals.__members__:
        raise invalid("signal", "must be the name of a signal, such as SIGTERM")
    return name


def check_files(files: Sequence[FileIn], *, most: int, most_bytes: int) -> None:
    """Files for the workspace: relative paths, none both file and directory, and not too much.

    Raises:
        InvalidPath: a path that is not one of the workspace, or that another file excludes.
        InvalidRequest: too many, or too large.
    """
    if len(files) > most:
        raise invalid("files", f"has {len(files)} items, at most {most} are allowed")
    if sum(len(file.content) for file in files) > most_bytes:
        raise invalid("files", f"is larger than {most_bytes} bytes in all")
    taken: set[str] = set()
    parents: set[str] = set()
    for index, file in enumerate(files):
        loc = f"files.{index}.path"
        path = normal_path(loc, file.path)
        above = {path[:at] for at, letter in enumerate(path) if letter == "/"}
        if path in taken:
            raise _bad_path(loc, "is there twice")
        if path in parents or above & taken:
            raise _bad_path(loc, "makes one path both a file and a directory")
        taken.add(path)
        parents |= above


def check_globs(globs: Sequence[str]) -> None:
    """Patterns of files to return. Raises InvalidPath or InvalidRequest."""
    if len(globs) > MAX_GLOBS:
        raise invalid("collect", f"has {len(globs)} items, at most {MAX_GLOBS} are allowed")
    for index, glob in enumerate(globs):
        normal_path(f"collect.{index}", glob)


def normal_path(loc: str, path: str) -> str:
    """`path` without empty and ``.`` parts; relative and inside the workspace.

    Raises:
        InvalidPath: absolute, empty, too long, or with ``..``, NUL, backslash or a lone surrogate.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise _bad_path(loc, "is not valid Unicode (it has a lone surrogate)") from None
    if "\0" in path or "\\" in path:
        raise _bad_path(loc, "must contain neither NUL nor backslash")
    if path.startswith("/"):
        raise _bad_path(loc, "must be relative to the workspace")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _bad_path(loc, "must not contain '..'")
    if not parts or path.endswith("/"):
        raise _bad_path(loc, "must name a file")
    if size > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
        raise _bad_path(loc, f"is too long: at most {MAX_PATH} bytes, {MAX_NAME} in each part")
    return "/".join(parts)


def check_cwd(cwd: str | None, workspace: str) -> str:
    """Where a command starts, as an absolute path. Raises InvalidPath."""
    if cwd is None:
        return workspace
    check_path_text("cwd", cwd)
    return cwd if cwd.startswith("/") else f"{workspace}/{cwd}"


def check_path_text(loc: str, path: str) -> None:
    """Raises InvalidPath: empty, too long, or with NUL or a lone surrogate."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise _bad_path(loc, "is not valid Unicode (it has a lone surrogate)") from None
    if not path or "\0" in path or size > 4 * MAX_PATH:
        raise _bad_path(loc, "must name a directory, without NUL")


def free_name(name: str, taken: frozenset[str]) -> str:
    """`name`, such as ``main.py``, or the first of ``main_1.py``, ``main_2.py`` ... not among `taken`."""
    stem, dot, extension = name.rpartition(".")
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{stem}_{number}{dot}{extension}"
    return free


def _bad_path(loc: str, message: str) -> InvalidPath:
    text = f"{loc} {message}"
    return InvalidPath(text, errors=(FieldError(loc=loc, message=text),))
