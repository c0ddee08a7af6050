"""The command line `codecell`: run code, chat, the demo, sessions, languages."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from agent_client.cli_run import run_code, size
from agent_client.errors import CodecellError

OUR_FAULT = 125  # not the program's: no service, no key, refused


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status (of `run`: the program's)."""
    given = list(sys.argv[1:] if argv is None else argv)
    own = given[: given.index("--")] if "--" in given else given
    arguments = parser().parse_args(own)
    arguments.args = given[len(own) + 1 :]
    command: Callable[[argparse.Namespace], int] = arguments.command
    _end_on_signals()
    try:
        status = command(arguments)
        sys.stdout.flush()
        return status
    except CodecellError as error:
        return _fail(str(error), OUR_FAULT)
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # the shell's prompt on a line of its own
        return 130
    except BrokenPipeError:
        _print_no_more()
        return 141
    except OSError as error:
        _print_no_more()
        with contextlib.suppress(OSError):
            _fail(f"cannot write: {error}", OUR_FAULT)
        return OUR_FAULT


def _end_on_signals() -> None:
    """Let the signals that end a process end it in order: what was started is stopped, files removed."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # not where nohup has it ignored
                signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _print_no_more() -> None:
    """Standard output takes nothing: what is left of ours goes nowhere, without another error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(text: str, status: int) -> int:
    from agent_client.output_text import clean, visible

    sys.stderr.write(f"codecell: {visible(clean(text, colours=False))}\n")  # it may quote a file or a service
    return status


def parser() -> argparse.ArgumentParser:
    """The command's grammar."""
    top = argparse.ArgumentParser(
        prog="codecell", description="Run untrusted code in sandboxes, by hand or by agents."
    )
    top.add_argument("--version", action="version", version=f"codecell {_version()}")
    service = argparse.ArgumentParser(add_help=False)
    service.add_argument(
        "--url", help="the service (default: CODECELL_URL, else one on port 8700, else one is started)"
    )
    service.add_argument("--key", help="its API key (default: CODECELL_API_KEY)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        parents=[service],
        help="run a program, streaming its output",
        epilog="What follows -- are arguments for the program.",
    )
    run.add_argument("file", help="the program, or - for standard input")
    run.add_argument("--language", "-l", help="default: by the file's extension, else python")
    run.add_argument("--session", metavar="ID", help="execute in this session instead of a fresh sandbox")
    run.add_argument(
        "--file", action="append", default=[], dest="files", metavar="PATH[=NAME]", help="put a file in"
    )
    run.add_argument("--collect", action="append", default=[], metavar="GLOB", help="bring files out")
    run.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to (default: here)")
    run.add_argument("--json", action="store_true", help="print the result as JSON instead")
    run.add_argument("--timeout", type=float, metavar="SECONDS")
    run.add_argument("--memory", type=size, metavar="SIZE", help="such as 512M")
    run.add_argument("--no-stdin", action="store_true", help="do not pass standard input on")
    run.set_defaults(command=_run)

    chat = commands.add_parser(
        "chat", parents=[service], help="give a task to an assistant that writes and runs code"
    )
    chat.add_argument("task", nargs="?", help="the task, or - for standard input")
    chat.add_argument("--model", help="default: OPENAI_MODEL, else gpt-4.1-mini")
    chat.add_argument("--agents", type=Path, metavar="FILE.toml", help="a team of your own (docs/agents.md)")
    chat.add_argument("--work-dir", type=Path, metavar="DIR", help="its files go in, new ones come out")
    chat.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for each block of code")
    chat.add_argument("--max-turns", type=int, metavar="N", help="so many messages of the agents at most")
    chat.add_argument("--budget", metavar="AMOUNT", help="0.5 (money), 20000t (tokens) or 50r (model calls)")
    chat.add_argument("--human", "--ask", action="store_true", help="ask you whenever it is your turn")
    chat.add_argument("--save", type=Path, metavar="FILE", help="keep the conversation and its session")
    chat.add_argument("--resume", type=Path, metavar="FILE", help="go on with what --save kept")
    chat.add_argument("--answer", metavar="TEXT", help="with --resume: answer the question that waits")
    chat.add_argument("--transcript", type=Path, metavar="FILE", help="record it: out.jsonl or out.html")
    chat.set_defaults(command=_chat)

    demo = commands.add_parser("demo", help="see an assistant plot real data: no key and no service needed")
    demo.add_argument(
        "--out", type=Path, default=Path("demo-output"), metavar="DIR", help="default: %(default)s"
    )
    demo.set_defaults(command=_demo)

    sessions = commands.add_parser("sessions", parents=[service], help="list or close sessions")
    sessions.add_argument("action", nargs="?", choices=["list", "close"], default="list")
    sessions.add_argument("ids", nargs="*", metavar="ID")
    sessions.add_argument("--all", action="store_true", help="close all of this key's")
    sessions.set_defaults(command=_sessions)

    languages = commands.add_parser("languages", parents=[service], help="what runs there")
    languages.set_defaults(command=_languages)
    version = commands.add_parser("version", help="this client's version")
    version.set_defaults(command=lambda _: _print(f"codecell {_version()}"))
    return top


def _run(arguments: argparse.Namespace) -> int:
    from agent_client.client import ExecutorClient

    with ExecutorClient(arguments.url, arguments.key) as client:
        return run_code(client, arguments)


def _chat(arguments: argparse.Namespace) -> int:
    if arguments.max_turns is not None and arguments.max_turns < 1:
        return _fail("--max-turns is a number of messages above zero", 2)
    if arguments.work_dir is not None:
        try:
            arguments.work_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return _fail(f"--work-dir is no directory that can be used: {error}", 2)
    if not (arguments.agents or os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        return _fail(
            "no model. Set OPENAI_API_KEY (OPENAI_BASE_URL for another endpoint than OpenAI's,"
            " --model for its model). `codecell demo` needs no key.",
            2,
        )
    from agent_client.cli_chat import WrongUse, run_chat

    try:
        return run_chat(arguments)
    except WrongUse as error:
        return _fail(str(error), 2)


def _demo(arguments: argparse.Namespace) -> int:
    from agent_client.demo import run_demo

    return run_demo(arguments.out)


def _sessions(arguments: argparse.Namespace) -> int:
    from agent_client.client import ExecutorClient

    with ExecutorClient(arguments.url, arguments.key, autostart=False) as client:
        if arguments.action == "list":
            listed = list(client.iter_sessions())
            for info in listed:
                _print(f"{info.id}  {info.state:6}  {info.language:10}  expires {info.expires_at}")
            if not listed:
                sys.stderr.write("no sessions\n")
            return 0
        ids = [info.id for info in client.iter_sessions()] if arguments.all else arguments.ids
        if not ids and not arguments.all:
            sys.stderr.write("codecell sessions close: name a session, or --all\n")
            return 2
        for one in ids:
            client.close_session(one)
            _print(f"closed {one}")
    return 0


def _languages(arguments: argparse.Namespace) -> int:
    from agent_client.client import ExecutorClient

    with ExecutorClient(arguments.url, arguments.key) as client:
        for language in client.languages():
            state = "keeps state in sessions" if language.stateful else ""
            _print(f"{language.name:12} {language.version or '':20} {state}".rstrip())
    return 0


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("codecell")
    except PackageNotFoundError:
        return "(not installed)"


def _print(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0
