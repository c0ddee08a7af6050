"""What a request must be: each refusal names its field."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from executor_service.egress.policy import Ceiling
from executor_service.errors import CallerError, InvalidPath, InvalidRequest, NetworkNotAllowed
from executor_service.sessions import checks
from executor_service.sessions.requests import FileIn


def files(*paths: str) -> tuple[FileIn, ...]:
    """Empty files."""
    return tuple(FileIn(path=path, content=b"") for path in paths)


@pytest.mark.parametrize(
    "paths",
    [
        (),
        ("a",),
        ("a/b", "a/c", "d"),
        ("./a", "b//c"),
        ("ab", "a/b"),
        ("with space", "ünï", ".hidden", "..a", "a.."),
    ],
)
def test_good_paths(paths: tuple[str, ...]) -> None:
    """Relative paths inside the workspace are fine."""
    checks.check_files(files(*paths), most=10, most_bytes=10)


@pytest.mark.parametrize(
    ("paths", "loc"),
    [
        (("",), "files.0.path"),
        ((".",), "files.0.path"),
        (("a", "/etc/passwd"), "files.1.path"),
        (("../a",), "files.0.path"),
        (("a/../../b",), "files.0.path"),
        (("a/..",), "files.0.path"),
        (("a\\b",), "files.0.path"),
        (("a\0b",), "files.0.path"),
        (("a\ud800",), "files.0.path"),
        (("a/",), "files.0.path"),
        (("a", "a"), "files.1.path"),
        (("a", "./a"), "files.1.path"),
        (("a", "a/b"), "files.1.path"),
        (("a/b/c", "a/b"), "files.1.path"),
        (("a/b/c", "a"), "files.1.path"),
        (("x" * 256,), "files.0.path"),
        (("x/" * 600 + "y",), "files.0.path"),
    ],
)
def test_bad_paths(paths: tuple[str, ...], loc: str) -> None:
    """Everything else is InvalidPath with the item named."""
    with pytest.raises(InvalidPath) as refusal:
        checks.check_files(files(*paths), most=10, most_bytes=10)
    assert [error.loc for error in refusal.value.errors] == [loc]


REFUSALS: list[tuple[Callable[[], object], str]] = [
    (lambda: checks.check_files(files("a", "b"), most=1, most_bytes=9), "files"),
    (lambda: checks.check_files([FileIn(path="a", content=b"12345")], most=1, most_bytes=4), "files"),
    (lambda: checks.check_text("code", "a\0", longest=9), "code"),
    (lambda: checks.check_text("code", "\udc80", longest=9), "code"),
    (lambda: checks.check_text("code", "ééé", longest=5), "code"),
    (lambda: checks.check_words("args", ["a", "b\0"]), "args.1"),
    (lambda: checks.check_words("args", ["x" * (checks.MAX_WORD + 1)]), "args.0"),
    (lambda: checks.check_words("args", ["x" * checks.MAX_WORD] * 9), "args"),
    (lambda: checks.check_words("args", ["x"] * 5000), "args"),
    (lambda: checks.check_env({"A=B": "x"}), "env"),
    (lambda: checks.check_env({"": "x"}), "env"),
    (lambda: checks.check_env({"A": "x\0"}), "env.A"),
    (lambda: checks.check_env({f"A{n}": "" for n in range(300)}), "env"),
    (lambda: checks.check_metadata({f"A{n}": "" for n in range(300)}), "metadata"),
    (lambda: checks.check_globs(["*.png", "../*"]), "collect.1"),
    (lambda: checks.check_globs(["/etc/*"]), "collect.0"),
    (lambda: checks.check_globs(["*"] * 101), "collect"),
    (lambda: checks.check_seconds("ttl", 0.0, most=10), "ttl"),
    (lambda: checks.check_seconds("ttl", -1.0, most=10), "ttl"),
    (lambda: checks.check_seconds("ttl", math.nan, most=10), "ttl"),
    (lambda: checks.check_seconds("ttl", math.inf, most=10), "ttl"),
    (lambda: checks.check_seconds("ttl", 11.0, most=10), "ttl"),
    (lambda: checks.check_signal("SIGNOTHING"), "signal"),
    (lambda: checks.check_signal("9"), "signal"),
    (lambda: checks.check_cwd("a\0", "/workspace"), "cwd"),
    (lambda: checks.check_cwd("", "/workspace"), "cwd"),
]


@pytest.mark.parametrize("number", range(len(REFUSALS)))
def test_refusals_name_the_field(number: int) -> None:
    """InvalidRequest or InvalidPath, with one field."""
    refuse, loc = REFUSALS[number]
    with pytest.raises(CallerError) as refusal:
        refuse()
    assert refusal.value.status == 422
    assert [error.loc for error in refusal.value.errors] == [loc]


@pytest.mark.parametrize("network", [True, {"allow": ("pypi.org",)}, {"allow": ()}])
def test_any_network_is_refused(network: bool) -> None:
    """Where the operator offers none. Never silently less than asked."""
    with pytest.raises(NetworkNotAllowed) as caught:
        checks.check_network(network, Ceiling())
    assert [error.loc for error in caught.value.errors] == ["network"]
    assert checks.check_network(False, Ceiling()) is None


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        ((), "main.py"),
        (("main.py",), "main_1.py"),
        (("main.py", "main_1.py"), "main_2.py"),
        (("a",), "main.py"),
    ],
)
def test_the_first_free_name(taken: tuple[str, ...], name: str) -> None:
    """Code does not overwrite what the caller uploaded."""
    assert checks.free_name("main.py", frozenset(taken)) == name


def test_where_a_command_starts() -> None:
    """In the workspace, unless it says otherwise."""
    assert checks.check_cwd(None, "/workspace") == "/workspace"
    assert checks.check_cwd("a/b", "/workspace") == "/workspace/a/b"
    assert checks.check_cwd("/tmp", "/workspace") == "/tmp"
    with pytest.raises(InvalidRequest):
        checks.check_text("x", "\0", longest=1)
