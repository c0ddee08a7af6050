"""Images: named environments to run code in. What is defined, what is built, and where.

A definition is a directory (`sandbox_images/<name>/`, see its README). Building one is
:mod:`executor_service.image_build`'s part; this module reads definitions and finds built images.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from executor_service.errors import ImageNotFound

ENV_PATH = "/opt/codecell/env"
"""Where a sandbox sees an image's environment."""
BASE_PATH = "/opt/codecell/base"
"""Where a sandbox sees the environment's base interpreter, unless that lies below /usr."""
SITE_PREFIX = "/workspace/.local"
"""What `pip install` inside a sandbox adds lies here; each image's `_codecell_site` knows it too."""
SANDBOX_PATH = f"{ENV_PATH}/bin:{SITE_PREFIX}/bin:/usr/local/bin:/usr/bin:/bin"
"""`PATH` inside a sandbox: installed scripts behind the image's own, as on `sys.path`."""
SITE_ENV: Mapping[str, str] = {
    # Another version of a package of the image would be installed behind it and never be imported:
    # pip refuses that with a clear message instead.
    "PIP_CONSTRAINT": f"{ENV_PATH}/share/codecell/constraints.txt",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",  # a cache would count against the workspace's size
    "PIP_NO_INPUT": "1",
}
"""Set in every sandbox beside `PATH`, so that pip works as :mod:`executor_service.image_hook` says."""
OFFLINE_ENV: Mapping[str, str] = {"PIP_RETRIES": "0"}
"""Set where a sandbox has no network: pip then says so at once instead of trying for half a minute."""

BASE_ENV: Mapping[str, str] = {
    "PATH": SANDBOX_PATH,
    "HOME": "/workspace",
    "USER": "user",
    "LOGNAME": "user",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "MPLCONFIGDIR": "/tmp/.matplotlib",  # noqa: S108 - the sandbox's own
    "PYTHONDONTWRITEBYTECODE": "1",
    **SITE_ENV,
    **OFFLINE_ENV,
}
"""The variables of every program in a sandbox, and of the zygotes that they are forked from: what Python and
preloaded libraries read while they start must be the same for both."""
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Set to the sandbox's number of cpus; 1 in a zygote, which must have one thread when it forks."""

SYSTEM_CACHE = Path("/var/cache/codecell/images")
MARKER = "image.json"
LAYOUT = 1
"""Part of every build's key: a change of how images are laid out builds them anew."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEYS = {"description", "docker", "docker_languages", "kernels", "languages", "limits", "preload"}
_USUAL_LANGUAGES = ["python", "bash"]  # what every image has: those of one that names none
_REFERENCE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")


class ImageDefinitionError(ValueError):
    """An image's directory does not say what it should; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class ImageDefinition:
    """One directory of image definitions.

    `languages` are those that its programs may be written in, `kernels` those that a session may keep
    state in, beside Python; `limits` holds what differs from the service's defaults. `docker` is the
    reference of a Docker image that somebody else built; without it the directory is built.
    `docker_languages` stands for `languages` there, where the host's toolchains are not to be seen.
    """

    name: str
    description: str
    directory: Path
    docker: str | None = None
    preload: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    docker_languages: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def requirements(self) -> Path:
        """The environment's packages; a directory for Docker alone may be without."""
        return self.directory / "requirements.txt"

    @property
    def dockerfile(self) -> Path:
        """How the Docker image is built; without it, as the project's `python` is."""
        return self.directory / "Dockerfile"


class Image(Protocol):
    """What everybody but a backend needs to know of a built image."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def kernels(self) -> tuple[str, ...]: ...
    @property
    def preload(self) -> tuple[str, ...]: ...
    @property
    def limits(self) -> Mapping[str, float]: ...
    @property
    def python_version(self) -> str: ...
    @property
    def fingerprint(self) -> str:
        """Names this build: another one is another string."""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A base interpreter: the one behind any virtual environment or version manager's shim."""

    executable: Path
    version: str
    base_prefix: Path

    @property
    def tag(self) -> str:
        """The directory name of its libraries: `python3.11`."""
        return "python" + ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """A built environment. `env_dir` is bound at ENV_PATH; its bin/python starts only there."""

    name: str
    directory: Path
    base_prefix: Path
    base_python: Path
    python_version: str
    preload: tuple[str, ...]
    languages: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    description: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return self.directory.name

    @property
    def env_dir(self) -> Path:
        return self.directory / "env"

    @property
    def host_python(self) -> Path:
        """The same packages under the same interpreter on this host, outside any sandbox."""
        return self.directory / "host" / "bin" / "python"


def definitions(directories: Iterable[Path] | None = None) -> dict[str, ImageDefinition]:
    """All image definitions by name; of two with one name the first directory's counts.

    Raises:
        ImageDefinitionError: a definition is malformed.
    """
    found: dict[str, ImageDefinition] = {}
    for directory in definition_directories() if directories is None else directories:
        for child in sorted(directory.iterdir()) if directory.is_dir() else ():
            if (child / "image.toml").is_file():
                found.setdefault(child.name, read_definition(child))
    return found


def why_unknown(name: str, directories: Iterable[Path] | None = None) -> str | None:
    """What a directory of that name lacks to be a definition; None where there is none."""
    for directory in definition_directories() if directories is None else directories:
        if _NAME.fullmatch(name) and (directory / name).is_dir():
            return f"{directory / name} has no image.toml (an empty one will do)"
    return None


