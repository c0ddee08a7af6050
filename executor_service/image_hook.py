"""Runs at the start of every interpreter of an image: lets `pip install` work in a read-only environment.

Built images hold a copy of this file, named `_codecell_site`, which a `.pth` file imports; the service
itself never imports it. It does three things, and only inside a sandbox:

- `/workspace/.local` gets a site directory behind the image's own packages, even before it exists, so
  that a running kernel sees what was installed a moment ago.
- A process that is pip takes `/workspace/.local` for its prefix. So it installs there, scripts included;
  it replaces and uninstalls what lies there, and leaves the image's packages alone.
- pip's `--user`, which environments refuse, is dropped: it asks for what happens anyway.

Where the environment can be written, an image is being built: there pip works on the environment itself.
"""

from __future__ import annotations

import importlib.machinery as _machinery
import os
import re
import sys

ENV = "/opt/codecell/env"
PREFIX = "/workspace/.local"
SITE = f"{PREFIX}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def runs_pip(command: list[str]) -> bool:
    """Whether an interpreter's command line (`sys.orig_argv`) starts pip, as a script or by `-m`."""
    words = iter(command[1:])
    for word in words:
        if word in {"-X", "-W", "--check-hash-based-pycs"}:
            next(words, None)
        elif word.startswith("-m") or (re.fullmatch("-[A-Za-z]+m", word) and "c" not in word):
            return (word.partition("m")[2] or next(words, "")) == "pip"
        elif word.startswith("-c") or word == "-":
            return False
        elif not word.startswith("-"):
            return bool(re.fullmatch(r"pip[\d.]*", os.path.basename(word)))
    return False


def _add_site() -> None:
    if os.path.isdir(SITE):
        import site

        site.addsitedir(SITE)  # its .pth files too
    if SITE not in sys.path:
        sys.path.append(SITE)
    # The import system remembers for ever that a directory was not there; a finder of its own looks again.
    sys.path_importer_cache[SITE] = _machinery.FileFinder(
        SITE,
        (_machinery.ExtensionFileLoader, _machinery.EXTENSION_SUFFIXES),
        (_machinery.SourceFileLoader, _machinery.SOURCE_SUFFIXES),
        (_machinery.SourcelessFileLoader, _machinery.BYTECODE_SUFFIXES),
    )


def _become_prefix() -> None:
    sys.prefix = sys.exec_prefix = PREFIX
    sys.argv[1:] = [word for word in sys.argv[1:] if word != "--user"]
    try:  # pip warns when the environment it is told of has no such file
        os.makedirs(PREFIX, exist_ok=True)
        with open(f"{PREFIX}/pyvenv.cfg", "x", encoding="utf-8") as file:
            file.write("include-system-site-packages = false\n")
    except OSError:
        pass


if sys.prefix == ENV:
    _add_site()
    if runs_pip(sys.orig_argv) and not os.access(ENV, os.W_OK):
        _become_prefix()
