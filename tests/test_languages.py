from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from executor_service import languages
from executor_service.errors import LanguageNotFound
from executor_service.languages import Language, Ran
from executor_service.languages.base import PROGRAM_PATH


class HostRunner:
    """Runs a language's commands on this host, where nobody's code but the smoke programs runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def program(self, language: Language, source: str) -> Ran:
        (self.directory / language.source).write_text(source)
        binary = str(self.directory / "program")
        compile_argv = language.compile_argv(binary=binary)
        if compile_argv is not None:
            compiled = await self.command(language, compile_argv)
            if compiled.exit_code:
                return compiled
        return await self.command(language, language.run_argv(binary=binary))

    async def command(self, language: Language, argv: Sequence[str]) -> Ran:
        # As in a sandbox: the environment first, then /usr, and nobody's version managers.
        path = f"{Path(sys.executable).parent}:{PROGRAM_PATH}"
        env = {"PATH": path, "HOME": str(self.directory), "LANG": "C.UTF-8", **language.env}
        process = await asyncio.create_subprocess_exec(
            shutil.which(argv[0], path=path) or argv[0],
            *argv[1:],
            cwd=self.directory,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Ran(exit_code=process.returncode, stdout=out.decode(), stderr=err.decode())


HERE = [each for each in languages.ALL if not each.missing()]
"""Those that this host has toolchains for; conformance/ tries the images' own."""


@pytest.mark.parametrize("language", HERE, ids=lambda each: each.name)
async def test_the_smoke_program_prints_what_it_should(language: Language, tmp_path: Path) -> None:
    """Compiled, run and asked for its version with the very commands that a sandbox gets."""
    result = await languages.probe(language, HostRunner(tmp_path))
    assert result.works, result.detail
    assert result.version is not None


async def test_a_language_without_its_toolchain_does_not_work(tmp_path: Path) -> None:
    """Nothing is run, and the detail names what is not there."""
    language = replace(languages.lookup("python"), needs=("no-such-toolchain",))
    result = await languages.probe(language, HostRunner(tmp_path))
    assert not result.works
    assert result.detail == "not on this host: no-such-toolchain"


@pytest.mark.parametrize(("smoke", "why"), [("echo other", "'other'"), ("echo odd >&2; exit 3", "3: 'odd'")])
async def test_a_smoke_program_that_fails_tells_how(smoke: str, why: str, tmp_path: Path) -> None:
    """Other output, or another exit code, is no working language."""
    result = await languages.probe(replace(languages.lookup("bash"), smoke=smoke), HostRunner(tmp_path))
    assert not result.works
    assert why in (result.detail or "")


def test_a_toolchain_outside_usr_is_not_there(tmp_path: Path) -> None:
    """A sandbox would not see it, so neither does the search, not even behind a link."""
    tool = tmp_path / "real"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (tmp_path / "tool").symlink_to(tool)
    language = replace(languages.lookup("c"), needs=("tool",))
    assert language.missing(path=str(tmp_path)) == ["tool"]


def test_names_aliases_and_extensions_are_unambiguous() -> None:
    """No word means two languages."""
    words = [word for each in languages.ALL for word in (each.name, *each.aliases)]
    extensions = [extension for each in languages.ALL for extension in each.extensions]
    assert len(words) == len(set(words))
    assert len(extensions) == len(set(extensions))
    assert all(extension.startswith(".") and extension.islower() for extension in extensions)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("python", "python"),
        ("PY", "python"),
        ("C++", "cpp"),
        ("js", "javascript"),
        ("sh", "bash"),
        ("R", "r"),
    ],
)
def test_languages_are_found_by_any_name(word: str, name: str) -> None:
    """Aliases count, and case does not."""
    assert languages.lookup(word).name == name


def test_an_unknown_language_is_named_with_those_there_are() -> None:
    """The caller sees what to ask for instead."""
    with pytest.raises(LanguageNotFound, match=r"'intercal'.*python"):
        languages.lookup("intercal")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("main.py", "python"),
        ("a/b/Main.JAVA", "java"),
        ("x.c", "c"),
        ("x.cc", "cpp"),
        ("s.R", "r"),
        (".sh", "bash"),
    ],
)
def test_languages_are_found_by_a_files_ending(path: str, name: str) -> None:
    """As `codecell run FILE` needs it."""
    found = languages.by_extension(path)
    assert found is not None
    assert found.name == name


def test_a_file_of_no_language_is_of_none() -> None:
    """An unknown ending says nothing."""
    assert languages.by_extension("Makefile") is None
    assert languages.by_extension("data.csv") is None


@pytest.mark.parametrize(
    "language", [each for each in languages.ALL if each.kernel], ids=lambda each: each.name
)
def test_every_kernel_is_told_where_its_connection_file_lies(language: Language) -> None:
    """All but the warm interpreter's, which has none; nothing else is left to be filled in."""
    assert language.kernel is not None
    argv = language.kernel.start_argv(1 << 30)
    assert sum(part == "{connection_file}" for part in argv) == (language.name != "python")
    assert "{heap_mib}" not in " ".join(argv)


def test_placeholders_are_filled_and_nothing_else_is() -> None:
    """Braces in the caller's names and arguments stay as they are."""
    java = languages.lookup("java")
    assert java.source == "Main.java"
    assert "-Xmx614m" in java.run_argv(memory_bytes=1 << 30)
    c = languages.lookup("c")
    argv = c.compile_argv(source="{binary}.c", binary="/b")
    assert argv is not None
    assert argv[argv.index("-o") + 1 :][:2] == ("/b", "{binary}.c")
    assert c.run_argv(("{source}", ""), binary="/b") == ("/b", "{source}", "")
    assert languages.lookup("bash").compile_argv() is None


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Python 3.11.7\n", "3.11.7"),
        ("go version go1.22.1 linux/amd64", "1.22.1"),
        ("v20.20.2", "20.20.2"),
        ("GNU bash, version 5.2.15(1)-release", "5.2.15"),
        ("none", None),
    ],
)
def test_versions_are_read_from_what_toolchains_say(said: str, version: str | None) -> None:
    """The first thing that looks like one."""
    assert languages.parse_version(said) == version
