"""Builds an image's environment into a cache directory: once, atomically, saying what it does.

A virtual environment cannot be moved, so it is made where it will lie, in a directory named after
everything that it depends on; a marker file, written last, makes it count. A lock keeps two builds of
one image apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from executor_service import image_layout
from executor_service.errors import ImageNotFound
from executor_service.images import (
    MARKER,
    BuiltImage,
    ImageDefinition,
    Interpreter,
    build_key,
    cache_dir,
    find_built,
    read_built,
    this_interpreter,
)

log = logging.getLogger(__name__)

Progress = Callable[[str], None]
_PIP_FAILS_BY = ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PYTHONHOME", "PYTHONPATH")
_MILESTONE = re.compile(
    r"\s*Downloading (?P<file>[^\s?#]+).*(?P<size>\([\d.]+ [MG]B\))"
    r"|(?P<build>Building wheel for \S+)"
    r"|Installing collected packages: (?P<packages>.*)"
)
_SHOWN_PIP_LINES = 25


class ImageBuildError(Exception):
    """An image could not be built; the message ends with what pip said last."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    argv: list[str]
    env: Mapping[str, str]
    progress: Progress


def describe_interpreter(executable: str) -> Interpreter:
    """The base interpreter behind `executable`, through shims and virtual environments.

    Raises:
        ImageBuildError: it does not run, or is older than 3.11.
    """
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from executor_service import images as i;"
        "n = i.this_interpreter();"
        "print(json.dumps([str(n.executable), n.version, str(n.base_prefix)]))"
    )
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run([executable, "-I", "-c", script, root], capture_output=True, text=True, check=False)
    try:
        path, version, base = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise ImageBuildError(
            f"{executable} is no Python 3.11 or later: {done.stderr.strip()[-500:]}"
        ) from None
    return Interpreter(executable=Path(path), version=version, base_prefix=Path(base))


def build(
    definition: ImageDefinition,
    *,
    directory: Path | None = None,
    interpreter: Interpreter | None = None,
    progress: Progress = log.info,
) -> BuiltImage:
    """The built image, made now unless it was before. Blocks for as long as pip takes.

    Args:
        definition: what to build.
        directory: where builds lie; by default where this user's do.
        interpreter: the base interpreter; by default the one that runs this.
        progress: told, in a line each, what happens.

    Raises:
        ImageBuildError: with what pip said last.
    """
    interpreter = interpreter or this_interpreter()
    if not definition.requirements.is_file():
        raise ImageBuildError(f"image {definition.name}: without requirements.txt it is for Docker alone")
    # Built for all by root, or by this user before.
    with contextlib.suppress(ImageNotFound):
        return find_built(definition, None if directory is None else [directory], interpreter)
    directory = directory or cache_dir()
    target = directory / f"{definition.name}-{build_key(definition, interpreter)}"
    try:
        _make_readable(directory)
        with _lock(directory / f".{target.name}.lock", definition.name, progress):
            return read_built(target, definition) or _make(definition, target, interpreter, progress)
    except (OSError, ValueError) as error:
        raise ImageBuildError(f"image {definition.name}: {error}") from error


