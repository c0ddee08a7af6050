"""Lists of models from an environment variable or a file, filtered as AutoGen does."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from agent_client.models import config_list_from_json, filter_config

LIST: list[dict[str, Any]] = [
    {"model": "a", "api_key": "sk-secret-a", "tags": ["x", "y"]},
    {"model": "b", "api_key": "sk-secret-b", "api_type": "azure"},
    {"model": "a", "api_type": "azure", "tags": ["z"]},
]


def test_from_a_file(tmp_path: Path) -> None:
    """Without a variable the name is a file's, in `file_location`; a byte order mark does no harm."""
    (tmp_path / "MODELS").write_text("\ufeff" + json.dumps(LIST), encoding="utf-8")
    assert config_list_from_json("MODELS", file_location=str(tmp_path)) == LIST
    assert config_list_from_json(str(tmp_path / "MODELS"), filter_dict={"model": ["b"]}) == [LIST[1]]
    assert config_list_from_json(env_or_file=str(tmp_path / "MODELS"), file_location=None) == LIST


def test_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the name goes before a file; it holds JSON or the path of a file of it."""
    (tmp_path / "MODELS").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS", json.dumps(LIST))
    assert config_list_from_json("MODELS") == LIST
    (tmp_path / "other.json").write_text(json.dumps(LIST[:1]))
    monkeypatch.setenv("MODELS", str(tmp_path / "other.json"))
    assert config_list_from_json("MODELS") == LIST[:1]
    monkeypatch.delenv("MODELS")
    assert config_list_from_json("MODELS") == []


def test_nothing_there(tmp_path: Path) -> None:
    """Where there is neither, the error names both places that were looked at."""
    with pytest.raises(FileNotFoundError, match=f"variable NO_MODELS nor a file {tmp_path}/NO_MODELS"):
        config_list_from_json("NO_MODELS", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[{"model": "a",\n "api_key": "sk-secret-a",}]', "line 2, column"),
        ("", "line 1, column 1"),
        ('{"model": "a", "api_key": "sk-secret-a"}', "not a list of objects"),
        ('["sk-secret-a"]', "not a list of objects"),
    ],
)
def test_wrong_json(text: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is told by its place, never by its text, which holds keys."""
    (tmp_path / "M").write_text(text)
    with pytest.raises(ValueError, match=match) as of_file:
        config_list_from_json(str(tmp_path / "M"))
    assert str(tmp_path / "M") in str(of_file.value)
    shown = traceback.format_exception(of_file.value)
    if text:
        monkeypatch.setenv("M", text)
        with pytest.raises(ValueError, match=match) as of_variable:
            config_list_from_json("M")
        assert "variable M" in str(of_variable.value)
        shown += traceback.format_exception(of_variable.value)
    assert "sk-secret" not in "".join(shown)


@pytest.mark.parametrize(
    ("accepted", "exclude", "kept"),
    [
        (None, False, [0, 1, 2]),
        ({}, False, [0, 1, 2]),
        ({"model": ["a"]}, False, [0, 2]),
        ({"model": {"a", "c"}, "api_type": ["azure"]}, False, [2]),
        ({"tags": ["y", "q"]}, False, [0]),
        ({"tags": ["y", "z"]}, False, [0, 2]),
        ({"api_type": ["azure", None]}, False, [0, 1, 2]),
        ({"api_type": [None]}, False, [0]),
        ({"model": "ab"}, False, []),
        ({"model": "b"}, False, [1]),
        ({"model": ["a"]}, True, [1]),
        ({"model": ["a"], "api_type": ["azure"]}, True, []),
        ({"nothing": ["x"]}, False, []),
    ],
)
def test_filter(accepted: Any, exclude: bool, kept: list[int]) -> None:
    """Every key must have an accepted value; of a list one is enough."""
    assert filter_config(LIST, accepted, exclude) == [LIST[index] for index in kept]
