"""The caller's file operations: the operation `fs`, one call per connection.

`serve` runs in a forked helper that already has the user's uid, so the kernel refuses what user
code could not do itself. The request's second frame is JSON, `{"call": NAME, ...}`; answers are:

* list {path, recursive} -> {"type": "entries", "entries": [ENTRY, ...]}*, {"type": "done", "truncated"}
* stat {path} -> {"type": "entry", "entry": ENTRY}     (follows a link, as read does; list does not)
* read {path, offset, length|null} -> {"type": "entry", "entry", "length"}, DATA frames, an empty one
* write {path}, DATA frames, an empty one -> {"type": "entry", "entry"}
* put {files: [[path, size], ...]}, DATA frames with all contents in a row, an empty one -> {"type": "done"}
* delete {path}, mkdir {path}, move {path, to} -> {"type": "done"}
* archive_get {path} -> {"type": "archive"}, DATA frames, an empty one
* archive_put {path}, DATA frames, an empty one -> {"type": "done"}
* collect {globs, max_files, max_bytes} -> ({"type": "file", "path", "size"}, DATA frames, an empty one)*,
  {"type": "omitted", "files": [[path, size, reason], ...]}*, {"type": "done"}
* changed {since_ns, limit} -> {"type": "changed", "files": [[path, size], ...]}*, {"type": "done", "truncated"}

An ENTRY is [path, type, size, mtime in seconds, permission bits]. At any point {"type": "error",
"code", "detail"} may come instead and ends the operation.

`changed` passes over what housekeeping writes: `HOUSEKEEPING` directories of the workspace, and
`__pycache__` anywhere. So what pip installs is not listed.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from executor_service.guest import protocol
from executor_service.guest.fspaths import (
    PART_PREFIX,
    Refusal,
    locate,
    make_directories,
    refusal,
    replace_file,
    show,
    write_all,
)
from executor_service.guest.globs import Globs, State
from executor_service.guest.protocol import CHUNK, Kind
from executor_service.guest.walk import Budget, Found, remove, walk

HOUSEKEEPING = frozenset({".local", ".cache", ".ipython", ".config", ".jupyter", ".npm"})
MAX_CALL = 16 << 20  # of the second frame
MAX_LISTED = 50_000  # entries of one listing
_MAX_SEEN = 200_000  # entries that a search may visit
_FRAME_BYTES = 48 * 1024  # of paths in one frame of a listing
_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}

Json = dict[str, Any]


def serve(conn: socket.socket, request: Json, root: str = "/workspace") -> None:
    """Serve the one call of an `fs` connection, then return; never raises an Exception.

    `request` is the connection's first frame; the call is read from the second (or is in the
    first already). The caller closes `conn`.
    """
    try:
        try:
            call = request if "call" in request else protocol.recv_json(conn, MAX_CALL)
            _serve(conn, call, root)
        except Refusal as error:
            _fail(conn, error.code, error.detail)
        except protocol.ProtocolError as error:
            _fail(conn, "invalid_request", str(error))
        except (EOFError, ConnectionError):
            return  # the host went away
        except OSError as error:
            _fail(conn, "sandbox_failed", os.strerror(error.errno or 0))
        except Exception as error:  # a last resort, so that the host hears of it
            _fail(conn, "sandbox_failed", f"{type(error).__name__} in a file operation")
    except (EOFError, OSError):
        return


def _serve(conn: socket.socket, call: Json, root: str) -> None:
    name = call.get("call")
    handler = _CALLS.get(name) if isinstance(name, str) else None
    if handler is None:
        raise Refusal("invalid_request", "no such file operation")
    try:
        handler(conn, call, root)
    except ConnectionError:
        raise
    except OSError as error:
        raise refusal(error, str(call.get("path", "."))) from error


def _fail(conn: socket.socket, code: str, detail: str) -> None:
    """Send the error; then discard what still comes, so that it is read and not lost to a reset."""
    protocol.send_json(conn, {"type": "error", "code": code, "detail": detail[:1000]})
    conn.shutdown(socket.SHUT_WR)
    while conn.recv(CHUNK):
        pass


def _list(conn: socket.socket, call: Json, root: str) -> None:
    top = locate(call.get("path"), root)
    budget = Budget(entries=MAX_LISTED, seconds=20)
    recursive = call.get("recursive") is True
    entries = (_entry(_path_shown(os.path.join(top, f.path), root), f.status) for f in walk(top, budget, lambda _: recursive))
    _send_batches(conn, "entries", "entries", entries)
    protocol.send_json(conn, {"type": "done", "truncated": budget.spent})


def _stat(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    protocol.send_json(conn, {"type": "entry", "entry": _entry(_path_shown(path, root), os.stat(path))})


def _read(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    offset, asked = _natural(call, "offset", 0), _natural(call, "length", None)
    assert offset is not None
    fd = _open_file(path)
    try:
        status = os.fstat(fd)
        if offset and offset >= status.st_size:
            raise Refusal("range_not_satisfiable", f"the file has {status.st_size} bytes")
        length = status.st_size - offset if asked is None else min(asked, status.st_size - offset)
        entry = _entry(_path_shown(path, root), status)
        protocol.send_json(conn, {"type": "entry", "entry": entry, "length": length})
        while length:
            chunk = os.pread(fd, min(CHUNK, length), offset)
            if not chunk:
                raise Refusal("file_not_found", "the file became shorter while it was read")
            conn.sendall(protocol.pack(Kind.DATA, chunk))
            offset, length = offset + len(chunk), length - len(chunk)
        conn.sendall(protocol.pack(Kind.DATA, b""))
    finally:
        os.close(fd)


def _open_file(path: str, flags: int = 0) -> int:
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


def _write(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    _place(path, str(call["path"]), Incoming(conn).chunks())
    protocol.send_json(conn, {"type": "entry", "entry": _entry(_path_shown(path, root), os.stat(path))})


def _put(conn: socket.socket, call: Json, root: str) -> None:
    incoming, files = Incoming(conn), call.get("files")
    if not isinstance(files, list) or not all(isinstance(f, list) and len(f) == 2 for f in files):
        raise Refusal("invalid_request", "'files' must be a list of [path, size]")
    for path, size in files:
        whole = _natural({"size": size}, "size", 0)
        try:
            _place(locate(path, root), path, incoming.take(whole or 0))
        except ConnectionError:
            raise
        except OSError as error:
            raise refusal(error, path) from error
    if incoming.read(1):
        raise Refusal("invalid_request", "more content than announced")
    protocol.send_json(conn, {"type": "done"})


def _place(path: str, shown: str, chunks: Iterable[bytes]) -> None:
    if shown.endswith(("/", "/.")) or os.path.isdir(path) and not os.path.islink(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    make_directories(os.path.dirname(path))

    def fill(fd: int) -> None:
        for chunk in chunks:
            write_all(fd, chunk)

    replace_file(path, fill)


def _delete(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    if path in ("/", root.rstrip("/")):
        raise Refusal("invalid_path", "the workspace itself cannot be deleted")
    remove(path)
    protocol.send_json(conn, {"type": "done"})


def _mkdir(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    make_directories(path)
    protocol.send_json(conn, {"type": "done"})


def _move(conn: socket.socket, call: Json, root: str) -> None:
    path, to = locate(call.get("path"), root), locate(call.get("to"), root)
    os.lstat(path)  # so that a missing source makes no directories
    make_directories(os.path.dirname(to))
    try:
        os.rename(path, to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_across(path, to)
    protocol.send_json(conn, {"type": "done"})


def _move_across(path: str, to: str) -> None:
    """Move a regular file to another file system (the workspace and /tmp are two)."""
    try:
        fd = _open_file(path, os.O_NOFOLLOW)
    except IsADirectoryError:
        raise Refusal("invalid_path", "a directory cannot be moved to another file system") from None

    def fill(target: int) -> None:
        while chunk := os.read(fd, CHUNK):
            write_all(target, chunk)

    try:
        replace_file(to, fill, mode=stat.S_IMODE(os.fstat(fd).st_mode) & 0o777)
    finally:
        os.close(fd)
    os.unlink(path)


def _archive_get(conn: socket.socket, call: Json, root: str) -> None:
    from executor_service.guest import archive  # tarfile is only loaded where it is needed

    path = locate(call.get("path"), root)
    found = archive.check(path)
    protocol.send_json(conn, {"type": "archive"})
    archive.write(path, found, lambda data: conn.sendall(protocol.pack(Kind.DATA, data)) if data else None)
    conn.sendall(protocol.pack(Kind.DATA, b""))


def _archive_put(conn: socket.socket, call: Json, root: str) -> None:
    from executor_service.guest import archive

    path, incoming = locate(call.get("path"), root), Incoming(conn)
    make_directories(path)
    archive.extract(path, incoming)
    while incoming.read(CHUNK):
        pass  # padding behind the archive's end
    protocol.send_json(conn, {"type": "done"})


def _collect(conn: socket.socket, call: Json, root: str) -> None:
    globs = call.get("globs")
    if not isinstance(globs, list):
        raise Refusal("invalid_request", "'globs' must be a list")
    max_files, left = _natural(call, "max_files", 100) or 0, _natural(call, "max_bytes", 10 << 20) or 0
    budget = Budget(entries=_MAX_SEEN, seconds=10)
    omitted: list[list[Any]] = []
    sent = 0
    for found in sorted(_matching(root, Globs(globs), budget), key=lambda f: f.path):
        path, size = show(found.path), found.status.st_size
        content: bytes | str = "too_many" if sent >= max_files else _content(root, found, left)
        if isinstance(content, str):
            omitted.append([path, size, content])
            continue
        protocol.send_json(conn, {"type": "file", "path": path, "size": len(content)})
        for start in range(0, len(content), CHUNK):
            conn.sendall(protocol.pack(Kind.DATA, content[start : start + CHUNK]))
        conn.sendall(protocol.pack(Kind.DATA, b""))
        sent, left = sent + 1, left - len(content)
    if budget.spent:
        omitted = [*omitted[:999], [".", 0, "not_searched"]]
    _send_batches(conn, "omitted", "files", omitted[:1000])
    protocol.send_json(conn, {"type": "done"})


def _matching(root: str, globs: Globs, budget: Budget) -> Iterator[Found]:
    """What the globs match, directories excepted."""
    states: dict[str, State] = {"": globs.start}

    def state_of(path: str) -> State:
        directory, name = os.path.split(path)
        return globs.step(states[directory], name)

    def enter(path: str) -> bool:
        state = state_of(path)
        if state:
            states[path] = state
        return bool(state)

    for found in walk(root, budget, enter):
        if not found.is_directory and globs.accepts(state_of(found.path)):
            yield found


def _content(root: str, found: Found, left: int) -> bytes | str:
    """The file's content, or why it is left out. It may have been swapped since it was found."""
    if not found.is_file:
        return "not_a_file"
    if found.status.st_size > left:
        return "too_large"
    try:
        fd = _open_file(os.path.join(root, found.path), os.O_NOFOLLOW)
    except (Refusal, OSError):
        return "unreadable"
    content = bytearray()
    try:
        while chunk := os.read(fd, min(CHUNK, left + 1 - len(content))):
            content += chunk
    except OSError:
        return "unreadable"
    finally:
        os.close(fd)
    return bytes(content) if len(content) <= left else "too_large"


