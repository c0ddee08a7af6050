"""Keys: who may call. Only their SHA-256 is kept, and comparing takes the same time for any guess.

A key file has one key a line, `KEY` or `NAME KEY`; `KEY` may be given as `sha256:HEX`. Empty lines
and lines that start with `#` do not count. The state directory's own `keys` file has the same form.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import string
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PREFIX = "sha256:"
RELOAD_EVERY = 1.0  # seconds; how soon a key that was added or removed counts
_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "._-")


class KeyFileError(Exception):
    """A key file cannot be read or understood. The message names the line, never the key."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A known key: its digest (32 bytes) and what the operator calls it."""

    digest: bytes
    name: str = ""

    @property
    def id(self) -> str:
        """Names the key in logs and owns what was made with it; tells nothing about the key."""
        return "key_" + hashlib.sha256(b"codecell key id\0" + self.digest).hexdigest()[:16]

    def line(self) -> str:
        """The key as a line of a key file."""
        return f"{self.name} {PREFIX}{self.digest.hex()}".strip()


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def parse(text: str, *, source: str) -> tuple[Key, ...]:
    """The keys in a key file's text.

    Raises:
        KeyFileError: a line that is neither `KEY` nor `NAME KEY`.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise KeyFileError(f"{source}, line {number}: expected KEY or NAME KEY")
        found.append(_parse_key(words[-1], words[0] if len(words) == 2 else "", f"{source}, line {number}"))
    return tuple(found)


def _parse_key(word: str, name: str, where: str) -> Key:
    check_name(name, where)
    if not word.startswith(PREFIX):
        return Key(digest=digest_of(word), name=name)
    try:
        digest = bytes.fromhex(word.removeprefix(PREFIX))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise KeyFileError(f"{where}: {PREFIX} must be followed by 64 hexadecimal digits")
    return Key(digest=digest, name=name)


def check_name(name: str, where: str) -> None:
    """Raises KeyFileError: a name of other characters than letters, digits, `.`, `_` and `-`."""
    if len(name) > 64 or not _NAME_CHARACTERS.issuperset(name):
        raise KeyFileError(f"{where}: a name has at most 64 letters, digits, '.', '_' and '-'")


def read(path: Path, *, missing_ok: bool = False) -> tuple[Key, ...]:
    """The keys in a file.

    Raises:
        KeyFileError: it cannot be read or understood.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), source=str(path))
    except FileNotFoundError:
        if missing_ok:
            return ()
        raise KeyFileError(f"{path}: there is no such key file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: cannot be read: {error}") from None


def write(path: Path, keys: Iterable[Key]) -> None:
    """Replace a key file atomically; only its owner can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{key.line()}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def new_key() -> str:
    """A key with 256 random bits."""
    return "cc_" + secrets.token_urlsafe(32)


def add(path: Path, name: str) -> str:
    """A new key, added to a key file hashed, and returned this once.

    Raises:
        KeyFileError: the file cannot be read, or has a key of that name; or it is no name.
    """
    check_name(name, "keys add")
    known = read(path, missing_ok=True)
    if any(each.name == name for each in known):
        raise KeyFileError(f"there is a key named {name} already")
    made = new_key()
    write(path, [*known, Key(digest=digest_of(made), name=name)])
    return made


class KeyRing:
    """The keys that count now. Files are looked at again when they change."""

    def __init__(self, fixed: Iterable[Key] = (), files: Sequence[Path] = ()) -> None:
        """`fixed` keys always count; the keys of `files` count while they stand there.

        Raises:
            KeyFileError: a file cannot be understood. A file that is not there has no keys.
        """
        self._fixed = tuple(fixed)
        self._files = tuple(files)
        self._stamp = self._stamps()
        self._keys = self._load()
        self._required = bool(self._keys)
        self._looked = time.monotonic()

    def __repr__(self) -> str:
        return f"<KeyRing keys={len(self._keys)}>"

    @property
    def required(self) -> bool:
        """Whether callers must show a key. Once that is so it stays so, even when all are removed."""
        self._refresh()
        return self._required

    def find(self, key: bytes) -> Key | None:
        """The key that a caller shows, if it is known."""
        self._refresh()
        digest = hashlib.sha256(key).digest()
        found = None
        for each in self._keys:  # all of them, whatever is found
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found

    def _refresh(self) -> None:
        now = time.monotonic()
        if not self._files or now - self._looked < RELOAD_EVERY:
            return
        self._looked = now
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        try:
            self._keys = self._load()
        except KeyFileError:
            return  # half written; the keys from before count until it can be read
        self._stamp = stamp
        self._required = self._required or bool(self._keys)

    def _load(self) -> tuple[Key, ...]:
        return self._fixed + tuple(key for file in self._files for key in read(file, missing_ok=True))

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino, status.st_size)
