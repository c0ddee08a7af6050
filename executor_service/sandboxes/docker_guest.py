"""The guest's code on the host, where the engine mounts it from: a copy for each version, named by its hash.

A copy, because the engine may see no more of this service's files than its state directory; one for each
version, because sandboxes that outlive the service go on with the code that they started with; and one for
each image, because each is compiled by its image's interpreter, which others need not trust.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

PREFIX = "guest-"
HOSTS = "hosts"  # a container without network gets an empty /etc/hosts from its engine


def place_of(runtime_dir: Path, source: Path, image: str) -> Path:
    """The directory to mount for an image; it is complete if it is there."""
    digest = hashlib.sha256(image.encode())
    for path in _files(source):
        digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return runtime_dir / f"{PREFIX}{digest.hexdigest()[:16]}"


def _files(source: Path) -> list[Path]:
    return sorted(source.rglob("*.py"))


def copy_guest(target: Path, source: Path) -> Path:
    """A copy of the guest, readable by all, that is to be renamed to `target` when it is compiled.

    Raises:
        OSError: it cannot be written.
    """
    building = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    package = building / "executor_service"
    for path in _files(source):
        copy = package / "guest" / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (package / "__init__.py").write_bytes(b"")
    (building / HOSTS).write_text("127.0.0.1 localhost sandbox\n::1 localhost\n")
    for path in (building, *building.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return building


def remove_other_guests(runtime_dir: Path, present: Collection[Path], adopted: bool) -> None:
    """Remove older copies, unless a sandbox that was adopted may still need one."""
    if adopted:
        return
    for path in [*runtime_dir.glob(f"{PREFIX}*"), *runtime_dir.glob(f".{PREFIX}*")]:
        if path not in present:
            shutil.rmtree(path, ignore_errors=True)