def _changed(conn: socket.socket, call: Json, root: str) -> None:
    since, limit = _natural(call, "since_ns", 0) or 0, min(_natural(call, "limit", 1000) or 0, 10_000)
    budget = Budget(entries=_MAX_SEEN, seconds=3)
    files: list[list[Any]] = []
    for found in walk(root, budget, lambda path: path not in HOUSEKEEPING and os.path.basename(path) != "__pycache__"):
        if not found.is_file or found.status.st_ctime_ns < since or PART_PREFIX in found.path:
            continue
        if len(files) == limit:
            budget.spent = True
            break
        files.append([show(found.path), found.status.st_size])
    _send_batches(conn, "changed", "files", sorted(files))
    protocol.send_json(conn, {"type": "done", "truncated": budget.spent})


class Incoming:
    """The content that comes in DATA frames until an empty one; a file object for tarfile.

    Raises EOFError when the host goes away before the end.
    """

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._buffer = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        """At least one byte and at most `size`, or b"" at the end; tarfile needs exactly `size`."""
        return b"".join(self._parts(size))

    def take(self, size: int) -> Iterator[bytes]:
        """Exactly `size` bytes in chunks.

        Raises:
            Refusal: the content ends before.
        """
        for part in self._parts(size):
            size -= len(part)
            yield part
        if size:
            raise Refusal("invalid_request", "less content than announced")

    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        while chunk := self._next():
            yield chunk

    def _parts(self, size: int) -> Iterator[bytes]:
        while size > 0 and (chunk := self._next()):
            part, self._buffer = chunk[:size], chunk[size:]
            size -= len(part)
            yield part

    def _next(self) -> bytes:
        if self._buffer:
            chunk, self._buffer = self._buffer, b""
            return chunk
        if self._ended:
            return b""
        kind, payload = protocol.recv_frame(self._conn, 1 << 20)
        if kind is not Kind.DATA:
            raise protocol.ProtocolError(f"expected a DATA frame, got {kind.name}")
        self._ended = not payload
        return payload


