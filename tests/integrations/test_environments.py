"""The script that makes the environments of the adapters' tests."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "integration_envs.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with requirements and a cache of its own."""
    spec = importlib.util.spec_from_file_location("integration_envs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REQUIREMENTS", tmp_path / "requirements")
    monkeypatch.setenv("CODECELL_INTEGRATION_DIR", str(tmp_path / "cache"))
    module.REQUIREMENTS.mkdir()
    (module.REQUIREMENTS / "some.txt").write_text("# nothing\n")
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """As from the command line."""
    monkeypatch.setattr(script.sys, "argv", ["integration_envs", *arguments])
    return int(script.main())


def test_an_environment_is_made_once_and_then_found(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finding alone makes none, and says how to; what was made for other requirements goes."""
    assert run(script, monkeypatch, "--find") == 1
    assert "run scripts/integration_envs some" in capsys.readouterr().err
    old = script.where("some")
    assert run(script, monkeypatch) == 0
    python = capsys.readouterr().out.strip()
    assert python == str(old / "bin" / "python")
    subprocess.run([python, "-c", "pass"], check=True)
    assert run(script, monkeypatch, "--find", "some") == 0
    (script.REQUIREMENTS / "some.txt").write_text("# something else\n")
    assert run(script, monkeypatch, "--find") == 1
    assert run(script, monkeypatch, "some") == 0
    assert not old.exists()


def test_what_cannot_be_installed_leaves_nothing_that_looks_ready(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The failure shows what pip said."""
    (script.REQUIREMENTS / "some.txt").write_text("no such requirement\n")
    assert run(script, monkeypatch) == 1
    assert "Invalid requirement" in capsys.readouterr().err
    assert run(script, monkeypatch, "--find") == 1
