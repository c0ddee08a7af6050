"""`codecell-executor keys`: who may call. Kept hashed; each is shown when it is made, and never again."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from executor_service import keys, options, state_dir
from executor_service.complaints import Failure


def add_parser(commands: options.Commands, environ: Mapping[str, str]) -> None:
    """The command and its own commands."""
    key = commands.add_parser("keys", help="who may call").add_subparsers(required=True)
    for name, help_text, run in (
        ("add", "make a key and show it, this once", _add),
        ("remove", "make a key count no more", _remove),
        ("list", "names and ids", _list),
    ):
        each = key.add_parser(name, help=help_text)
        options.add_state_dir(each, environ)
        if name != "list":
            each.add_argument("name", help="what you call the key" if name == "add" else "a name or an id")
        each.set_defaults(command=run)


def _add(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    print(keys.add(state_dir.prepare(found.state_dir) / options.KEYS_FILE, found.name))
    return 0


def _remove(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    file = found.state_dir / options.KEYS_FILE
    known = keys.read(file, missing_ok=True)
    left = [each for each in known if found.name not in {each.name, each.id}]
    if len(left) == len(known):
        raise Failure(f"there is no key {found.name}")
    keys.write(file, left)
    return 0


def _list(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    for each in keys.read(found.state_dir / options.KEYS_FILE, missing_ok=True):
        print(f"{each.name or '-'}\t{each.id}")
    return 0
