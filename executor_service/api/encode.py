"""JSON out, whatever a sandbox put into it: never an exception, always valid UTF-8."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response

_DEPTH = 100

_fast = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_escaped = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def dumps(value: Any) -> bytes:
    """`value` as compact JSON on one line.

    Not-a-number and infinite become null, as in JavaScript; lone surrogates are escaped; what is
    nested deeper than 100 levels becomes null.
    """
    try:
        return _fast.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        return _escaped.encode(value).encode("ascii")
    except (ValueError, RecursionError):
        return _escaped.encode(_sane(value, _DEPTH)).encode("ascii")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer that no framework looks at again."""
    return Response(dumps(value), status_code=status, media_type="application/json", headers=headers)


def _sane(value: Any, depth: int) -> Any:
    if depth == 0:
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _sane(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_sane(v, depth - 1) for v in value]
    return value
