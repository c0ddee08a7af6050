"""The same programs under AutoGen 0.2 and here. README.md says what is compared, and what may differ."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import RealService

from tests.integrations.test_adapters import python_of
from tests.parity.comparing import CODE, DIFFERENCES, EXPECTED, TEXTS, recorded, run, told


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    """What comes of the programs here."""
    return run(sys.executable, "agent_client", TEXTS)


@pytest.fixture(scope="module")
def ours_with_code(
    python_image: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What comes of the programs whose code runs, in real sandboxes."""
    service = RealService(tmp_path_factory.mktemp("service") / "state", "--warm", "2")
    try:
        yield run(sys.executable, "agent_client", CODE, CODECELL_URL=service.url)
    finally:
        assert service.stop() == 0


@pytest.mark.parametrize("name", recorded(EXPECTED, TEXTS))
def test_a_program_comes_to_the_same(name: str, ours: dict[str, Any]) -> None:
    """Transcripts, prompts, what models were told, code that ran: as in AutoGen, or as meant to differ."""
    assert ours[name] == recorded(DIFFERENCES, TEXTS).get(name, recorded(EXPECTED, TEXTS)[name])


@pytest.mark.parametrize("name", recorded(EXPECTED, CODE))
def test_code_comes_to_the_same(name: str, ours_with_code: dict[str, Any]) -> None:
    """What the assistant is told of its code, and the files that are left."""
    assert ours_with_code[name] == recorded(DIFFERENCES, CODE).get(name, recorded(EXPECTED, CODE)[name])


@pytest.mark.parametrize("file", [TEXTS, CODE])
def test_autogen_comes_to_what_is_written_down(file: str) -> None:
    """The real AutoGen 0.2 is run, and does what expected.json says of it."""
    assert run(python_of("autogen02"), "autogen", file) == recorded(EXPECTED, file)


def test_every_difference_is_one_and_is_explained() -> None:
    """Nothing is listed that is the same by now, and README.md has a line for each."""
    listed = {file: recorded(DIFFERENCES, file) for file in (TEXTS, CODE)}
    for file, differing in listed.items():
        expected = recorded(EXPECTED, file)
        assert [name for name, result in differing.items() if result == expected[name]] == []
    assert set().union(*listed.values()) == told()


def test_every_program_is_compared(ours: dict[str, Any]) -> None:
    """A program that is new is recorded too."""
    assert set(ours) == set(recorded(EXPECTED, TEXTS))
