"""Java: the class with `main` is called Main.

A JVM sizes its heap by the machine and would be killed at the sandbox's limit long before it collects
garbage, so its heap gets a share of that limit. The serial collector starts fastest and has no threads.
"""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language

_SMOKE = """\
import java.util.List;
public class Main {
    record Answer(int value) {}
    public static void main(String[] args) {
        System.out.println("codecell " + List.of(new Answer(42)).get(0).value());
    }
}
"""
_COMPILER_JVM = ("-J-XX:+UseSerialGC", "-J-XX:TieredStopAtLevel=1", "-J-XX:-UsePerfData", "-J-Xmx{heap_mib}m")

JAVA = Language(
    name="java",
    extensions=(".java",),
    source_name="Main.java",
    compile=("javac", *_COMPILER_JVM, "-encoding", "UTF-8", "-d", "{binary}", "{source}"),
    run=(
        "java",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-Xshare:auto",
        "-Xmx{heap_mib}m",
        "-Dfile.encoding=UTF-8",
        "-cp",
        "{binary}",
        "Main",
    ),
    needs=("java", "javac"),
    smoke=_SMOKE,
    version_argv=("javac", "-version"),
    kernel=KernelSpec(
        argv=(
            "java",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-Xmx{heap_mib}m",
            "--add-opens=jdk.jshell/jdk.jshell=ALL-UNNAMED",  # as the kernel's own launcher does
            "-jar",
            "/opt/codecell/env/share/jupyter/kernels/java/jjava.jar",
            "{connection_file}",
        ),
        interrupt="message",
        smoke=("int x = 40;", 'System.out.println("codecell " + (x + 2));'),
    ),
)
