"""C, by GCC; the mathematical library is linked."""

from __future__ import annotations

from executor_service.languages.base import Language

_SMOKE = """\
#include <math.h>
#include <stdio.h>
int main(void) { printf("codecell %d\\n", (int)sqrt(1764.0)); }
"""

C = Language(
    name="c",
    extensions=(".c",),
    compile=("gcc", "-std=gnu17", "-O2", "-o", "{binary}", "{source}", "-lm", "-pthread"),
    run=("{binary}",),
    needs=("gcc",),
    smoke=_SMOKE,
    version_argv=("gcc", "-dumpfullversion"),
)
