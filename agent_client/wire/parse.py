"""From JSON objects to frozen dataclasses: unknown fields are dropped, absent ones take the default."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def take(kind: type[T], data: object, **converted: Any) -> T:
    """`kind` made from the fields of `data` that it knows; `converted` overrides them.

    A null where the field has another default is treated as absent.
    """
    found = data if isinstance(data, Mapping) else {}
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in converted:
            values[field.name] = converted[field.name]
        elif found.get(field.name) is not None:
            values[field.name] = found[field.name]
        elif field.default is MISSING and field.default_factory is MISSING:
            values[field.name] = None
    return kind(**values)


def items(data: object) -> Sequence[Mapping[str, Any]]:
    """The objects of a JSON array; anything else in it is skipped."""
    return tuple(e for e in data if isinstance(e, Mapping)) if isinstance(data, list) else ()


def content_bytes(data: Mapping[str, Any]) -> bytes:
    """A returned file's bytes, from `content` and `encoding`; unreadable base64 gives none."""
    text = str(data.get("content") or "")
    if data.get("encoding") == "base64":
        try:
            return base64.b64decode(text)
        except (binascii.Error, ValueError):
            return b""
    return text.encode("utf-8", "surrogatepass")
