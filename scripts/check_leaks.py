"""Find what must not be written into a file of the repository: paths of this machine, keys, large files.

    python3 scripts/check_leaks.py CHECKOUT

What is ignored by git is not looked at.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LARGEST = 1 << 20
SKIPPED = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
SECRETS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|\b(?:sk|ghp|gho|pypi|xox[abp])[-_][A-Za-z0-9_-]{32,}"
    rb"|\bAKIA[A-Z0-9]{16}\b"
)


def main() -> int:
    """Exit status: 1 if there is anything to remove."""
    problems = list(leaks(Path(sys.argv[1]).resolve(), Path.home()))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def leaks(root: Path, home: Path) -> Iterator[str]:
    """What is wrong, one line each: the file, the line, what it has."""
    # Not root's home, nor a checkout at the top: programs under test may name those.
    places = [bytes(path / "x")[:-1] for path in (root, home) if len(path.parts) > 2]
    for name in files(root):
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size > LARGEST:
            yield f"{name}: larger than {LARGEST} bytes"
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if any(place in line for place in places):
                yield f"{name}:{number}: a path of this machine"
            if SECRETS.search(line):
                yield f"{name}:{number}: looks like a secret"


def files(root: Path) -> list[str]:
    """Everything that is committed or would be, relative to `root`."""
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root), "ls-files", "-zco", "--exclude-standard"]
    try:
        done = subprocess.run(git, capture_output=True, check=True)
        return sorted(done.stdout.decode().rstrip("\0").split("\0"))
    except (OSError, subprocess.CalledProcessError):
        found = (path.relative_to(root) for path in root.rglob("*") if path.is_symlink() or path.is_file())
        return sorted(str(path) for path in found if not SKIPPED & set(path.parts))


if __name__ == "__main__":
    sys.exit(main())
