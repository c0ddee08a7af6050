"""Which warm interpreter a program gets."""

from __future__ import annotations

import pytest

from executor_service.sessions.imports import imports_packages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("print(1)", False),
        ("import os, sys\nfrom json import loads", False),
        ("import os.path as p", False),
        ("import pandas as pd; print(pd)", True),
        ("import os, numpy as np", True),
        ("x = 1; import scipy", True),
        ("def f():\n    from matplotlib.pyplot import plot", True),
        ("if x: import sympy", True),
        ("important = 1\nfrom_here = 2", False),
        ("print('import pandas')", False),
        ("from . import x", False),
        ("", False),
        ("\x00 import", False),
    ],
)
def test_imports_packages(text: str, expected: bool) -> None:
    """Statements count wherever they stand; words inside a string at their start do not."""
    assert imports_packages(text) is expected
