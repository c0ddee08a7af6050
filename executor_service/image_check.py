"""Runs inside a freshly built Docker image, as root and without a network: is it fit for sandboxes?

A program of its own, for the image's interpreter, with the standard library alone; what it prints is the
build's to read. The service never imports it.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import sys

ELSEWHERE = {"/dev", "/proc", "/sys"}
DIRECTORIES = {"/run/codecell": (0, 0o700), "/run/kernel": (1000, 0o711), "/workspace": (1000, 0o755)}
"""Whose they are, and their modes."""
USERS = {"user": 1000, "relay": 1001}


def problems() -> list[str]:
    """What is wrong, each in a few words."""
    found = []
    if sys.version_info < (3, 11):  # noqa: UP036 - it is not our interpreter that runs this
        found.append("its Python is older than 3.11")
    if sys.prefix != "/opt/codecell/env":
        found.append("its environment is not at /opt/codecell/env")
    for name, uid in USERS.items():
        if name not in {each.pw_name for each in pwd.getpwall() if each.pw_uid == uid}:
            found.append(f"it has no user {name} with uid {uid}")
    for path, (owner, mode) in DIRECTORIES.items():
        found += wrong_directory(path, owner, mode)
    found += [f"{path} has a setuid or setgid bit or capabilities" for path in privileged("/")]
    return found


def wrong_directory(path: str, owner: int, mode: int) -> list[str]:
    """Whether it is not there, or not whose and how it should be."""
    try:
        status = os.lstat(path)
    except OSError:
        return [f"{path} is not there"]
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or stat.S_IMODE(status.st_mode) != mode:
        return [f"{path} is not a directory of uid {owner} with mode {mode:04o}"]
    return []


def privileged(root: str) -> list[str]:
    """The first files that would give a program more rights than its caller has."""
    found: list[str] = []
    for parent, directories, files in os.walk(root):
        directories[:] = [name for name in directories if os.path.join(parent, name) not in ELSEWHERE]
        for name in files:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                continue
            if status.st_mode & 0o6000 or "security.capability" in os.listxattr(path, follow_symlinks=False):
                found.append(path)
    return sorted(found)[:5]


if __name__ == "__main__":
    version = "{}.{}.{}".format(*sys.version_info[:3])
    print(json.dumps({"python_version": version, "problems": problems()}))  # noqa: T201
