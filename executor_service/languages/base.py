"""What the service knows of a language, and how it finds out whether a machine has it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

PROGRAM_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where toolchains are looked for: a sandbox sees nothing of the host but /usr."""
BINARY = "/tmp/codecell-program"
"""Where a compile stage puts what it makes: outside the workspace, so that it is no file of the run."""
_HEAP_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """How state is kept in a language: the Jupyter kernel that executes it.

    `argv` starts the kernel: `{connection_file}` stands for the path of that file, `{heap_mib}` as in a
    language's own. Without one the image's warm interpreter is the kernel. `interrupt` says whether its
    code is interrupted by SIGINT or by a message.
    """

    argv: tuple[str, ...] = ()
    interrupt: Literal["signal", "message"] = "signal"
    env: Mapping[str, str] = field(default_factory=dict)
    start_time: float = 60.0
    """Seconds that it has to answer; a JVM or a compiler on a busy machine takes its time."""
    rest: float = 0.0
    """Seconds after code that failed in which it skips what it is given."""
    names_interrupt: bool = False
    """Whether code that was interrupted ends with a `KeyboardInterrupt`, and no other code does."""
    smoke: tuple[str, str]
    """Two cells: the second prints what the language's `smoke` does, from what the first has left."""

    def start_argv(self, memory_bytes: int) -> tuple[str, ...]:
        """The command; `{connection_file}` is the guest's to fill in."""
        return tuple(part.replace("{heap_mib}", _heap_mib(memory_bytes)) for part in self.argv)


@dataclass(frozen=True, kw_only=True)
class Language:
    """How programs in one language are named, compiled and run.

    `compile` and `run` are argument lists; in each argument `{source}` stands for the program's file,
    `{binary}` for what the compile stage makes, `{heap_mib}` for the memory that a managed heap may take
    (in MiB, a share of the sandbox's). `limits` are defaults that differ from the service's, by the names
    of the HTTP API.
    """

    name: str
    aliases: tuple[str, ...] = ()
    extensions: tuple[str, ...]
    """With their dots; the first is the usual one."""
    run: tuple[str, ...]
    smoke: str
    """A program that shows the toolchain at work: it prints `smoke_output` and nothing else."""
    version_argv: tuple[str, ...]
    smoke_output: str = "codecell 42\n"
    compile: tuple[str, ...] | None = None
    source_name: str = ""
    """The program's file, where the language wants a certain name; else `main` and the extension."""
    kernel: KernelSpec | None = None
    """How sessions keep state in it, where an image has that kernel."""
    image: str = "python"
    needs: tuple[str, ...] = ()
    """Programs that must lie on this host, below /usr; none for what an image brings."""
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def extension(self) -> str:
        return self.extensions[0]

    @property
    def source(self) -> str:
        """The name of the program's file in the workspace."""
        return self.source_name or f"main{self.extension}"

    def compile_argv(
        self, *, source: str = "", binary: str = BINARY, memory_bytes: int = 512 << 20
    ) -> tuple[str, ...] | None:
        """The compile stage's command; None for a language without one."""
        if self.compile is None:
            return None
        return self._fill(self.compile, source or self.source, binary, memory_bytes)

    def run_argv(
        self,
        args: Sequence[str] = (),
        *,
        source: str = "",
        binary: str = BINARY,
        memory_bytes: int = 512 << 20,
    ) -> tuple[str, ...]:
        """The program's command, with the caller's arguments after it."""
        return (*self._fill(self.run, source or self.source, binary, memory_bytes), *args)

    def missing(self, path: str = PROGRAM_PATH) -> list[str]:
        """Which of the programs that it needs are not there for a sandbox to see."""
        return [need for need in self.needs if not _is_visible(shutil.which(need, path=path))]

    def _fill(self, argv: tuple[str, ...], source: str, binary: str, memory_bytes: int) -> tuple[str, ...]:
        values = {"{source}": source, "{binary}": binary, "{heap_mib}": _heap_mib(memory_bytes)}
        return tuple(re.sub(r"\{(source|binary|heap_mib)\}", lambda m: values[m[0]], part) for part in argv)


def _heap_mib(memory_bytes: int) -> str:
    return str(max(16, int(memory_bytes * _HEAP_SHARE) >> 20))


def _is_visible(program: str | None) -> bool:
    # /usr/bin/java is a link by way of /etc/alternatives; what counts is where it ends.
    return program is not None and Path(os.path.realpath(program)).is_relative_to("/usr")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a program or a command ended inside a sandbox. `exit_code` is None if a signal ended it."""

    exit_code: int | None
    stdout: str
    stderr: str


class Runner(Protocol):
    """Runs things inside a fresh sandbox, for :func:`probe`."""

    async def program(self, language: Language, source: str) -> Ran:
        """Compile, if the language has that stage, and run; a failed compilation is what is returned."""

    async def command(self, language: Language, argv: Sequence[str]) -> Ran:
        """Run a command with the language's `env`."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Whether a language's smoke program ran inside a sandbox; `detail` says why it did not."""

    language: Language
    works: bool
    version: str | None = None
    detail: str | None = None


async def probe(language: Language, runner: Runner, *, on_host: bool = True) -> ProbeResult:
    """Find out whether `language` works here. What `runner` raises (a fault of ours) is not caught.

    With `on_host` its toolchain is this host's, which is looked for first; else it is the image's.
    """
    if on_host and (missing := language.missing()):
        return ProbeResult(language=language, works=False, detail=f"not on this host: {', '.join(missing)}")
    ran = await runner.program(language, language.smoke)
    if ran.exit_code != 0 or ran.stdout != language.smoke_output:
        said = (ran.stderr or ran.stdout).strip()[-300:]
        detail = f"its smoke program ended with {ran.exit_code}: {said!r}"
        return ProbeResult(language=language, works=False, detail=detail)
    told = await runner.command(language, language.version_argv)
    return ProbeResult(language=language, works=True, version=parse_version(told.stdout + told.stderr))


def parse_version(text: str) -> str | None:
    """The first thing in what a toolchain says that looks like a version."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else None
