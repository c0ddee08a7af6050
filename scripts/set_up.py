"""Make the project's virtual environment, or bring it up to date; print where it is.

    python3 -I scripts/set_up.py CHECKOUT EXTRAS

Standard library only: it runs before anything is installed. Progress goes to stderr. The environment is
`CODECELL_VENV`, else `.venv` in the checkout, else (in a checkout that belongs to someone else) one in
the user's cache directory. It is kept until what the project asks of it changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import deque
from pathlib import Path

STAMP = ".codecell-set-up.json"
DOWNLOAD = re.compile(r"\s*Downloading ([^\s?#]+).*(\([\d.]+ [MG]B\))")


def main() -> int:
    """Exit status: 0 once the environment is ready."""
    root, extras = Path(sys.argv[1]), sys.argv[2].split(",")
    venv = choose_directory(root)
    wanted = wants(root, extras)
    if not is_ready(venv, wanted):
        try:
            venv.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(venv.parent, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time; released at exit
            if not is_ready(venv, wanted):
                make(venv, root, extras, wanted)
        except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
            print(f"error: the virtual environment {venv} could not be made: {error}", file=sys.stderr)
            return 1
    print(venv)
    return 0


def choose_directory(root: Path) -> Path:
    """Where the environment is, or will be."""
    if given := os.environ.get("CODECELL_VENV"):
        return Path(given).absolute()
    venv = root / ".venv"
    if os.access(venv if venv.exists() else root, os.W_OK):
        return venv
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "codecell" / f"venv-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"


def wants(root: Path, extras: list[str]) -> dict[str, object]:
    """What the environment must have been made from."""
    with (root / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    optional = project.pop("optional-dependencies")
    requirements = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    return {
        "python": [sys.executable, sys.version],
        "root": str(root),
        "project": hashlib.sha256(json.dumps(project, sort_keys=True).encode()).hexdigest(),
        "requirements": sorted(requirements),
    }


def is_ready(venv: Path, wanted: dict[str, object]) -> bool:
    """Whether `venv` has at least what is wanted."""
    try:
        there = json.loads((venv / STAMP).read_text(encoding="utf-8"))
        missing = set(wanted["requirements"]) - set(there.pop("requirements"))  # type: ignore[call-overload]
    except (OSError, ValueError, KeyError):
        return False
    same = {key: value for key, value in wanted.items() if key != "requirements"}
    return there == same and not missing and os.access(venv / "bin" / "python", os.X_OK)


def make(venv: Path, root: Path, extras: list[str], wanted: dict[str, object]) -> None:
    """Create the environment unless it is there, and install the project and what it needs."""
    if works(venv):
        tell(f"bringing the virtual environment {venv} up to date")
    else:
        tell(f"setting up a virtual environment in {venv} (Python {sys.version.split()[0]}), once")
        create(venv)
    (venv / STAMP).unlink(missing_ok=True)
    tell(f"installing codecell[{','.join(extras)}] and what it needs")
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off"]
    run([*pip, "-e", f"{root}[{','.join(extras)}]"])
    (venv / STAMP).write_text(json.dumps(wanted), encoding="utf-8")
    tell("the virtual environment is ready")


def works(venv: Path) -> bool:
    """Whether there is an environment of this very interpreter, with pip, made by hand perhaps."""
    ask = "import pip, sys; print(sys.base_prefix, sys.version)"
    try:
        done = subprocess.run(
            [venv / "bin" / "python", "-I", "-c", ask], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return done.stdout.strip() == f"{sys.base_prefix} {sys.version}"


def create(venv: Path) -> None:
    """An environment with pip, by whatever this machine has: venv and ensurepip, or pip alone."""
    ours = venv / "pyvenv.cfg"
    if venv.exists() and any(venv.iterdir()) and not ours.exists():
        raise RuntimeError("it exists and is no virtual environment; remove it or set CODECELL_VENV")
    shutil.rmtree(venv, ignore_errors=True)
    attempts = (with_ensurepip, with_pip_of_base, with_virtualenv)
    problems = []
    for attempt in attempts:
        try:
            return attempt(venv)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            problems.append(f"{attempt.__name__}: {said.strip().splitlines()[-1] if said.strip() else error}")
            shutil.rmtree(venv, ignore_errors=True)
    hint = "install pip or venv for this Python (on Debian: apt-get install python3-venv)"
    raise RuntimeError(f"{hint}; tried " + "; ".join(problems))


def with_ensurepip(venv: Path) -> None:
    """The usual way."""
    quietly([sys.executable, "-I", "-m", "venv", str(venv)])


def with_pip_of_base(venv: Path) -> None:
    """Debian without python3-venv has venv but no ensurepip; the interpreter's own pip serves."""
    quietly([sys.executable, "-I", "-m", "venv", "--without-pip", str(venv)])
    quietly([sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "pip"])


def with_virtualenv(venv: Path) -> None:
    """An interpreter without the venv module: virtualenv, installed for this once."""
    with tempfile.TemporaryDirectory() as directory:
        quietly([sys.executable, "-m", "pip", "install", "--target", directory, "virtualenv"])
        env = os.environ | {"PYTHONPATH": directory}
        quietly([sys.executable, "-m", "virtualenv", str(venv)], env)


def quietly(argv: list[str], env: dict[str, str] | None = None) -> None:
    """Run it; what it said is kept for its failure."""
    subprocess.run(argv, check=True, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def run(argv: list[str]) -> None:
    """Run pip, showing what it downloads; its last lines are shown if it fails."""
    env = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    said: deque[str] = deque(maxlen=25)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(argv, text=True, errors="replace", env=env, **pipes) as process:  # type: ignore[call-overload]
        for line in process.stdout:
            said.append(line.rstrip())
            if found := DOWNLOAD.match(line):
                tell(f"downloading {found[1].rpartition('/')[2]} {found[2]}")
    if process.returncode:
        raise RuntimeError("pip failed:\n" + "\n".join(said))


def tell(line: str) -> None:
    """One line of progress."""
    print(f"    {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
