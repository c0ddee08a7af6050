"""From JSON objects to frozen dataclasses: unknown fields are dropped, absent ones take the default."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Self, get_args, get_origin, get_type_hints

Convert = Callable[[Any], Any]


class Parsed:
    """A dataclass made from JSON. Its fields all have defaults; their types say what is nested."""

    @classmethod
    def parse(cls, data: object) -> Self:
        """Made from the fields of an object that are known; a null is treated as absent."""
        found = data if isinstance(data, Mapping) else {}
        known = _converters(cls)  # type: ignore[arg-type]  # mypy: a class of dataclasses is not hashable
        there = {name: value for name, value in found.items() if name in known and value is not None}
        return cls(**{name: known[name](value) for name, value in there.items()})


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


@functools.cache
def _converters(kind: type[Any]) -> Mapping[str, Convert]:
    hints = get_type_hints(kind)
    return {field.name: _converter(hints[field.name]) for field in fields(kind)}


def _converter(hint: Any) -> Convert:
    """Nested objects are parsed, tuples of them and of texts are made from arrays, a text is one whatever was
    sent; all else stays.
    """
    if hint is str:
        return str
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        if inner is str:
            return lambda data: tuple(map(str, data)) if isinstance(data, list) else ()
        return lambda data: tuple(inner.parse(e) for e in items(data))
    nested = next((t for t in (hint, *get_args(hint)) if isinstance(t, type) and issubclass(t, Parsed)), None)
    if nested is None:
        return lambda data: data
    return nested.parse