def _make_readable(directory: Path) -> None:
    """Make `directory`; what is new of it is readable by all, for the service may be another user."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o755, exist_ok=True)


@contextlib.contextmanager
def _lock(path: Path, name: str, progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"image {name}: waiting for another build of it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(
    definition: ImageDefinition, target: Path, interpreter: Interpreter, progress: Progress
) -> BuiltImage:
    name = definition.name
    progress(f"image {name}: building in {target} with Python {interpreter.version}")
    shutil.rmtree(target, ignore_errors=True)
    previous = os.umask(0o022)
    try:
        env_dir = target / "env"
        env = _environment()
        venv = [str(interpreter.executable), "-I", "-m", "venv", "--without-pip", str(env_dir)]
        _run(_Step(argv=venv, env=env, progress=progress), name)
        python = env_dir / "bin" / "python"
        install = [*_pip(python, env), "install", "--no-compile", "--progress-bar", "off"]
        argv = [*install, "-r", str(definition.requirements)]
        progress(f"image {name}: collecting packages")
        _run(_Step(argv=argv, env=env, progress=progress), name)
        _write_constraints(env_dir, interpreter)
        progress(f"image {name}: compiling its modules")
        image_layout.finish(target, interpreter)
        _write_marker(target, interpreter)
        image = read_built(target, definition)
        if image is None:
            raise ImageBuildError(f"image {name}: built in {target}, but it does not read back")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    finally:
        os.umask(previous)
    progress(f"image {name}: built")
    return image


def _environment() -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if key not in _PIP_FAILS_BY}
    return env | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONNOUSERSITE": "1"}


def _pip(python: Path, env: Mapping[str, str]) -> list[str]:
    """A pip that installs into `python`'s environment: ours, its base's, or the bundled one.

    A machine may lack any two of them: Debian without python3-venv has no bundled one.
    """
    for candidate in (sys.executable, os.path.realpath(python)):
        argv = [candidate, "-m", "pip", "--python", str(python)]
        if subprocess.run([*argv, "--version"], capture_output=True, env=env, check=False).returncode == 0:
            return argv
    done = subprocess.run(
        [python, "-I", "-m", "ensurepip"], capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        raise ImageBuildError(f"no pip was found to install with: {done.stderr.strip()[-500:]}")
    return [str(python), "-m", "pip"]


def pip_options() -> dict[str, str]:
    """What this user's pip is configured with, by the names of its options: a variable's value wins."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(argv, capture_output=True, text=True, env=_environment(), check=False)
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        place, _, value = line.partition("=")
        name = place.removeprefix(":env:.").removeprefix("global.").removeprefix("install.")
        if place.startswith(":env:.") or name not in found:
            found[name] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    return found


def prune(known: Mapping[str, ImageDefinition]) -> list[Path]:
    """Remove this user's builds of these definitions that are not what they ask for now; which they were.

    A build in use by a running service goes too: its sandboxes keep what they have open, new ones fail.
    """
    directory, removed = cache_dir(), []
    for name, definition in known.items():
        wanted = definition.requirements.is_file()
        keep = f"{name}-{build_key(definition, this_interpreter())}" if wanted else ""
        for path in sorted(directory.glob(f"{name}-*")):
            if re.fullmatch(rf"{name}-[0-9a-f]{{12}}", path.name) and path.name != keep:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed


def _run(step: _Step, name: str) -> None:
    """Run it, telling pip's milestones; what else it said is shown only if it fails."""
    said: deque[str] = deque(maxlen=_SHOWN_PIP_LINES)
    told: set[str] = set()
    with subprocess.Popen(
        step.argv,
        env=dict(step.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said.append(line.rstrip())
                words = milestone(line)
                if words is not None and words not in told:
                    told.add(words)
                    step.progress(f"image {name}: {words}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ImageBuildError(f"image {name}: building failed ({process.returncode}):\n" + "\n".join(said))


def milestone(line: str) -> str | None:
    """What a line of pip's output is worth telling, without the places that it names; None for most."""
    found = _MILESTONE.match(line)
    if found is None:
        return None
    if found["file"]:
        return f"downloading {found['file'].rpartition('/')[2]} {found['size']}"
    return found["build"] or f"installing {found['packages'].count(',') + 1} packages"


def _write_constraints(env_dir: Path, interpreter: Interpreter) -> None:
    site = image_layout.site_packages(env_dir, interpreter)
    pins = {f"{item.name}=={item.version}" for item in importlib.metadata.distributions(path=[str(site)])}
    path = env_dir / "share" / "codecell" / "constraints.txt"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{pin}\n" for pin in sorted(pins, key=str.lower)), encoding="utf-8")


def _write_marker(target: Path, interpreter: Interpreter) -> None:
    marker = {
        "base_prefix": str(interpreter.base_prefix),
        "base_python": str(interpreter.executable),
        "python_version": interpreter.version,
    }
    partial = target / f"{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=2), encoding="utf-8")
    partial.rename(target / MARKER)
