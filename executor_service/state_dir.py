"""The state directory: an instance of the service is its state directory.

It holds the instance's id, its keys and a lock that refuses a second service.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

SYSTEM = Path("/var/lib/codecell")
_ID = re.compile(r"[0-9a-f]{16}")


class StateDirError(Exception):
    """The state directory cannot be used; the message says what to do."""


def default(environ: Mapping[str, str] = os.environ) -> Path:
    """`/var/lib/codecell` for root where that can be written, else the user's XDG state directory."""
    if os.geteuid() == 0 and _writable(SYSTEM):
        return SYSTEM
    given = environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith("/") else Path(environ.get("HOME") or Path.home()) / ".local/state"
    return base / "codecell"


def _writable(path: Path) -> bool:
    nearest = next(each for each in (path, *path.parents) if each.exists())
    return os.access(nearest, os.W_OK | os.X_OK)


def prepare(path: Path) -> Path:
    """The directory, made if it was not there, for its owner alone.

    Raises:
        StateDirError: it cannot be made, or belongs to another user.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = path.stat().st_uid
    except OSError as error:
        raise StateDirError(f"the state directory {path} cannot be made: {error.strerror}") from None
    if owner != os.geteuid():
        raise StateDirError(
            f"the state directory {path} belongs to another user; choose one with --state-dir"
        )
    path.chmod(0o700)
    return path


def instance_id(path: Path) -> str:
    """The id of this instance, made at first use.

    Raises:
        StateDirError: the file cannot be read or written.
    """
    file = path / "instance"
    try:
        with contextlib.suppress(FileNotFoundError):
            found = file.read_text(encoding="ascii").strip()
            if _ID.fullmatch(found):
                return found
        made = secrets.token_hex(8)
        temporary = path / f".instance-{os.getpid()}"
        temporary.write_text(made + "\n", encoding="ascii")
        temporary.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise StateDirError(f"{file}: {error}") from None
    return made


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the instance's lock; it falls with the process, however that ends.

    Raises:
        StateDirError: another service holds it.
    """
    file = path / "lock"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateDirError(f"{file}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StateDirError(
                f"another service (process {holder}) uses the state directory {path}; "
                "stop it, or choose another with --state-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
