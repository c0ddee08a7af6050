"""`Range` (RFC 9110, section 14): one range of bytes; anything else is answered in full."""

from __future__ import annotations

import re

from executor_service.errors import RangeNotSatisfiable

_ONE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)


def parse(header: str | None, size: int) -> tuple[int, int] | None:
    """Offset and length of the one range that `header` asks for; None for everything.

    Raises:
        RangeNotSatisfiable: the range lies behind the end of a file of `size` bytes.
    """
    found = _ONE.fullmatch(header.strip()) if header else None
    if found is None or found.group(1) == found.group(2) == "":
        return None
    first, last = found.groups()
    if first == "":
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        length = min(int(last) + 1 if last else size, size) - start
    if length <= 0:
        raise RangeNotSatisfiable(f"the file has {size} bytes")
    return start, length
