"""Run a command in a copy of the checkout as a user without any rights, as root.

    python3 -I scripts/as_ordinary_user.py CHECKOUT COMMAND [ARGUMENT ...]

The user is a number that nobody has; what it makes (home, virtual environment, image) stays in one
directory, so that the next time is fast. Its interpreter is one that it can start: root's own often lies
in a home that others cannot enter, then another, or a copy, takes its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from check_leaks import files

from executor_service import image_elf

UID = 61840  # of those that no system hands out to people or services
HOME = Path("/var/cache/codecell/ordinary-user")
KEPT = ("CI", "LANG", "LC_ALL", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
KEPT_PREFIXES = ("PIP_", "CODECELL_TEST_", "PYTEST_")


def main() -> int:
    """Exit status: the command's."""
    if os.geteuid() != 0:
        print("error: only root can become another user", file=sys.stderr)
        return 1
    root, command = Path(sys.argv[1]).resolve(), sys.argv[2:]
    HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.chown(HOME, UID, UID)
    copy = HOME / "checkout"
    copy_checkout(root, copy)
    env = environment(find_interpreter())
    done = subprocess.run(command, cwd=copy, env=env, check=False, **identity())
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def identity() -> dict[str, object]:
    """How to start a process as that user."""
    return {"user": UID, "group": UID, "extra_groups": [], "umask": 0o022}


def environment(python: str) -> dict[str, str]:
    """A clean one: of root's, only what installing packages may need."""
    env = {key: value for key, value in os.environ.items() if key in KEPT or key.startswith(KEPT_PREFIXES)}
    env |= {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    return env | {
        "HOME": str(HOME),
        "USER": "ordinary",
        "LOGNAME": "ordinary",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHON": python,
        "CODECELL_VENV": str(HOME / "venv"),
    }


def copy_checkout(root: Path, copy: Path) -> None:
    """What is committed or would be, owned by that user; what a run left in the last copy is gone."""
    shutil.rmtree(copy, ignore_errors=True)
    for name in files(root):
        if (root / name).is_file() or (root / name).is_symlink():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target, follow_symlinks=False)
    for parent, directories, names in os.walk(copy):
        for name in (".", *directories, *names):
            os.chown(os.path.join(parent, name), UID, UID, follow_symlinks=False)


def find_interpreter() -> str:
    """The path of a Python 3.11 or later that the user can start."""
    ours = Path(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info[:2]))
    for name in (str(ours), "/usr/bin/python3", "/usr/local/bin/python3"):
        if starts(name):
            return name
    return str(copy_interpreter(ours))


def starts(python: str) -> bool:
    """Whether the user can start it, and it is new enough and has pip or a way to get it."""
    ask = (
        "import sys, importlib.util as u;"
        "sys.exit(not (sys.version_info >= (3, 11) and (u.find_spec('pip') or u.find_spec('ensurepip'))))"
    )
    try:
        done = subprocess.run(
            [python, "-I", "-c", ask], cwd="/", env={}, capture_output=True, check=False, **identity()
        )
    except OSError:
        return False
    return done.returncode == 0


def copy_interpreter(python: Path) -> Path:
    """A copy of the whole interpreter where everybody can read it."""
    copy = HOME / "python"
    target = copy / "bin" / python.name
    if not starts(str(target)):
        shutil.rmtree(copy, ignore_errors=True)
        skipped = shutil.ignore_patterns("__pycache__", "test", "tests", "*.a")
        shutil.copytree(sys.base_prefix, copy, symlinks=True, ignore=skipped)
        program = target.read_bytes()
        path = image_elf.run_path(program)
        if path is not None and not path.startswith("$ORIGIN"):
            target.write_bytes(image_elf.with_run_path(program, "$ORIGIN/../lib"))
    if not starts(str(target)):
        raise SystemExit(f"error: no Python 3.11 or later that an ordinary user can start; {target} does not")
    return target


if __name__ == "__main__":
    sys.exit(main())
