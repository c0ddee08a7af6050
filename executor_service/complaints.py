"""What a command of `codecell-executor` raises where it did not work; `cli` makes one line of it."""

from __future__ import annotations


class Failure(Exception):
    """It did not work; the message is for people."""
