"""`codecell run`: a program or a session's code from the command line, streamed, files in and out."""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import fnmatch
import functools
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from agent_client.blocking import run_sync
from agent_client.client import ExecutorClient, Session
from agent_client.client.sync_client import BlockingStream
from agent_client.executors.mirror import Mirror, Refused, once
from agent_client.output_text import Cleaner
from agent_client.wire.events import Display, Error, InputRequest, Result, Stderr, Stdout
from agent_client.wire.results import ExecutionResult, RunResult

EXTENSIONS = {
    ".py": "python", ".sh": "bash", ".bash": "bash", ".js": "javascript", ".mjs": "javascript", ".c": "c",
    ".cpp": "cpp", ".cc": "cpp", ".cxx": "cpp", ".java": "java", ".go": "go", ".rs": "rust", ".rb": "ruby",
    ".pl": "perl", ".lua": "lua", ".php": "php", ".r": "r",
}  # fmt: skip
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """`512M` in bytes.

    Raises:
        argparse.ArgumentTypeError: it is no size.
    """
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in ("K", "M", "G") else ""
    try:
        return int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M") from None


def run_code(client: ExecutorClient, arguments: argparse.Namespace) -> int:
    """Run as the command line says; the program's exit status."""
    if arguments.session and (arguments.args or arguments.memory):
        what = "--memory" if arguments.memory else "arguments after --"
        _say(f"{what}: for runs alone, not with --session (a session has its own)")
        return 2
    from_stdin = arguments.file == "-"
    try:
        code = (stdin_of(sys.stdin) if from_stdin else Path(arguments.file).read_bytes()).decode()
        files = dict(_file(spec) for spec in arguments.files)
    except OSError as error:
        _say(str(error))
        return 2
    except UnicodeDecodeError as error:
        name = "standard input" if from_stdin else repr(arguments.file)
        _say(f"{name} is no program in UTF-8: {error}")
        return 2
    language = arguments.language or EXTENSIONS.get(Path(arguments.file).suffix.lower(), "python")
    if arguments.session:
        return _in_session(client.get_session(arguments.session), code, language, files, arguments)
    limits = {"wall_time": arguments.timeout, "memory_bytes": arguments.memory}
    stdin = b"" if from_stdin or arguments.no_stdin else stdin_of(sys.stdin)
    stream = client.stream_run(
        code,
        language=language,
        stdin=stdin,
        args=arguments.args,
        files=files,
        collect=arguments.collect,
        limits={k: v for k, v in limits.items() if v is not None},
    )
    result = _show(stream, quiet=arguments.json)
    for omitted in result.files_omitted:
        _say(f"{omitted.path} was left in the sandbox: {omitted.reason}")
    _save(((file.path, file.content) for file in result.files), arguments)
    return _end(result, arguments)


def _in_session(
    session: Session, code: str, language: str, files: dict[str, bytes], arguments: argparse.Namespace
) -> int:
    for name, content in files.items():
        session.files.write(name, content)
    limits = {"wall_time": arguments.timeout} if arguments.timeout else {}
    chosen = None if language == session.info.language else language
    with_input = arguments.file != "-" and not arguments.no_stdin and _is_given(sys.stdin)
    stream = session.stream(code, language=chosen, limits=limits, allow_input=with_input)

    def answer(_: InputRequest) -> None:
        line = sys.stdin.buffer.readline()
        if line:
            session.answer(stream.id, line.decode("utf-8", "replace").rstrip("\r\n"))
        else:
            _say("the code asks for more input than there is; it is interrupted")
            session.interrupt()

    result = _show(stream, quiet=arguments.json, answer=answer)
    if arguments.collect:
        found = [e.path for e in session.files.list(recursive=True) if e.type == "file"]
        wanted = [p for p in found if any(fnmatch.fnmatchcase(p, glob) for glob in arguments.collect)]
        _save(((path, session.files.read(path)) for path in wanted), arguments)
    return _end(result, arguments)


def stdin_of(stream: TextIO) -> bytes:
    """What is piped or redirected in; nothing from a terminal or a device."""
    return stream.buffer.read() if _is_given(stream) else b""


def _is_given(stream: TextIO) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _file(spec: str) -> tuple[str, bytes]:
    path, _, name = spec.partition("=")
    if name and not Path(path).exists() and Path(spec).exists():
        path, name = spec, ""  # a name with = in it
    return name or Path(path).name, Path(path).read_bytes()


def _show(
    stream: BlockingStream[Any], *, quiet: bool, answer: Callable[[InputRequest], None] | None = None
) -> Any:
    """Print the output as it comes; the result."""
    out, err = _Printer(sys.stdout), _Printer(sys.stderr)
    with contextlib.closing(stream):
        for event in stream:
            if isinstance(event, InputRequest) and answer is not None:
                if not quiet:
                    out.write(event.prompt)
                answer(event)
            if quiet:
                continue
            match event:
                case Stdout():
                    out.write(event.text)
                case Stderr():
                    err.write(event.text)
                case Display() | Result():
                    text = event.data.get("text/plain")
                    out.line(text if isinstance(text, str) else f"<{', '.join(event.data)}>")
                case Error():
                    err.line("\n".join(event.traceback) or f"{event.name}: {event.value}")
    return stream.result


class _Printer:
    """Prints untrusted text: on a terminal without control sequences, into a file as it is."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._cleaner = Cleaner() if out.isatty() else None

    def write(self, text: str) -> None:
        encoding = self._out.encoding or "utf-8"
        shown = self._cleaner.feed(text) if self._cleaner else text
        self._out.write(shown.encode(encoding, "replace").decode(encoding))
        self._out.flush()

    def line(self, text: str) -> None:
        self.write(text.rstrip("\n") + "\n")


def _save(files: Iterable[tuple[str, bytes]], arguments: argparse.Namespace) -> None:
    if not arguments.collect or arguments.json:
        return
    mirror = Mirror(arguments.out)
    mirror.open()
    for path, content in files:
        try:
            saved = run_sync(functools.partial(mirror.save, path, len(content), once(content)))
            _say(f"saved {saved}")
        except Refused as why:
            _say(f"{path!r} was not saved: {why}")


def _end(result: RunResult | ExecutionResult, arguments: argparse.Namespace) -> int:
    if arguments.json:
        sys.stdout.write(_json(result) + "\n")
    elif result.outcome not in ("ok", "error"):
        _say(f"{result.outcome}: {result.detail}" if result.detail else str(result.outcome))
    elif isinstance(result, ExecutionResult) and result.state_lost:
        _say("the kernel was restarted: the session's variables are lost")
    return result.exit_status


def _json(result: RunResult | ExecutionResult) -> str:
    body = dataclasses.asdict(result)
    if isinstance(result, RunResult):
        body["files"] = [_file_json(file.path, file.content) for file in result.files]
    return json.dumps(body)


def _file_json(path: str, content: bytes) -> dict[str, Any]:
    try:
        text, encoding = content.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(content).decode(), "base64"
    return {"path": path, "size": len(content), "content": text, "encoding": encoding}


def _say(text: str) -> None:
    sys.stderr.write(f"codecell: {text}\n")
