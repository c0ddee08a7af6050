from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import executor_service

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("demo", "serve", "test", "check", "integration_envs")


def load(name: str) -> ModuleType:
    """One of the project's scripts as a module."""
    spec = importlib.util.spec_from_file_location(f"codecell_script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [*(f"scripts/{name}" for name in SCRIPTS), ".ci/run"])
def test_scripts_can_be_started_and_parse(name: str) -> None:
    """Each is executable, and bash finds no mistake in it."""
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / name)], check=True)


def test_an_interpreter_that_is_none_is_refused() -> None:
    """A wrong PYTHON is an error of its own, never replaced by another interpreter."""
    script = f". {ROOT}/scripts/lib.sh; find_python"
    env = {"PATH": os.environ["PATH"], "PYTHON": "/no/such/python"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: PYTHON=/no/such/python is no Python 3.11 or later\n"


def test_the_real_interpreter_is_found_behind_an_environment() -> None:
    """What the scripts build on is the base interpreter, not the environment that is active."""
    script = f". {ROOT}/scripts/lib.sh; find_python"
    env = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == Path(os.path.realpath(sys.executable))


def test_the_environment_of_a_foreign_checkout_lies_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone that cannot be written is still usable; the variable wins always."""
    set_up = load("set_up")
    monkeypatch.delenv("CODECELL_VENV", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert set_up.choose_directory(tmp_path) == tmp_path / ".venv"
    monkeypatch.setattr(set_up.os, "access", lambda *_: False)
    assert set_up.choose_directory(tmp_path).parent == tmp_path / "cache" / "codecell"
    monkeypatch.setenv("CODECELL_VENV", "/elsewhere")
    assert set_up.choose_directory(tmp_path) == Path("/elsewhere")


def test_an_environment_is_kept_until_something_else_is_wanted(tmp_path: Path) -> None:
    """What was made for more serves less; another requirement or interpreter does not."""
    set_up = load("set_up")
    more = set_up.wants(ROOT, ["service", "dev"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert not set_up.is_ready(tmp_path, more)
    (tmp_path / set_up.STAMP).write_text(set_up.json.dumps(more))
    assert set_up.is_ready(tmp_path, more)
    assert set_up.is_ready(tmp_path, set_up.wants(ROOT, ["service"]))
    assert not set_up.is_ready(tmp_path, more | {"requirements": ["another>=1"]})
    assert not set_up.is_ready(tmp_path, more | {"python": "another"})


def test_a_directory_that_is_no_environment_is_never_removed(tmp_path: Path) -> None:
    """A mistaken CODECELL_VENV must not cost anybody their files."""
    (tmp_path / "precious").touch()
    with pytest.raises(RuntimeError, match="is no virtual environment"):
        load("set_up").create(tmp_path)
    assert (tmp_path / "precious").exists()


def test_no_file_names_this_machine_or_holds_a_secret() -> None:
    """The repository has nothing that scripts/check refuses."""
    assert list(load("check_leaks").leaks(ROOT, Path.home())) == []


@pytest.mark.parametrize(
    "file", ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
)
def test_links_of_the_documents_resolve(file: str) -> None:
    """Every relative link leads to a file, and its fragment to a heading."""
    assert dead_links(ROOT / file) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    """Of links: a file or heading that is not there. What stands in a code block is none."""
    (tmp_path / "b.md").write_text("# A `b`, too\n")
    (tmp_path / "a.md").write_text(
        "# One\n[x](b.md) [x](b.md#a-b-too) [x](#one) [x](https://a.b/c) [x](mailto:a@b.c)\n"
        "[x](c.md) [x](b.md#one) [x](#two)\n```\n# Two\n[x](d.md)\n```\n"
    )
    assert dead_links(tmp_path / "a.md") == ["c.md", "b.md#one", "#two"]


def dead_links(document: Path) -> list[str]:
    """Relative links of a document that lead nowhere."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (fragment and fragment not in headings(target)):
            dead.append(link)
    return dead


def headings(document: Path) -> set[str]:
    """The fragments that GitHub makes of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def prose(document: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_leaks_are_found(tmp_path: Path) -> None:
    """Paths of the checkout and of a home, keys, large files: each is told with its line."""
    (tmp_path / "a.txt").write_text(f"fine\nsee {tmp_path}/b and /home/somebody/x\n")
    (tmp_path / "b.txt").write_text("token = sk-" + "a1" * 20)
    (tmp_path / "c.bin").write_bytes(bytes(2 << 20))
    found = list(load("check_leaks").leaks(tmp_path, Path("/home/somebody")))
    assert found == [
        "a.txt:2: a path of this machine",
        "b.txt:1: looks like a secret",
        "c.bin: larger than 1048576 bytes",
    ]


def test_the_wheel_has_both_packages_their_types_and_the_images(tmp_path: Path) -> None:
    """What is installed without a checkout is complete, and has the version of the source."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"codecell-{executor_service.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "executor_service/py.typed",
        "agent_client/py.typed",
        "executor_service/image_hook.py",
        "executor_service/_images/python/image.toml",
        "executor_service/_images/python/requirements.txt",
        "executor_service/guest/main.py",
    } <= names
    assert not any(name.startswith(("tests/", "scripts/", "benchmarks/")) for name in names)


@pytest.mark.parametrize(
    ("package", "other"), [("agent_client", "executor_service"), ("executor_service", "agent_client")]
)
def test_importing_one_package_imports_nothing_of_the_other(package: str, other: str) -> None:
    """A client needs no service installed, nor the reverse."""
    ask = f"import sys, {package}; print(any(name.partition('.')[0] == {other!r} for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