def _send_batches(conn: socket.socket, kind: str, field: str, items: Iterable[list[Any]]) -> None:
    """Send `items`, whose first element is a path, in frames of a bounded size."""
    batch: list[list[Any]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += 64 + 6 * len(item[0])
        if size > _FRAME_BYTES:
            protocol.send_json(conn, {"type": kind, field: batch})
            batch, size = [], 0
    if batch:
        protocol.send_json(conn, {"type": kind, field: batch})


def _entry(path: str, status: os.stat_result) -> list[Any]:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode), "other")
    return [path, kind, status.st_size, status.st_mtime, stat.S_IMODE(status.st_mode)]


def _path_shown(path: str, root: str) -> str:
    inside = path[len(root.rstrip("/")) + 1 :] if (path + "/").startswith(root.rstrip("/") + "/") else path
    return show(inside or ".")


def _natural(call: Json, field: str, default: int | None) -> int | None:
    value = call.get(field, default)
    if value is None or (type(value) is int and 0 <= value < 1 << 63):
        return value
    raise Refusal("invalid_request", f"{field!r} must be a whole number, not negative")


_CALLS: dict[str, Callable[[socket.socket, Json, str], None]] = {
    "list": _list,
    "stat": _stat,
    "read": _read,
    "write": _write,
    "put": _put,
    "delete": _delete,
    "mkdir": _mkdir,
    "move": _move,
    "archive_get": _archive_get,
    "archive_put": _archive_put,
    "collect": _collect,
    "changed": _changed,
}
