"""Where a path of a file operation leads, how a name is shown, and what an errno means.

Runs under the user's uid inside the sandbox, so nothing here is a wall: the kernel refuses what
the user may not do. These rules keep answers clear and operations bounded.

A path is relative to the workspace or absolute; `..` and NUL are refused. A name that is not
UTF-8 is shown with U+FFFD in place of the bad bytes; a path that has U+FFFD and names nothing
literally stands for the one entry that is shown so, so that such files stay reachable.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable

PATH_MAX = 4096
PART_PREFIX = ".codecell-"  # of files and directories that an operation is still busy with

_CODES = {
    errno.ENOENT: "file_not_found",
    errno.EISDIR: "is_a_directory",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    **dict.fromkeys(
        (
            errno.ENOTDIR,
            errno.EACCES,
            errno.EPERM,
            errno.ELOOP,
            errno.ENAMETOOLONG,
            errno.EROFS,
            errno.ENXIO,
            errno.ENODEV,
            errno.EEXIST,
            errno.ENOTEMPTY,
            errno.EINVAL,
            errno.EXDEV,
            errno.EBUSY,
            errno.ETXTBSY,
            errno.EMLINK,
            errno.EOPNOTSUPP,
        ),
        "invalid_path",
    ),
}


class Refusal(Exception):
    """The operation ends with a stable error code and a sentence for the caller."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def refusal(error: OSError, path: str) -> Refusal:
    """What the failure of a system call on `path` (as the caller wrote it) means to the caller."""
    code = _CODES.get(error.errno or 0, "sandbox_failed")
    return Refusal(code, f"{show(path)}: {os.strerror(error.errno or 0)}")


def show(name: str) -> str:
    """`name` as listings show it: bytes that are not UTF-8 become U+FFFD."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # a lone surrogate, from a caller: no file name has one
        return name.encode("utf-8", "replace").decode()


def locate(path: object, root: str) -> str:
    """The absolute path that `path` names; the file need not exist.

    Raises:
        Refusal: `invalid_path` for anything but a str without NUL, `..` or lone surrogates.
    """
    if not isinstance(path, str) or not path:
        raise Refusal("invalid_path", "a path must be text and not empty")
    if "\0" in path:
        raise Refusal("invalid_path", "a path may not contain NUL")
    try:
        length = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise Refusal("invalid_path", "a path may not contain lone surrogates") from None
    if length >= PATH_MAX:
        raise Refusal("invalid_path", f"a path must be shorter than {PATH_MAX} bytes")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refusal("invalid_path", f"{show(path)}: '..' is not allowed in a path")
    full = "/".join(("" if path.startswith("/") else root.rstrip("/"), *parts)) or "/"
    return _shown_so(full) if "\ufffd" in full and not os.path.lexists(full) else full


def _shown_so(full: str) -> str:
    found = ""
    for part in full.split("/")[1:]:
        found += "/" + (_entry_shown_so(found, part) if "\ufffd" in part else part)
    return found


def _entry_shown_so(directory: str, part: str) -> str:
    """The only entry of `directory` that is shown as `part`, else `part` itself."""
    try:
        with os.scandir(directory or "/") as entries:
            names = [e.name for e in itertools.islice(entries, 10_000)]
    except OSError:
        return part
    same = [name for name in names if show(name) == part]
    return same[0] if part not in names and len(same) == 1 else part


def make_directories(path: str) -> None:
    """Make the absolute directory `path` and its parents (mode 0755) where they are missing.

    Raises:
        OSError: it cannot be made.
    """
    if os.path.isdir(path):
        return
    made = ""
    for part in path.split("/")[1:]:  # a loop: os.makedirs recurses, and paths can be 2000 deep
        made += "/" + part
        try:
            os.mkdir(made, 0o755)
        except OSError:
            if not os.path.isdir(made):
                raise


def open_file(path: str, flags: int = 0) -> int:
    """A descriptor of a regular file; what else it may be neither blocks nor is touched.

    Raises:
        Refusal: it is none.
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise Refusal("invalid_path", "not a regular file")


def replace_file(
    path: str, fill: Callable[[int], None], *, mode: int = 0o644, dir_fd: int | None = None
) -> None:
    """Put a new file at `path`, atomically: `fill(fd)` writes it first, under another name.

    A link at `path` is replaced, never written through. `path` is absolute, or one name in
    `dir_fd`. If anything fails, `path` is as it was and nothing is left behind.

    Raises:
        OSError: whatever the kernel refused, or `fill` met.
    """
    part = os.path.join(os.path.dirname(path), f"{PART_PREFIX}{os.urandom(8).hex()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(part, flags, 0o600, dir_fd=dir_fd)
    try:
        try:
            fill(fd)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        os.replace(part, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        os.unlink(part, dir_fd=dir_fd)
        raise


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError (ENOSPC where the disk is full)."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
