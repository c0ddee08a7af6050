"""Languages that programs may be written in: a small file each, listed here.

A language is offered only where its smoke program ran inside a sandbox (:func:`probe`).
"""

from __future__ import annotations

from executor_service.errors import LanguageNotFound
from executor_service.languages.base import BINARY, Language, ProbeResult, Ran, Runner, parse_version, probe
from executor_service.languages.bash import BASH
from executor_service.languages.c import C
from executor_service.languages.cpp import CPP
from executor_service.languages.go import GO
from executor_service.languages.java import JAVA
from executor_service.languages.javascript import JAVASCRIPT
from executor_service.languages.lua import LUA
from executor_service.languages.perl import PERL
from executor_service.languages.php import PHP
from executor_service.languages.python import PYTHON
from executor_service.languages.r import R
from executor_service.languages.ruby import RUBY
from executor_service.languages.rust import RUST

ALL: tuple[Language, ...] = (
    PYTHON,
    BASH,
    JAVASCRIPT,
    C,
    CPP,
    JAVA,
    GO,
    RUST,
    RUBY,
    PERL,
    LUA,
    PHP,
    R,
)

__all__ = [
    "ALL",
    "BINARY",
    "Language",
    "ProbeResult",
    "Ran",
    "Runner",
    "by_extension",
    "lookup",
    "parse_version",
    "probe",
]


def lookup(name: str) -> Language:
    """The language of that name or alias, in any case.

    Raises:
        LanguageNotFound: there is none; the detail lists those that there are.
    """
    wanted = name.lower()
    for language in ALL:
        if wanted == language.name or wanted in language.aliases:
            return language
    raise LanguageNotFound(f"no language {name!r}; there are {', '.join(each.name for each in ALL)}")


def by_extension(path: str) -> Language | None:
    """The language of a file with that name (`.py`, `main.py`, `a/b.PY`); None if its ending says nothing."""
    lowered = path.lower()
    return next((each for each in ALL if lowered.endswith(each.extensions)), None)
