"""Scala, on the JVM; the object with `main` is called Main."""

from __future__ import annotations

from executor_service.languages.base import Language

_BUILD = 'mkdir -p "$2" && scalac -d "$2" "$1"'
_SMOKE = """\
object Main {
  def main(args: Array[String]): Unit = println(s"codecell ${List(40, 2).sum}")
}
"""

SCALA = Language(
    name="scala",
    extensions=(".scala",),
    compile=("sh", "-c", _BUILD, "sh", "{source}", "{binary}"),
    run=("scala", "-J-Xmx{heap_mib}m", "-nocompdaemon", "-classpath", "{binary}", "Main"),
    needs=("scalac", "scala"),
    smoke=_SMOKE,
    version_argv=("scala", "-version"),
    limits={"compile_time": 120, "memory_bytes": 1 << 30},
)
