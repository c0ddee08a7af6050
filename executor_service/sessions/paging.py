"""Lists of sessions in pages, by opaque cursors. Pure: order is the order of creation.

A cursor names the last session of its page by its number, so that pages neither repeat nor skip a session
that lives all the while.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Protocol, TypeVar

from executor_service.sessions.checks import invalid


class Numbered(Protocol):
    """Has a number that grows from one creation to the next."""

    @property
    def number(self) -> int: ...


T = TypeVar("T", bound=Numbered)


def page(items: Sequence[T], *, limit: int, cursor: str | None) -> tuple[list[T], str | None]:
    """At most `limit` of `items` after `cursor`, and the cursor for more, if there are more.

    Raises:
        InvalidRequest: not a cursor of ours, or a `limit` below one.
    """
    if limit < 1:
        raise invalid("limit", "must be at least 1")
    after = -1 if cursor is None else _number(cursor)
    rest = sorted((item for item in items if item.number > after), key=lambda item: item.number)
    chosen = rest[:limit]
    return chosen, _cursor(chosen[-1].number) if len(rest) > limit else None


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(f"s{number}".encode()).decode().rstrip("=")


def _number(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if text[:1] != "s" or not text[1:].isdecimal() or len(text) > 20:
        raise invalid("cursor", "is not one that this service gave")
    return int(text[1:])
