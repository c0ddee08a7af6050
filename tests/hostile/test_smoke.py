"""The fixtures themselves."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.hostile


def test_an_honest_program_passes(attack):
    """The house runs honest programs too."""
    assert attack.run("print('hello')")["stdout"] == "hello\n"
    assert attack.session().execute("1 + 1")["result"]["text/plain"] == "2"
