"""A guess at whether a Python program will import more than the standard library."""

from __future__ import annotations

import re
import sys

_STATEMENT = re.compile(
    r"(?:^|[;:])[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w.,\t ]+))", re.MULTILINE
)


def imports_packages(text: str) -> bool:
    """Whether some import statement names a module outside the standard library.

    Read by pattern, not parsed: the text may be of another version of Python, or none at all.
    """
    for from_name, names in _STATEMENT.findall(text):
        for name in (from_name or names).split(","):
            top = name.strip().partition(" ")[0].partition(".")[0]
            if top and top not in sys.stdlib_module_names:
                return True
    return False