def definition_directories(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where definitions lie: `CODECELL_IMAGES_PATH`, then the checkout's or the installed package's own."""
    package = Path(__file__).resolve().parent
    return [*own_directories(environ), package.parent / "sandbox_images", package / "_images"]


def own_directories(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The operator's own, there or not: `CODECELL_IMAGES_PATH`."""
    return [Path(part) for part in environ.get("CODECELL_IMAGES_PATH", "").split(os.pathsep) if part]


def read_definition(directory: Path) -> ImageDefinition:
    """Raises ImageDefinitionError."""
    path = directory / "image.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImageDefinitionError(f"{path}: {error}") from error
    if not _NAME.fullmatch(directory.name):
        raise ImageDefinitionError(f"{directory}: an image's name is lower-case letters, digits, - and _")
    if unknown := sorted(data.keys() - _KEYS):
        raise ImageDefinitionError(f"{path}: unknown: {', '.join(unknown)}")
    docker = data.get("docker")
    if docker is not None and not (isinstance(docker, str) and _REFERENCE.fullmatch(docker)):
        raise ImageDefinitionError(f"{path}: docker is the reference of an image")
    made_by = [directory / file for file in ("requirements.txt", "Dockerfile")]
    if docker is None and not any(path.is_file() for path in made_by):
        raise ImageDefinitionError(f"{directory}: there is no such file as requirements.txt or Dockerfile")
    languages = data.get("languages", _USUAL_LANGUAGES)
    limits = data.get("limits", {})
    if not isinstance(limits, dict) or not all(type(value) in {int, float} for value in limits.values()):
        raise ImageDefinitionError(f"{path}: [limits] is a table of numbers")
    return ImageDefinition(
        name=directory.name,
        description=str(data.get("description", "")),
        directory=directory,
        docker=docker,
        preload=_strings(path, data, "preload"),
        languages=_strings(path, {"languages": languages}, "languages"),
        docker_languages=_strings(path, {"docker_languages": languages, **data}, "docker_languages"),
        kernels=_strings(path, data, "kernels"),
        limits=limits,
    )


def _strings(path: Path, data: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ImageDefinitionError(f"{path}: {key} is a list of names")
    return tuple(value)


def this_interpreter() -> Interpreter:
    """The base interpreter of the running process."""
    version = "{}.{}.{}".format(*sys.version_info[:3])
    base = Path(sys.base_prefix)
    executable = base / "bin" / "python{}.{}".format(*sys.version_info[:2])
    if not executable.exists():
        executable = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    return Interpreter(executable=executable, version=version, base_prefix=base)


def build_key(definition: ImageDefinition, interpreter: Interpreter) -> str:
    """Names a build: another one when the requirements, the interpreter or our layout change."""
    hook = Path(__file__).with_name("image_hook.py").read_bytes()
    inputs = (
        str(LAYOUT).encode(),
        definition.requirements.read_bytes(),
        hook,
        interpreter.version.encode(),
        str(interpreter.base_prefix).encode(),
        sysconfig.get_platform().encode(),
    )
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in inputs)).hexdigest()[:12]


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this user's builds go: `CODECELL_IMAGE_DIR`, the system's cache for root, else the user's own."""
    if given := environ.get("CODECELL_IMAGE_DIR"):
        return Path(given).absolute()
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    own = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    return Path(own) / "codecell" / "images"


def search_path(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where built images are looked for: this user's builds, then those that root made for all."""
    own = cache_dir(environ)
    return [own] if environ.get("CODECELL_IMAGE_DIR") or own == SYSTEM_CACHE else [own, SYSTEM_CACHE]


def find_built(
    definition: ImageDefinition,
    directories: Iterable[Path] | None = None,
    interpreter: Interpreter | None = None,
) -> BuiltImage:
    """The build of `definition` as it is now, for the given interpreter (this process's by default).

    Raises:
        ImageNotFound: it is not built; the detail names the command that builds it.
    """
    name = definition.name
    if not definition.requirements.is_file():
        raise ImageNotFound(f"the image {name!r} has no requirements.txt: it is for the Docker backend alone")
    key = build_key(definition, interpreter or this_interpreter())
    for directory in search_path() if directories is None else directories:
        image = read_built(directory / f"{definition.name}-{key}", definition)
        if image is not None:
            return image
    command = f"codecell-executor images build {name} --backend local"
    raise ImageNotFound(f"the image {name!r} is not built; build it: {command}")


def read_built(directory: Path, definition: ImageDefinition) -> BuiltImage | None:
    """The image in `directory`, or None if it is unfinished, another user's, or its interpreter is gone."""
    try:
        if directory.stat().st_uid not in {0, os.geteuid()}:
            return None
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        image = BuiltImage(
            name=definition.name,
            directory=directory,
            base_prefix=Path(marker["base_prefix"]),
            base_python=Path(marker["base_python"]),
            python_version=marker["python_version"],
            preload=definition.preload,
            languages=definition.languages,
            kernels=definition.kernels,
            description=definition.description,
            limits=definition.limits,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return image if os.access(image.base_python, os.X_OK) else None


def host_command(image: BuiltImage) -> tuple[list[str], dict[str, str]]:
    """How to run the image's packages on this host, isolated from nothing: argv and what to set.

    For benchmarks ("bare python") and for looking around; never for a caller's code.
    """
    return [str(image.host_python)], {"PYTHONNOUSERSITE": "1"}
