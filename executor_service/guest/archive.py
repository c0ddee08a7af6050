"""A tree of the workspace as a tar stream, out and in.

Out: plain POSIX (pax) tar, names relative to the path that was asked; links as links; FIFOs,
sockets and devices left out. In: plain tar; nothing is written outside the target directory or
through a link, whether the archive brought it or it lay there before. A link is made only where
its text cannot lead out: relative, its `..` all in front, not more of them than it is deep. What
was extracted before a refusal stays.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator

from executor_service.guest.fspaths import PART_PREFIX, Refusal, refusal, replace_file, show, write_all
from executor_service.guest.fswire import Incoming
from executor_service.guest.protocol import CHUNK
from executor_service.guest.walk import DIRECTORY, Budget, Found, walk

MAX_BYTES = 4 << 30  # of an archive's contents: what a workspace can hold is less
MAX_ENTRIES = 200_000
_MAX_HEADER = 1 << 20  # of a pax or GNU header, which tarfile reads into memory


class _Member(tarfile.TarInfo):
    """A tar member whose extended headers are bounded."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        info = super().frombuf(buf, encoding, errors)
        extended = (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if info.type in extended and not 0 <= info.size <= _MAX_HEADER:
            raise Refusal("invalid_request", "the archive has an oversized header")
        return info


class _Sink(io.RawIOBase):
    """What tarfile writes its stream to."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        payload = bytes(data)  # type: ignore[call-overload]
        self._send(payload)
        return len(payload)


def check(path: str, *, max_bytes: int = MAX_BYTES) -> list[Found]:
    """What an archive of the absolute `path` will hold.

    Raises:
        OSError: something in it cannot be read.
        Refusal: `payload_too_large` for more than `max_bytes` or `MAX_ENTRIES`.
    """
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        if not stat.S_ISREG(status.st_mode):
            raise Refusal("invalid_path", "neither a regular file nor a directory")
        found = [Found(os.path.basename(path), status)]
    else:
        budget = Budget(entries=MAX_ENTRIES, seconds=20)
        found = list(walk(path, budget, lambda _: True, strict=True))
        if budget.partial:
            raise Refusal("payload_too_large", "too many entries, or too deep; archive a part of it")
    top, total = path if stat.S_ISDIR(status.st_mode) else os.path.dirname(path), 0
    for item in found:
        if not item.is_file:
            continue
        if not os.access(os.path.join(top, item.path), os.R_OK):
            raise Refusal("invalid_path", f"{show(item.path)}: {os.strerror(errno.EACCES)}")
        total += item.status.st_size
        if total > max_bytes:
            raise Refusal("payload_too_large", f"{show(item.path)} makes it more than {max_bytes} bytes")
    return found


def write(path: str, found: list[Found], send: Callable[[bytes], None]) -> None:
    """Send the tar stream of `found`, which lies below the absolute `path`.

    Raises:
        OSError: a file became unreadable, or shorter while it was read.
    """
    top = path if os.path.isdir(path) else os.path.dirname(path)
    with tarfile.open(
        fileobj=_Sink(send),
        mode="w|",
        bufsize=CHUNK,
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
    ) as tar:
        for item in found:
            _add(tar, os.path.join(top, item.path), item.path)
            tar.members.clear()  # type: ignore[attr-defined]  # or they pile up


def _add(tar: tarfile.TarFile, full: str, name: str) -> None:
    try:
        status = os.lstat(full)
        info = tarfile.TarInfo(name)
        info.mode = stat.S_IMODE(status.st_mode) & 0o777
        info.mtime = int(status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(full)
        elif stat.S_ISREG(status.st_mode):
            fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as source:
                opened = os.fstat(fd)
                if stat.S_ISREG(opened.st_mode):
                    info.size = opened.st_size
                    tar.addfile(info, source)
            return
        else:
            return
    except FileNotFoundError:
        return  # gone since `check`
    tar.addfile(info)


def extract(target: str, source: Incoming) -> None:
    """Extract the tar stream `source` into the absolute directory `target`, which exists.

    Raises:
        Refusal: `invalid_request` where it is no tar; `invalid_path`, naming the member, for
            names and links that leave the target, devices and FIFOs; `disk_full`.
    """
    top = os.open(target, DIRECTORY & ~os.O_NOFOLLOW)
    try:
        with tarfile.open(
            fileobj=source,  # type: ignore[call-overload]
            mode="r|",
            bufsize=CHUNK,
            tarinfo=_Member,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            for member in _members(tar):
                try:
                    _place(top, tar, member)
                except OSError as error:
                    raise refusal(error, member.name) from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise Refusal("invalid_request", f"not a plain tar archive: {show(str(error))}") from error
    finally:
        os.close(top)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield member


def _place(top: int, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    parts = _parts(member.name)
    if not parts:
        if member.isdir():
            return  # the target itself
        raise Refusal("invalid_path", "the archive has a member without a name")
    parent = _open_directory(top, parts[:-1])
    try:
        if member.isdir():
            os.close(_open_directory(parent, parts[-1:]))
        elif member.isreg():
            _place_file(parent, parts[-1], tar, member)
        elif member.issym():
            _place_link(parent, parts, member)
        elif member.islnk():
            _place_hard_link(top, parent, parts[-1], member)
        else:
            raise Refusal("invalid_path", f"{show(member.name)}: devices and FIFOs are not extracted")
    finally:
        os.close(parent)


def _parts(name: str) -> list[str]:
    """The parts of a member's name.

    Raises:
        Refusal: `invalid_path` where it is absolute, or has `..` or NUL.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise Refusal("invalid_path", f"{show(name)[:200]}: a name must be relative, without '..'")
    return parts


def _open_directory(top: int, parts: list[str]) -> int:
    """A descriptor of `parts` below `top`, made where missing; a link on the way is refused."""
    fd = os.dup(top)
    for part in parts:
        try:
            try:
                inner = os.open(part, DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=fd)
                inner = os.open(part, DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _place_file(parent: int, name: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    content = tar.extractfile(member)
    assert content is not None  # a regular member has content

    def fill(fd: int) -> None:
        while chunk := content.read(CHUNK):
            write_all(fd, chunk)
        if 0 <= member.mtime < 1 << 33:
            os.utime(fd, (member.mtime, member.mtime))

    replace_file(name, fill, mode=member.mode & 0o755 | 0o600, dir_fd=parent)


def _place_link(parent: int, parts: list[str], member: tarfile.TarInfo) -> None:
    text = member.linkname
    steps = [step for step in text.split("/") if step not in ("", ".")]
    ups = next((n for n, step in enumerate(steps) if step != ".."), len(steps))
    if not text or text.startswith("/") or "\0" in text or ups > len(parts) - 1 or ".." in steps[ups:]:
        raise Refusal("invalid_path", f"{show(member.name)}: a link that may leave the directory")
    temporary = f"{PART_PREFIX}{os.urandom(8).hex()}.part"
    os.symlink(text, temporary, dir_fd=parent)
    _move_over(temporary, parts[-1], parent)


def _place_hard_link(top: int, parent: int, name: str, member: tarfile.TarInfo) -> None:
    other = _parts(member.linkname)
    if not other:
        raise Refusal("invalid_path", f"{show(member.name)}: a link to nothing")
    directory = _open_directory(top, other[:-1])
    try:
        if not stat.S_ISREG(os.stat(other[-1], dir_fd=directory, follow_symlinks=False).st_mode):
            raise Refusal("invalid_path", f"{show(member.name)}: a hard link to what is no file")
        temporary = f"{PART_PREFIX}{os.urandom(8).hex()}.part"
        os.link(other[-1], temporary, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(directory)
    _move_over(temporary, name, parent)


def _move_over(temporary: str, name: str, parent: int) -> None:
    try:
        os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        with contextlib.suppress(FileNotFoundError):  # of two names of one file, rename keeps both
            os.unlink(temporary, dir_fd=parent)
