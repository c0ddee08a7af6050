"""Languages that programs may be written in: a small file each, listed here.

A language is offered only where its smoke program ran inside a sandbox (:func:`probe`).
"""

from __future__ import annotations

from executor_service.errors import LanguageNotFound
from executor_service.languages.ada import ADA
from executor_service.languages.assembly import ASSEMBLY
from executor_service.languages.awk import AWK
from executor_service.languages.base import (
    BINARY,
    KernelSpec,
    Language,
    ProbeResult,
    Ran,
    Runner,
    parse_version,
    probe,
)
from executor_service.languages.bash import BASH
from executor_service.languages.bc import BC
from executor_service.languages.c import C
from executor_service.languages.clojure import CLOJURE
from executor_service.languages.cobol import COBOL
from executor_service.languages.cpp import CPP
from executor_service.languages.crystal import CRYSTAL
from executor_service.languages.csharp import CSHARP
from executor_service.languages.d import D
from executor_service.languages.elixir import ELIXIR
from executor_service.languages.erlang import ERLANG
from executor_service.languages.fortran import FORTRAN
from executor_service.languages.go import GO
from executor_service.languages.groovy import GROOVY
from executor_service.languages.haskell import HASKELL
from executor_service.languages.java import JAVA
from executor_service.languages.javascript import JAVASCRIPT
from executor_service.languages.kotlin import KOTLIN
from executor_service.languages.lisp import LISP
from executor_service.languages.lua import LUA
from executor_service.languages.ocaml import OCAML
from executor_service.languages.octave import OCTAVE
from executor_service.languages.pascal import PASCAL
from executor_service.languages.perl import PERL
from executor_service.languages.php import PHP
from executor_service.languages.prolog import PROLOG
from executor_service.languages.python import PYTHON
from executor_service.languages.r import R
from executor_service.languages.raku import RAKU
from executor_service.languages.ruby import RUBY
from executor_service.languages.rust import RUST
from executor_service.languages.scala import SCALA
from executor_service.languages.scheme import SCHEME
from executor_service.languages.sqlite import SQLITE
from executor_service.languages.tcl import TCL
from executor_service.languages.typescript import TYPESCRIPT

ALL: tuple[Language, ...] = (
    PYTHON,
    BASH,
    JAVASCRIPT,
    TYPESCRIPT,
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
    FORTRAN,
    PASCAL,
    SQLITE,
    SCHEME,
    PROLOG,
    TCL,
    AWK,
    BC,
    ASSEMBLY,
    OCTAVE,
    HASKELL,
    OCAML,
    ERLANG,
    ELIXIR,
    KOTLIN,
    SCALA,
    CLOJURE,
    GROOVY,
    CSHARP,
    LISP,
    RAKU,
    ADA,
    COBOL,
    CRYSTAL,
    D,
)

__all__ = [
    "ALL",
    "BINARY",
    "KernelSpec",
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
