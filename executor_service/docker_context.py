"""What a Docker build is sent: a definition's files, and what only its build stages may see.

The archive says nothing of when and by whom it was made, so that an engine's cache knows it again.
"""

from __future__ import annotations

import io
import os
import ssl
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from executor_service.docker_images import files_of, mode_of

EPOCH = 1767225600
"""The time of everything in a build, in seconds: 2026-01-01. `SOURCE_DATE_EPOCH` stands for it where set."""
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and its family
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)
_SECRETS = "/tmp/codecell"  # noqa: S108 - in a build stage, which nobody shares
_PARENT_VERSIONS = "/opt/codecell/env/share/codecell/constraints.txt"
_PIP_PASSED_ON = ("index-url", "extra-index-url", "trusted-host")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a build needs beside the definition: the certificate authorities, and where packages are."""

    ca_bundle: bytes
    pip: Mapping[str, str]


def host_context(ca_bundle: Path | None, pip_options: Mapping[str, str]) -> Context:
    """This host's: the given bundle, else its own, and pip's indexes as it has them configured.

    Raises:
        OSError: the bundle that was given cannot be read.
    """
    return Context(ca_bundle=_bundle(ca_bundle), pip=pip_passed_on(pip_options))


def _bundle(given: Path | None) -> bytes:
    """An empty file counts as none: a compose file must mount something."""
    if given is not None and (content := given.read_bytes()).strip():
        return content
    own = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES)
    for path in own:
        if path and os.path.isfile(path) and os.access(path, os.R_OK):
            return Path(path).read_bytes()
    import certifi

    return Path(certifi.where()).read_bytes()


def pip_passed_on(options: Mapping[str, str]) -> dict[str, str]:
    """Of pip's options those that say where packages come from, and mean something elsewhere too."""
    passed: dict[str, str] = {}
    for name in _PIP_PASSED_ON:
        words = options.get(name, "").split()
        if kept := [word for word in words if not word.startswith(("file:", "/", "."))]:
            passed[name] = " ".join(kept)
    return passed


def archive(directory: Path, dockerfile: str, context: Context) -> bytes:
    """The build's context as a tar archive: the definition's files, and `.codecell/` for build stages."""
    hook = Path(__file__).with_name("image_hook.py").read_bytes()
    files = {name: (path.read_bytes(), mode_of(path)) for name, path in files_of(directory).items()}
    files["Dockerfile"] = (dockerfile.encode(), 0o644)
    files[".codecell/ca.crt"] = (context.ca_bundle, 0o644)
    files[".codecell/pip.conf"] = (_pip_conf(context.pip).encode(), 0o644)
    files[".codecell/image_hook.py"] = (hook, 0o644)
    return tar(files)


def _pip_conf(options: Mapping[str, str]) -> str:
    fixed = {"cert": f"{_SECRETS}/ca.crt", "disable-pip-version-check": "true", "no-cache-dir": "true",
             "no-input": "true", "progress-bar": "off", "root-user-action": "ignore"}  # fmt: skip
    lines = [f"{name} = {value}" for name, value in {**fixed, **options}.items()]
    return "\n".join(
        ["[global]", *lines, "[install]", "no-compile = true", f"constraint = {_PARENT_VERSIONS}", ""]
    )


def tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """An archive of these files (content and mode), owned by root, with their directories, in order."""
    directories = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.GNU_FORMAT) as out:
        for name in sorted({*files, *directories}):
            entry = tarfile.TarInfo(name)
            entry.mtime = int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH)
            if name in directories:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                out.addfile(entry)
            else:
                content, entry.mode = files[name]
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))
    return held.getvalue()
