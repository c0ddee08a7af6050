"""Whether a text is mere courtesy, such as agents exchange without end when their work is done.

English first; German, French, Spanish and Chinese as far as their everyday phrases go. In doubt it is not.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

_WORDS = Path(__file__).with_name("data") / "courtesies.txt"
_CHINESE = re.compile(
    r"(?:谢谢|感谢|多谢|不客气|不用谢|再见|拜拜|好的|没问题|很高兴|帮助|帮到|能够|随时|如果|需要|其他|任何|问题"
    r"|联系|告诉|祝|愉快|一切|顺利|[你您们的我了啊哦吧能很太非常为到有还请天])+"
)
_CHINESE_COURTESY = re.compile("谢|不客气|再见|拜拜|好的|没问题|祝")
_SUBSTANCE = re.compile(r"[\d:=<>{}\[\]]|\b(?:but|however|not|wrong|instead|error|why|how|aber|mais|pero)\b")


def is_courtesy(text: str) -> bool:
    """Whether a text is empty, or under 25 words that thank, agree or say goodbye and nothing else."""
    lowered = text.lower()
    words = re.findall(r"[^\W_]+", lowered)
    if not words:
        return True
    if len(words) >= 25 or _SUBSTANCE.search(lowered):
        return False
    courtesies, fillers = _vocabulary()
    polite = any(word in courtesies or _CHINESE_COURTESY.search(word) for word in words)
    other = [w for w in words if not (w in courtesies or w in fillers or _CHINESE.fullmatch(w))]
    # Names or less common phrases, unless they may ask for something.
    spare = 0 if "?" in text else len(words) // 5
    return polite and len(other) <= spare


@functools.cache
def _vocabulary() -> tuple[frozenset[str], frozenset[str]]:
    """Words that make a text a courtesy, and words that may surround them."""
    courtesies, fillers = _WORDS.read_text("utf-8").split("\n\n")
    return frozenset(courtesies.split()), frozenset(fillers.split())
