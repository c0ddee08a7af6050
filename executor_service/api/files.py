"""Routes of a session's files: list, read, write, remove, move, and whole trees as tar."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from executor_service.api import answers, bodies, problems, ranges
from executor_service.api.encode import json_response
from executor_service.api.paths import MOST_PATH_BYTES, WantedPath, checked
from executor_service.api.ports import Entry
from executor_service.api.schemas import FileOperationBody
from executor_service.api.service import SessionHere
from executor_service.api.streaming import HARMLESS, ByteStream
from executor_service.errors import FieldError, InvalidRequest, IsADirectory, RangeNotSatisfiable

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["files"])

_FOUND = answers.problems(401, 403, 404, 410, 422, 502)
_BYTES: dict[str, Any] = {"content": {"application/octet-stream": {}}}
_TAR: dict[str, Any] = {"content": {"application/x-tar": {}}}
PathQuery = Annotated[str, Query(max_length=MOST_PATH_BYTES)]


@router.get("/files", responses={200: {"model": answers.EntryList}, **_FOUND})
async def list_files(session: SessionHere, path: PathQuery = ".", recursive: bool = False) -> Response:
    """The entries of a directory, or of a whole tree."""
    found = await session.files.list(checked(path), recursive=recursive)
    return json_response({"items": [entry_json(each) for each in found]})


@router.get(
    "/files/{path:codecell_path}", responses={200: _BYTES, 206: _BYTES, **_FOUND, **answers.problems(416)}
)
async def read_file(request: Request, session: SessionHere, path: WantedPath) -> Response:
    """A file's bytes, or one range of them."""
    files = session.files
    entry = await files.stat(path)
    _must_be_file(entry)
    header = None if "if-range" in request.headers else request.headers.get("range")
    try:
        part = ranges.parse(header, entry.size)
    except RangeNotSatisfiable as error:
        headers = {"Content-Range": f"bytes */{entry.size}"}
        return problems.response(error, request_id=problems.request_id(request.scope), headers=headers)
    offset, length = part or (0, None)
    async with AsyncExitStack() as stack:
        entry, chunks = await stack.enter_async_context(files.read(path, offset, length))
        headers = _file_headers(entry)
        if part is not None:
            headers["Content-Range"] = f"bytes {offset}-{offset + part[1] - 1}/{entry.size}"
        known = length if part else entry.size or None  # files of /proc say 0 and have more
        return ByteStream(chunks, stack.pop_all(), headers=headers, status=206 if part else 200, length=known)
    raise AssertionError("the stack lets nothing through")


@router.head(
    "/files/{path:codecell_path}", responses={200: {"description": "As GET, without the bytes"}, **_FOUND}
)
async def describe_file(session: SessionHere, path: WantedPath) -> Response:
    """A file's size and time, in headers."""
    entry = await session.files.stat(path)
    _must_be_file(entry)
    headers = {**HARMLESS, **_file_headers(entry), "Content-Length": str(entry.size)}
    return Response(headers=headers, media_type="application/octet-stream")


@router.put(
    "/files/{path:codecell_path}",
    openapi_extra=bodies.binary("application/octet-stream", "The file's bytes"),
    responses={200: {"model": answers.EntryAnswer}, **_FOUND, **answers.problems(413, 507)},
)
async def write_file(request: Request, session: SessionHere, path: WantedPath) -> Response:
    """Write a file: parents are made, an old file is replaced at once when all bytes are there."""
    entry = await session.files.write(path, request.stream())
    return json_response(entry_json(entry))


@router.delete("/files/{path:codecell_path}", status_code=204, responses=_FOUND)
async def delete_file(session: SessionHere, path: WantedPath) -> Response:
    """Remove a file, or a directory with all that is in it."""
    await session.files.delete(path)
    return Response(status_code=204)


@router.post(
    "/files/{path:codecell_path}",
    status_code=204,
    openapi_extra=bodies.documented(FileOperationBody),
    responses={**_FOUND, **answers.problems(413, 415)},
)
async def operate(request: Request, session: SessionHere, path: WantedPath) -> Response:
    """Make a directory, or move what stands at the path."""
    files = session.files
    body = await bodies.read(request, FileOperationBody)
    if (body.op == "move") != (body.to is not None):
        message = "move needs the field `to`" if body.op == "move" else "mkdir has no field `to`"
        raise InvalidRequest(message, errors=(FieldError(loc="to", message=message),))
    if body.to is None:
        await files.mkdir(path)
    else:
        await files.move(path, checked(body.to))
    return Response(status_code=204)


@router.get("/archive", responses={200: _TAR, **_FOUND})
async def read_archive(session: SessionHere, path: PathQuery = ".") -> Response:
    """A directory and all that is in it, as tar."""
    files = session.files
    async with AsyncExitStack() as stack:
        chunks = await stack.enter_async_context(files.archive(checked(path)))
        headers = {"Content-Disposition": 'attachment; filename="workspace.tar"'}
        return ByteStream(chunks, stack.pop_all(), headers=headers, media_type="application/x-tar")
    raise AssertionError("the stack lets nothing through")


@router.put(
    "/archive",
    status_code=204,
    openapi_extra=bodies.binary("application/x-tar", "A tar archive"),
    responses={**_FOUND, **answers.problems(413, 507)},
)
async def write_archive(request: Request, session: SessionHere, path: PathQuery = ".") -> Response:
    """Unpack a tar archive into a directory."""
    await session.files.extract(checked(path), request.stream())
    return Response(status_code=204)


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as docs/api.md shows it."""
    return {
        "path": entry.path,
        "type": entry.type,
        "size": entry.size,
        "modified_at": _instant(entry).isoformat().replace("+00:00", "Z"),
        "mode": entry.mode,
    }


def _instant(entry: Entry) -> datetime:
    """When it was modified; what code can set beyond the years 1 to 9999 counts as 1970."""
    try:
        return datetime.fromtimestamp(entry.modified_at, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _must_be_file(entry: Entry) -> None:
    if entry.type == "directory":
        raise IsADirectory(f"{entry.path} is a directory")


def _file_headers(entry: Entry) -> dict[str, str]:
    name = quote(entry.path.rpartition("/")[2], safe="", errors="surrogatepass")
    return {
        "Accept-Ranges": "bytes",
        "Last-Modified": format_datetime(_instant(entry), usegmt=True),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
    }
