"""Makes a base image from Debian packages, for a machine that reaches no image registry.

`mmdebstrap` fetches the packages from Debian's archive (apt checks their signatures); the engine imports
the result. The same packages give the same archive, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from executor_service.docker_context import EPOCH
from executor_service.docker_images import BOOTSTRAP, reference_of
from executor_service.image_build import ImageBuildError

if TYPE_CHECKING:
    from docker import APIClient

SUITE = "trixie"
_SHOWN_CHARS = 2000


def arguments(dpkg_options: Path) -> list[str]:
    """What `mmdebstrap` is asked for, without the archive's name."""
    leave_out = '--customize-hook=rm -f "$1"/etc/hostname "$1"/etc/resolv.conf'
    return ["--variant=minbase", "--components=main", f"--dpkgopt={dpkg_options}", leave_out, SUITE]


def reference(dpkg_options: Path) -> str:
    """The name of the base that these options give."""
    words = [word for word in arguments(Path("options")) if word]
    made_of = "\0".join(words).encode() + dpkg_options.read_bytes()
    return reference_of(BOOTSTRAP, f"{SUITE}-{hashlib.sha256(made_of).hexdigest()[:12]}")


def bootstrap(client: APIClient, dpkg_options: Path, progress: Callable[[str], None]) -> str:
    """The base's reference, made now unless it was before. Blocks for half a minute.

    Args:
        client: the engine where the image goes.
        dpkg_options: what the packages are unpacked without, in dpkg's own format.
        progress: told, in a line each, what happens.

    Raises:
        ImageBuildError: `mmdebstrap` is not there, or failed; with what it said last.
    """
    from docker.errors import ImageNotFound as NotThere

    name = reference(dpkg_options)
    try:
        client.inspect_image(name)
    except NotThere:
        progress(f"base: making {name} from Debian packages")
        with tempfile.TemporaryDirectory(prefix="codecell-base-") as directory:
            archive = Path(directory, "base.tar")
            _make(archive, dpkg_options)
            repository, _, tag = name.rpartition(":")
            client.import_image_from_file(str(archive), repository=repository, tag=tag)
        progress("base: made")
    return name


def _make(archive: Path, dpkg_options: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise ImageBuildError(
            "--bootstrap needs mmdebstrap; on Debian and Ubuntu: apt-get install mmdebstrap"
        )
    env = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or str(EPOCH)}
    # mmdebstrap's user 'nobody' reads packages' list from the temporary directory.
    archive.parent.chmod(0o755)
    done = subprocess.run(
        ["mmdebstrap", *arguments(dpkg_options), str(archive)],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        raise ImageBuildError(f"mmdebstrap failed ({done.returncode}):\n{done.stderr[-_SHOWN_CHARS:]}")
