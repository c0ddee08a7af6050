"""Makes a freshly built environment fit the place where sandboxes see it.

In a sandbox it lies at `/opt/codecell/env`, and its base interpreter at `/opt/codecell/base` or where it
is, below /usr. So no path of the host stays inside: links, `pyvenv.cfg` and the scripts' first lines say
where things are there. Beside it, `host/` is a second environment around the same packages that starts
on the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from executor_service import image_elf
from executor_service.images import BASE_PATH, ENV_PATH, Interpreter

_HOOK = "_codecell_site"


def site_packages(env_dir: Path, interpreter: Interpreter) -> Path:
    """Where an environment's packages lie."""
    return env_dir / "lib" / interpreter.tag / "site-packages"


def finish(directory: Path, interpreter: Interpreter) -> None:
    """Make `directory`/env fit a sandbox, where it no longer starts on the host, and add `directory`/host.

    Raises:
        OSError: a file cannot be written.
        ValueError: the interpreter's shared library cannot be found from inside a sandbox.
    """
    env_dir = directory / "env"
    _add_hook(site_packages(env_dir, interpreter))
    _compile(env_dir, interpreter)
    _make_host(directory, interpreter)
    home = _seen_home(env_dir, interpreter)
    _link_python(env_dir / "bin", home / interpreter.tag, interpreter)
    _write_config(env_dir, home, interpreter)
    for name in ("Activate.ps1", "activate.csh", "activate.fish"):
        (env_dir / "bin" / name).unlink(missing_ok=True)
    for root in ("bin", "etc", "share"):
        _replace_below(env_dir / root, str(env_dir).encode(), ENV_PATH.encode())


def _add_hook(site: Path) -> None:
    shutil.copyfile(Path(__file__).with_name("image_hook.py"), site / f"{_HOOK}.py")
    (site / f"{_HOOK}.pth").write_text(f"import {_HOOK}\n", encoding="utf-8")


def _compile(env_dir: Path, interpreter: Interpreter) -> None:
    """Compile every module, in parallel, for the path where a sandbox sees it.

    The image never changes, so the compiled files are not checked against their sources at import. What
    does not compile (a template, a test of a syntax error) is left as it is.
    """
    argv = [str(interpreter.executable), "-I", "-m", "compileall", "-qq", "-j", "0"]
    argv += ["--invalidation-mode", "unchecked-hash", "-s", str(env_dir), "-p", ENV_PATH]
    subprocess.run(
        [*argv, str(site_packages(env_dir, interpreter))],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _seen_home(env_dir: Path, interpreter: Interpreter) -> Path:
    """The directory of the base interpreter as a sandbox sees it; a copy in the image where need be."""
    base = interpreter.base_prefix
    if base.is_relative_to("/usr"):
        return base / "bin"
    program = interpreter.executable.read_bytes()
    path = image_elf.run_path(program)
    if path is None or path.startswith("$ORIGIN"):
        return Path(BASE_PATH, "bin")
    # Linked with a libpython at an absolute path of the host: a copy that looks beside itself.
    copy = env_dir / "base" / "bin"
    copy.mkdir(parents=True)
    (copy / interpreter.tag).write_bytes(image_elf.with_run_path(program, "$ORIGIN"))
    (copy / interpreter.tag).chmod(0o755)
    for library in (base / "lib").glob("libpython*.so*"):
        (copy / library.name).symlink_to(Path(BASE_PATH, "lib", library.name))
    for name in ("include", "lib"):
        (copy.parent / name).symlink_to(Path(BASE_PATH, name))
    return Path(ENV_PATH, "base", "bin")


def _make_host(directory: Path, interpreter: Interpreter) -> None:
    host = directory / "host"
    (host / "bin").mkdir(parents=True)
    _link_python(host / "bin", interpreter.executable, interpreter)
    _write_config(host, interpreter.executable.parent, interpreter)
    (host / "lib").symlink_to("../env/lib")


def _link_python(directory: Path, executable: Path, interpreter: Interpreter) -> None:
    tag = interpreter.tag
    for name, target in ((tag, str(executable)), ("python3", tag), ("python", tag)):
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(target)


def _write_config(directory: Path, home: Path, interpreter: Interpreter) -> None:
    lines = (f"home = {home}", "include-system-site-packages = false", f"version = {interpreter.version}")
    (directory / "pyvenv.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _replace_below(root: Path, old: bytes, new: bytes) -> None:
    """In every text file below `root`; links are left alone."""
    for parent, _, names in os.walk(root):
        for name in names:
            path = Path(parent, name)
            if path.is_symlink():
                continue
            content = path.read_bytes()
            if old in content and b"\0" not in content:
                path.write_bytes(content.replace(old, new))
