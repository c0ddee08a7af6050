"""When a conversation is over: by default, when the last word of a message is TERMINATE.

A condition here is a plain function from a message (as a dict) to a bool, as in AutoGen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

IsTermination = Callable[[Mapping[str, Any]], object]

_LAST_WORD = re.compile(r"(?<!\w)TERMINATE[\s.!*_`\"')\]]*\Z")


def last_word_is_terminate(message: Mapping[str, Any]) -> bool:
    """Whether the last word is TERMINATE; closing punctuation and Markdown marks are no words."""
    content = message.get("content")
    return isinstance(content, str) and _LAST_WORD.search(content) is not None


def without_terminate(content: str) -> str:
    """The text without its closing TERMINATE, for a summary."""
    return _LAST_WORD.sub("", content).rstrip()
