"""Docker images of the definitions: how a build is named, and which one an engine has.

Making them is :mod:`executor_service.docker_build`'s part. A build is named by a key over everything in
its directory and in those of its parents, and not by the machine: an image that one service built is the
one that another looks for. Which Debian it stands on is no part of the key; `images build --rebuild`
builds anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor_service.errors import ImageNotFound, ServiceFault
from executor_service.images import ImageDefinition, ImageDefinitionError

if TYPE_CHECKING:
    from docker import APIClient

LAYOUT = 1
"""Part of every key: a change of how images are laid out builds them anew."""
REPOSITORY = "codecell"
"""Our images are `codecell/<name>:<key>`; the newest is also `codecell/<name>:latest`."""
LABEL_NAME, LABEL_KEY, LABEL_META = "codecell.image", "codecell.key", "codecell.meta"
STAGE_LABEL = "codecell.stage"
"""On what a build makes on its way, with the image's name; removed once the image is there."""
BOOTSTRAP = "bootstrap"
"""The name of bases made from Debian packages: an image without a definition."""

# Neither changes what is inside: `image.toml` is read from the definition, where the service starts.
_IGNORED = re.compile(r"image\.toml|.*\.md|\..*|__pycache__|.*\.pyc")
_PARENT = re.compile(
    rf"^FROM\s+(?:--\S+\s+)*{REPOSITORY}/([a-z0-9][a-z0-9_-]*)(?::latest)?(?=\s|$)",
    re.MULTILINE | re.IGNORECASE,
)


class WrongImage(ServiceFault):
    """An image is there, and no sandbox can be made of it; the detail says why."""


@dataclass(frozen=True, kw_only=True)
class DockerImage:
    """A built image. `reference` is what containers are made from, `id` the engine's name of its content."""

    name: str
    reference: str
    id: str
    python_version: str
    description: str = ""
    languages: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return self.id


def parents(dockerfile: str) -> list[str]:
    """The images of ours that a Dockerfile's stages stand on, each once."""
    return list(dict.fromkeys(_PARENT.findall(dockerfile)))


def pinned(dockerfile: str, references: Mapping[str, str]) -> str:
    """The Dockerfile with each parent named by its exact build; what is not in `references` is left."""

    def pin(found: re.Match[str]) -> str:
        reference = references.get(found[1])
        return found[0] if reference is None else f"{found[0].rpartition(REPOSITORY)[0]}{reference}"

    return _PARENT.sub(pin, dockerfile)


def marked(dockerfile: str, name: str) -> str:
    """The Dockerfile with a label on each stage, which names whose build it is a part of."""
    return re.sub(r"(?m)^(FROM\s.*)$", rf"\g<1>\nLABEL {STAGE_LABEL}={name}", dockerfile)


def dockerfile_of(definition: ImageDefinition) -> str:
    """How `definition` is built: by its own Dockerfile, else as `python` is.

    Raises:
        ImageDefinitionError: there is none to build it by.
    """
    own = definition.dockerfile
    python = Path(__file__).resolve().parent
    candidates = [
        own,
        python.parent / "sandbox_images/python/Dockerfile",
        python / "_images/python/Dockerfile",
    ]
    for path in candidates:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ImageDefinitionError(f"{own}: there is no such file")


def files_of(directory: Path) -> dict[str, Path]:
    """What of a definition's directory a build sees, by its path in it, sorted."""
    found = {}
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if path.is_file() and not any(_IGNORED.fullmatch(part) for part in parts):
            found["/".join(parts)] = path
    return found


def mode_of(path: Path) -> int:
    """A file's mode in a build: scripts can be started, whatever an installer did to their bits."""
    with path.open("rb") as file:
        return 0o755 if file.read(2) == b"#!" else 0o644


def build_key(definition: ImageDefinition, known: Mapping[str, ImageDefinition]) -> str:
    """Names a build: another one when its directory, a parent's, or our layout changes.

    Raises:
        ImageDefinitionError: a parent is not defined, or an image stands on itself.
    """
    return _key(definition, known, ())


def _key(definition: ImageDefinition, known: Mapping[str, ImageDefinition], below: tuple[str, ...]) -> str:
    if definition.name in below:
        raise ImageDefinitionError(f"{definition.directory}: the image stands on itself")
    text = dockerfile_of(definition)
    hook = Path(__file__).with_name("image_hook.py").read_bytes()
    parts = [str(LAYOUT).encode(), text.encode(), hook]
    for name, path in files_of(definition.directory).items():
        mode = b"x" if mode_of(path) & 0o100 else b"-"
        parts += [name.encode(), mode, path.read_bytes()]
    for parent in parents(text):
        if parent in known:
            parts.append(_key(known[parent], known, (*below, definition.name)).encode())
        elif parent != BOOTSTRAP:
            raise ImageDefinitionError(f"{definition.directory}: there is no image {parent!r} to stand on")
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]


def reference_of(name: str, key: str) -> str:
    """The exact name of a build."""
    return f"{REPOSITORY}/{name}:{key}"


def find_image(
    client: APIClient, definition: ImageDefinition, known: Mapping[str, ImageDefinition]
) -> DockerImage:
    """The build of `definition` as it is now, or the image that it names. Blocks.

    Raises:
        ImageNotFound: the engine does not have it; the detail names the command that builds it.
        WrongImage: it is there, and not of our making or for Python 3.10 and older.
        docker.errors.DockerException: the engine does not answer.
    """
    from docker.errors import ImageNotFound as NotThere

    reference = definition.docker or reference_of(definition.name, build_key(definition, known))
    try:
        attributes = client.inspect_image(reference)
    except NotThere:
        how = f"docker pull {reference}" if definition.docker else ""
        how = how or f"codecell-executor images build {definition.name} --backend docker"
        raise ImageNotFound(f"the image {definition.name!r} is not built; build it: {how}") from None
    return described(definition, reference, attributes)


def described(definition: ImageDefinition, reference: str, attributes: Mapping[str, Any]) -> DockerImage:
    """What an engine says of an image, and its definition, in one. Raises WrongImage."""
    labels = (attributes.get("Config") or {}).get("Labels") or {}
    try:
        version = str(json.loads(labels[LABEL_META])["python_version"])
    except (KeyError, ValueError, TypeError):
        raise WrongImage(
            f"the image {reference} has no {LABEL_META} label: build it FROM one of Codecell's images"
        ) from None
    return DockerImage(
        name=definition.name,
        reference=reference,
        id=str(attributes["Id"]),
        python_version=version,
        description=definition.description,
        languages=definition.docker_languages,
        kernels=definition.kernels,
        preload=definition.preload,
        limits=definition.limits,
    )


def stale_tags(tags: Iterable[str], known: Mapping[str, ImageDefinition]) -> list[str]:
    """Of an engine's tags those of builds that no definition asks for any longer, sorted.

    Definitions that are not known here are left alone: another service may have them.
    """
    current = {name: build_key(each, known) for name, each in known.items() if not each.docker}
    found = []
    for tag in tags:
        name, _, key = tag.removeprefix(f"{REPOSITORY}/").rpartition(":")
        if tag.startswith(f"{REPOSITORY}/") and name in current and key not in {current[name], "latest"}:
            found.append(tag)
    return sorted(found)
