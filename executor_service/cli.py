"""`codecell-executor`: serve, doctor, images, sweep, keys, version.

Errors are one line on stderr. Exit status: 0 done, 1 it did not work, 2 it was asked wrongly.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from executor_service import __version__, cli_images, cli_keys, cli_serve, keys, options, state_dir
from executor_service.complaints import Failure
from executor_service.errors import CodecellError
from executor_service.settings import SettingsError

Command = Callable[[argparse.Namespace, Mapping[str, str]], int]


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
    cli_serve.add_parsers(commands, environ)
    doctor = commands.add_parser(
        "doctor", help="say what works here, what is enforced by what, and what to change"
    )
    options.add_doctor(doctor, environ)
    doctor.set_defaults(command=_doctor)
    cli_images.add_parser(commands, environ)
    cli_keys.add_parser(commands, environ)
    commands.add_parser("version", help="the version").set_defaults(command=_version)
    return top


def _doctor(found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    from executor_service import doctor
    from executor_service.doctor_report import as_json, as_text

    asked = doctor.Asked(
        image=found.image,
        backend=options.backend_of(found),
        docker_host=found.docker_host,
        runtime=found.runtime,
        state_dir=found.state_dir,
    )
    report = doctor.examine(asked)
    print(as_json(report) if found.json else as_text(report))
    return 0 if report.healthy else 1


def _version(_found: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    print(__version__)
    return 0
