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
* changed {since_ns, limit} -> {"type": "changed", "files": [[path, size], ...]}*,
  {"type": "done", "truncated"}

An ENTRY is [path, type, size, mtime in seconds, permission bits]. At any point {"type": "error",
"code", "detail"} may come instead and ends the operation.

`changed` passes over what housekeeping writes: the directories `search.HOUSEKEEPING` of the
workspace, and `__pycache__` anywhere. So what pip installs is not listed.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Any

from executor_service.guest import protocol
from executor_service.guest.fspaths import (
    Refusal,
    locate,
    make_directories,
    open_file,
    refusal,
    replace_file,
    show,
    write_all,
)
from executor_service.guest.fswire import Incoming, natural, send_batches
from executor_service.guest.protocol import CHUNK, Kind
from executor_service.guest.search import changed, collect
from executor_service.guest.walk import Budget, remove, walk

MAX_CALL = 16 << 20  # of the second frame
MAX_LISTED = 50_000  # entries of one listing
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
    found = walk(top, budget, lambda _: recursive)
    entries = (_entry(_path_shown(os.path.join(top, f.path), root), f.status) for f in found)
    send_batches(conn, "entries", "entries", entries)
    protocol.send_json(conn, {"type": "done", "truncated": budget.partial})


def _stat(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    protocol.send_json(conn, {"type": "entry", "entry": _entry(_path_shown(path, root), os.stat(path))})


def _read(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    offset, asked = natural(call, "offset", 0), natural(call, "length", None)
    assert offset is not None
    fd = open_file(path)
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


def _write(conn: socket.socket, call: Json, root: str) -> None:
    path = locate(call.get("path"), root)
    _place(path, str(call["path"]), Incoming(conn).chunks())
    protocol.send_json(conn, {"type": "entry", "entry": _entry(_path_shown(path, root), os.stat(path))})


def _put(conn: socket.socket, call: Json, root: str) -> None:
    incoming, files = Incoming(conn), call.get("files")
    if not isinstance(files, list) or not all(isinstance(f, list) and len(f) == 2 for f in files):
        raise Refusal("invalid_request", "'files' must be a list of [path, size]")
    for path, size in files:
        whole = natural({"size": size}, "size", 0)
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
    if shown.endswith(("/", "/.")) or (os.path.isdir(path) and not os.path.islink(path)):
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
        fd = open_file(path, os.O_NOFOLLOW)
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


def _entry(path: str, status: os.stat_result) -> list[Any]:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode), "other")
    return [path, kind, status.st_size, status.st_mtime, stat.S_IMODE(status.st_mode)]


def _path_shown(path: str, root: str) -> str:
    inside = path[len(root.rstrip("/")) + 1 :] if (path + "/").startswith(root.rstrip("/") + "/") else path
    return show(inside or ".")


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
    "collect": collect,
    "changed": changed,
}
