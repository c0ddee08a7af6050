"""Paths in URLs: what stands behind `/files/`, exactly as the caller wrote it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, unquote_to_bytes

from fastapi import Depends, Request
from starlette.convertors import Convertor, register_url_convertor

from executor_service.errors import InvalidPath

MOST_PATH_BYTES = 4096


class AnyPath(Convertor[str]):
    """A path parameter that may hold anything, line breaks included."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


# Starlette knows convertors by name only, and wants them before a route is written down.
register_url_convertor("codecell_path", AnyPath())


def checked(path: str) -> str:
    """`path`, if it can be one at all; the sandbox says the rest.

    Raises:
        InvalidPath: it is empty, too long, or has a NUL.
    """
    if not path:
        raise InvalidPath("the path is empty")
    if "\0" in path:
        raise InvalidPath("the path has a NUL")
    if len(path.encode("utf-8", "surrogatepass")) > MOST_PATH_BYTES:
        raise InvalidPath(f"the path has more than {MOST_PATH_BYTES} bytes")
    return path


async def path_of(request: Request, path: str) -> str:
    """The path behind `/files/`, exactly as the caller wrote it: `%2F` at its start makes it absolute.

    Raises:
        InvalidPath: it is empty, too long, no UTF-8, or has a NUL.
    """
    raw: bytes = request.scope.get("raw_path") or b"/files/" + quote(path).encode("ascii")
    _, _, tail = raw.partition(b"?")[0].partition(b"/files/")
    try:
        return checked(unquote_to_bytes(tail).decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidPath("the path is not valid UTF-8") from None


WantedPath = Annotated[str, Depends(path_of)]
