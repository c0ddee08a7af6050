"""C#, by Mono."""

from __future__ import annotations

from executor_service.languages.base import Language

_SMOKE = """\
using System;
using System.Collections.Generic;
class Program {
    static void Main() {
        var sum = 0;
        foreach (var n in new List<int> { 40, 2 }) sum += n;
        Console.WriteLine($"codecell {sum}");
    }
}
"""

CSHARP = Language(
    name="csharp",
    aliases=("c#", "cs", "mono"),
    extensions=(".cs",),
    compile=("mcs", "-optimize+", "-out:{binary}", "{source}"),
    run=("mono", "{binary}"),
    needs=("mcs", "mono"),
    smoke=_SMOKE,
    version_argv=("mono", "--version"),
)
