"""The request bodies of docs/api.md, and how each becomes a frozen request value."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from executor_service.api import fields as f
from executor_service.errors import FieldError, InvalidRequest
from executor_service.sessions.requests import (
    CommandRequest,
    ExecutionRequest,
    FileIn,
    RunRequest,
    SessionRequest,
)


class FileBody(f.Body):
    """A file to put into the workspace before the program starts."""

    path: f.Path
    content: f.Content = ""
    encoding: f.Encoding = "utf-8"


class RunBody(f.Body):
    """One program, a fresh sandbox, then gone."""

    model_config = f.with_example(
        {"language": "python", "code": "print(input())", "stdin": "hi", "limits": {"wall_time": 10}}
    )

    language: f.Name
    code: f.Code | None = None
    entrypoint: f.Path | None = None
    stdin: f.Content = ""
    stdin_encoding: f.Encoding = "utf-8"
    args: Annotated[list[f.Arg], Field(max_length=1024)] = Field(default_factory=list)
    env: f.Env = Field(default_factory=dict)
    files: Annotated[list[FileBody], Field(max_length=1000)] = Field(default_factory=list)
    collect: Annotated[list[f.Glob], Field(max_length=100)] = Field(default_factory=list)
    image: f.Name | None = None
    limits: f.RunLimits = f.RunLimits()
    network: bool | f.NetworkRules = False
    detach: bool = False

    def to_request(self) -> RunRequest:
        """Raises InvalidRequest: bad base64, or not exactly one of `code` and `entrypoint`."""
        f.exactly_one("code", "entrypoint", given=(self.code is not None, self.entrypoint is not None))
        files = tuple(
            FileIn(path=each.path, content=f.decode(each.content, each.encoding, loc=f"files.{n}.content"))
            for n, each in enumerate(self.files)
        )
        return RunRequest(
            language=self.language,
            code=self.code,
            entrypoint=self.entrypoint,
            stdin=f.decode(self.stdin, self.stdin_encoding, loc="stdin"),
            args=tuple(self.args),
            env=self.env,
            files=files,
            collect=tuple(self.collect),
            image=self.image,
            limits=f.asked(self.limits),
            network=f.network(self.network),
            detach=self.detach,
        )


class SessionBody(f.Body):
    """A stateful claim on one sandbox."""

    model_config = f.with_example({"language": "python", "ttl": 3600, "metadata": {"chat": "42"}})

    language: f.Name = "python"
    image: f.Name | None = None
    limits: f.SandboxLimits = f.SandboxLimits()
    network: bool | f.NetworkRules = False
    env: f.Env = Field(default_factory=dict)
    ttl: f.Ttl | None = None
    idle_ttl: f.Ttl | None = None
    metadata: f.Metadata = Field(default_factory=dict)

    def to_request(self) -> SessionRequest:
        """The same, as the sessions room takes it."""
        return SessionRequest(
            language=self.language,
            image=self.image,
            limits=f.asked(self.limits),
            network=f.network(self.network),
            env=self.env,
            ttl=self.ttl,
            idle_ttl=self.idle_ttl,
            metadata=self.metadata,
        )


class RenewBody(f.Body):
    """How long the session shall live from now."""

    model_config = f.with_example({"ttl": 3600})

    ttl: f.Ttl = 3600.0


class ExecutionBody(f.Body):
    """One piece of code for the session's kernel."""

    model_config = f.with_example({"code": "x = 6 * 7\nx"})

    code: f.Code
    language: f.Name | None = None
    limits: f.OperationLimits = f.OperationLimits()
    allow_input: bool = False
    detach: bool = False

    def to_request(self) -> ExecutionRequest:
        """The same, as the sessions room takes it."""
        return ExecutionRequest(
            code=self.code,
            language=self.language,
            limits=f.asked(self.limits),
            allow_input=self.allow_input,
            detach=self.detach,
        )


class CommandBody(f.Body):
    """One process in the session's sandbox; exactly one of `command` and `argv`."""

    model_config = f.with_example({"command": "ls | wc -l"})

    command: f.Code | None = None
    argv: Annotated[list[f.Arg], Field(min_length=1, max_length=1024)] | None = None
    cwd: f.Path | None = None
    env: f.Env = Field(default_factory=dict)
    stdin: f.Content | None = None
    stdin_encoding: f.Encoding = "utf-8"
    limits: f.OperationLimits = f.OperationLimits()
    detach: bool = False

    def to_request(self) -> CommandRequest:
        """Raises InvalidRequest: bad base64, an empty program name, or not exactly one of both."""
        f.exactly_one("command", "argv", given=(self.command is not None, self.argv is not None))
        if self.argv is not None and not self.argv[0]:
            message = "argv.0 must name a program"
            raise InvalidRequest(message, errors=(FieldError(loc="argv.0", message=message),))
        stdin = None if self.stdin is None else f.decode(self.stdin, self.stdin_encoding, loc="stdin")
        return CommandRequest(
            command=self.command,
            argv=None if self.argv is None else tuple(self.argv),
            cwd=self.cwd,
            env=self.env,
            stdin=stdin,
            limits=f.asked(self.limits),
            detach=self.detach,
        )


class InputBody(f.Body):
    """The answer to an `input_request`."""

    model_config = f.with_example({"text": "yes"})

    text: f.Content


class CommandInputBody(f.Body):
    """Bytes for a command's standard input; `close` ends it."""

    model_config = f.with_example({"text": "yes\n", "close": False})

    text: f.Content | None = None
    base64: f.Content | None = None
    close: bool = False

    def to_bytes(self) -> bytes:
        """Raises InvalidRequest: bad base64, both fields, or neither although it does not close."""
        if self.text is None and self.base64 is None and self.close:
            return b""
        f.exactly_one("text", "base64", given=(self.text is not None, self.base64 is not None))
        if self.text is not None:
            return self.text.encode("utf-8")
        return f.decode(self.base64 or "", "base64", loc="base64")


class SignalBody(f.Body):
    """A signal for a command's process group, by name."""

    model_config = f.with_example({"signal": "SIGTERM"})

    signal: Annotated[str, StringConstraints(pattern=r"^SIG[A-Z0-9+\-]{1,16}$")]


class FileOperationBody(f.Body):
    """`mkdir` makes a directory and its parents; `move` renames to the path `to`."""

    model_config = f.with_example({"op": "move", "to": "old/data.csv"})

    op: Literal["mkdir", "move"]
    to: f.Path | None = None
