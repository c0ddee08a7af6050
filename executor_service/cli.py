"""`codecell-executor`: serve, doctor, images, sweep, keys, version.

Errors are one line on stderr. Exit status: 0 done, 1 it did not work, 2 it was asked wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from executor_service import __version__, keys, logs, options, state_dir
from executor_service.errors import CodecellError
from executor_service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from executor_service.images import BuiltImage
    from executor_service.sandboxes.base import Backend

Command = Callable[[argparse.Namespace, Mapping[str, str]], int]


class Failure(Exception):
    """It did not work; the message is for people."""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; the exit status."""
    environ = os.environ if environ is None else environ
    try:
        found = parser(environ).parse_args(argv)
        command: Command = found.command
        return command(found, environ)
    except SettingsError as error:
        return _complain(error, 2)
    except (Failure, state_dir.StateDirError, keys.KeyFileError) as error:
        return _complain(error, 1)
    except CodecellError as error:
        return _complain(Failure(error.detail), 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _complain(error: Exception, status: int) -> int:
    print(f"codecell-executor: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(prog="codecell-executor", description="Runs untrusted code in sandboxes.")
    top.add_argument("--version", action="version", version=f"codecell-executor {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the service")
    options.add_serve(serve, environ)
    serve.set_defaults(command=_serve)

    doctor = commands.add_parser(
        "doctor", help="say what works here, what is enforced by what, and what to change"
    )
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.add_argument("--image", default="python", metavar="NAME")
    doctor.set_defaults(command=_doctor)

    images = commands.add_parser("images", help="build and list images").add_subparsers(required=True)
    build = images.add_parser("build", help="build an image, once")
    build.add_argument("name")
    build.set_defaults(command=_images_build)
    images.add_parser("list", help="what is defined and what is built").set_defaults(command=_images_list)

    sweep = commands.add_parser("sweep", help="remove what a service that died left behind")
    options.add_state_dir(sweep, environ)
    sweep.set_defaults(command=_sweep)

    key = commands.add_parser("keys", help="who may call").add_subparsers(required=True)
    for name, help_text, run in (
        ("add", "make a key and show it, this once", _keys_add),
        ("remove", "make a key count no more", _keys_remove),
        ("list", "names and ids", _keys_list),
    ):
        each = key.add_parser(name, help=help_text)
        options.add_state_dir(each, environ)
        if name != "list":
            each.add_argument("name", help="what you call the key" if name == "add" else "a name or an id")
        each.set_defaults(command=run)
    commands.add_parser("version", help="the version").set_defaults(command=_version)
    return top


def _serve(found: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from executor_service import server
    from executor_service.api.middleware import current_request
    from executor_service.app import create_app

    settings = options.to_settings(found, environ)
    ring = keys.KeyRing(settings.keys, settings.key_files)
    options.check_address(settings.host, ring)
    images = _built(settings.images)
    with contextlib.ExitStack() as stack:
        home = state_dir.prepare(settings.state_dir)
        stack.enter_context(state_dir.locked(home))
        try:
            listening = server.bind(settings.host, settings.port)
        except OSError as error:
            raise Failure(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
            ) from None
        stack.callback(listening.close)
        backend = _backend(settings, images, home)
        logs.configure(settings.log_level, {"request_id": current_request}, access=settings.access_log)
        return server.serve(
            lambda: create_app(settings, backend, images, keys=ring),
            listening,
            grace=settings.grace,
            until_stdin_closes=found.until_stdin_closes,
        )


def _backend(settings: Settings, images: Sequence[BuiltImage], home: Path) -> Backend:
    from executor_service.sandboxes.local import LocalBackend

    if settings.backend == "docker":
        raise SettingsError("--backend docker: not built in this version; use local")
    if sys.platform != "linux":
        raise SettingsError("--backend local: only Linux has what it needs")
    return LocalBackend(images, home, state_dir.instance_id(home))


def _built(names: Sequence[str]) -> list[BuiltImage]:
    from executor_service.images import ImageDefinitionError, definitions, find_built

    try:
        known = definitions()
    except ImageDefinitionError as error:
        raise Failure(str(error)) from None
    for name in names:
        if name not in known:
            raise SettingsError(f"there is no image {name!r}; there are {', '.join(known) or 'none'}")
    return [find_built(known[name]) for name in names]


def _doctor(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from executor_service import doctor

    report = doctor.examine(found.image)
    print(doctor.as_json(report) if found.json else doctor.as_text(report))
    return 0 if report.healthy else 1


def _images_build(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from executor_service.image_build import ImageBuildError, build
    from executor_service.images import ImageDefinitionError, definitions

    try:
        known = definitions()
        if found.name not in known:
            raise SettingsError(f"there is no image {found.name!r}; there are {', '.join(known) or 'none'}")
        image = build(known[found.name], progress=lambda line: print(line, file=sys.stderr, flush=True))
    except (ImageBuildError, ImageDefinitionError) as error:
        print(f"codecell-executor: {error}", file=sys.stderr)  # with pip's last lines
        return 1
    print(image.directory)
    return 0


def _images_list(_found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from executor_service.errors import ImageNotFound
    from executor_service.images import ImageDefinitionError, definitions, find_built

    try:
        known = definitions()
    except ImageDefinitionError as error:
        raise Failure(str(error)) from None
    for name, definition in known.items():
        try:
            print(f"{name}\t{find_built(definition).directory}")
        except ImageNotFound:
            print(f"{name}\tnot built")
    return 0


def _sweep(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    home = state_dir.prepare(found.state_dir)
    with state_dir.locked(home):
        backend = _backend(Settings(state_dir=home), (), home)

        async def sweep() -> int:
            async with backend:
                return int(await backend.sweep())

        print(f"removed {asyncio.run(sweep())}")
    return 0


def _keys_add(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    file = state_dir.prepare(found.state_dir) / options.KEYS_FILE
    keys.check_name(found.name, "keys add")
    known = keys.read(file, missing_ok=True)
    if any(each.name == found.name for each in known):
        raise Failure(f"there is a key named {found.name} already")
    made = keys.new_key()
    keys.write(file, [*known, keys.Key(digest=keys.digest_of(made), name=found.name)])
    print(made)
    return 0


def _keys_remove(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    file = found.state_dir / options.KEYS_FILE
    known = keys.read(file, missing_ok=True)
    left = [each for each in known if found.name not in {each.name, each.id}]
    if len(left) == len(known):
        raise Failure(f"there is no key {found.name}")
    keys.write(file, left)
    return 0


def _keys_list(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    for each in keys.read(found.state_dir / options.KEYS_FILE, missing_ok=True):
        print(f"{each.name or '-'}\t{each.id}")
    return 0


def _version(_found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    print(__version__)
    return 0
