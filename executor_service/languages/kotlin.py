"""Kotlin, on the JVM."""

from __future__ import annotations

from executor_service.languages.base import Language

KOTLIN = Language(
    name="kotlin",
    aliases=("kt",),
    extensions=(".kt",),
    compile=("kotlinc", "{source}", "-nowarn", "-include-runtime", "-d", "{binary}.jar"),
    run=("java", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx{heap_mib}m", "-jar", "{binary}.jar"),
    needs=("kotlinc", "java"),
    smoke='fun main() {\n    println("codecell ${listOf(40, 2).sum()}")\n}\n',
    version_argv=("kotlinc", "-version"),
    limits={"compile_time": 120, "memory_bytes": 1 << 30},
)
