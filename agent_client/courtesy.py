"""Whether a text is mere courtesy, such as agents exchange without end when their work is done.

English first; German, French, Spanish and Chinese as far as their everyday phrases go. In doubt it is not.
"""

from __future__ import annotations

import functools
import re

# Words that make a text a courtesy, and words that may surround them.
_COURTESIES = """
absolutely accord acuerdo adiós agree agreed alles alright anything appreciate appreciated awesome bientôt
bitte bonne bye care cheers dank danke einverstanden enjoy excellent fantastic farewell freut gern gerne glad
goodbye gracias great gusto happy hesitate journée lgtm looks luck merci nada noted ok okay parfait perfect
perfecto plaisir pleasure prima revoir sounds super sure thank thankful thanks thx tschüss ty understood
vielen welcome wiedersehen wonderful worries
"""
_FILLERS = """
a aide all always and any are as ask assist assistance at au auch auf autre avec avez ayuda be beaucoup been
besoin can chat con could d das day de deine dir don du día el else en encantado es euch ever feel for
forward fragen free from further future für geschehen good gut ha haben had has hasta have helfen help helped
helpful helping here herzlichen hilfe i ich if ihnen in is ist it j je jederzeit job kann kein keine kind
know konnte la las le let like ll look looking lot luego m me melde mir mit more most much muchas mucho my n
need needed nice no noch of on or other our out please por pour problem que questions re reach rien s schön
schöne schönen see sehr si sie so soon success t tag take talk team that the there this time to too touch
toujours tout très tu un und une uns us usted ve very votre vous was we weitere well wenn were whenever
wieder wish with work working would yes you your yourself zeit zu
"""
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
    return frozenset(_COURTESIES.split()), frozenset(_FILLERS.split())
