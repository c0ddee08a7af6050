"""The environments in which the adapters are tested with the real packages, which cannot live together.

    scripts/integration_envs [--find] [NAME ...]

Makes those that are missing (all, unless named) and prints where each one's interpreter is; `--find` makes
none and fails where one is missing. A name is a file's in tests/integrations/requirements. An environment
lies in the user's cache directory (the system's, for root), named after the hash of its requirements, so it
is made once. Standard library only, and a Python that has pip.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "tests" / "integrations" / "requirements"


def main() -> int:
    """Exit status: 0 if all are there in the end."""
    names = [argument for argument in sys.argv[1:] if argument != "--find"]
    find_only = "--find" in sys.argv[1:]
    status = 0
    for name in names or sorted(path.stem for path in REQUIREMENTS.glob("*.txt")):
        directory = where(name)
        try:
            if not python_of(directory).exists():
                if find_only:
                    raise RuntimeError(f"{directory} is missing: run scripts/integration_envs {name}")
                make(name, directory)
            print(python_of(directory), flush=True)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stdout", None) or ""
            print(f"error: {name}: {error}\n{said[-2000:]}".rstrip(), file=sys.stderr)
            status = 1
    return status


def python_of(directory: Path) -> Path:
    """An environment's interpreter."""
    return directory / "bin" / "python"


def where(name: str) -> Path:
    """An environment's directory, whether it is there or not."""
    made_from = [(REQUIREMENTS / f"{name}.txt").read_bytes(), sys.version.encode()]
    made_from += [sys.base_prefix.encode(), sysconfig.get_platform().encode()]
    key = hashlib.sha256(b"\0".join(made_from)).hexdigest()[:12]
    return cache_dir() / f"{name}-{key}"


def cache_dir() -> Path:
    """`CODECELL_INTEGRATION_DIR`, the system's cache for root, else the user's own."""
    if given := os.environ.get("CODECELL_INTEGRATION_DIR"):
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/codecell/integrations")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecell" / "integrations"


def make(name: str, directory: Path) -> None:
    """Create the environment beside its place and move it there when it is whole; older ones go."""
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(directory.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if python_of(directory).exists():
            return
        print(f"    making the environment {directory}", file=sys.stderr, flush=True)
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        run([sys.executable, "-m", "venv", "--without-pip", str(partial)])
        pip = [sys.executable, "-m", "pip", "--python", str(python_of(partial)), "install", "--no-deps"]
        run([*pip, "--no-compile", "--progress-bar", "off", "-r", str(REQUIREMENTS / f"{name}.txt")])
        for old in directory.parent.glob(f"{name}-*"):
            shutil.rmtree(old, ignore_errors=True)
        partial.rename(directory)
    finally:
        os.close(lock)


def run(argv: list[str]) -> None:
    """Run it; what it said is kept for its failure."""
    env = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    subprocess.run(
        argv,
        check=True,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


if __name__ == "__main__":
    sys.exit(main())
