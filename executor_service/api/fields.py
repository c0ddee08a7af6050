"""Kinds of request fields: each is bounded, strict about its type, and free of NUL where it must be."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from executor_service.errors import FieldError, InvalidRequest

NO_NUL = r"^[^\x00]*$"
ENV_NAME = r"^[^=\x00]+$"

CODE_CHARS = 16 * 1024 * 1024
ARG_CHARS = 128 * 1024 - 1  # Linux refuses a longer single argument or variable (MAX_ARG_STRLEN)
LARGEST = 1 << 62  # no limit is higher; larger integers are treated as this one

Encoding = Literal["utf-8", "base64"]
Code = Annotated[str, StringConstraints(max_length=CODE_CHARS, pattern=NO_NUL)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL)]
Path = Annotated[str, StringConstraints(max_length=4096)]  # what it must be is checked with its meaning
Arg = Annotated[str, StringConstraints(max_length=ARG_CHARS, pattern=NO_NUL)]
EnvName = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=ENV_NAME)]
Env = Annotated[dict[EnvName, Arg], Field(max_length=256)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=NO_NUL)]
Content = Annotated[str, StringConstraints(max_length=64 * 1024 * 1024)]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=1024, pattern=NO_NUL)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=64)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ttl = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
HostRule = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_NUL)]


class Body(BaseModel):
    """A request body: unknown fields are refused, a string is no number, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NetworkRules(Body):
    """The hosts that may be reached, as `host`, `*.host` or `host:port`."""

    allow: Annotated[list[HostRule], Field(max_length=256)]


class OperationLimits(Body):
    """Limits of one execution or command."""

    wall_time: Seconds | None = None
    cpu_time: Seconds | None = None
    output_bytes: Count | None = None
    open_files: Count | None = None


class SandboxLimits(Body):
    """Limits of a session's sandbox."""

    memory_bytes: Count | None = None
    processes: Count | None = None
    cpus: Seconds | None = None
    disk_bytes: Count | None = None


class RunLimits(Body):
    """Limits of a run: an operation's, a sandbox's and the compile stage's."""

    wall_time: Seconds | None = None
    cpu_time: Seconds | None = None
    compile_time: Seconds | None = None
    output_bytes: Count | None = None
    open_files: Count | None = None
    memory_bytes: Count | None = None
    processes: Count | None = None
    cpus: Seconds | None = None
    disk_bytes: Count | None = None


def asked(limits: OperationLimits | SandboxLimits | RunLimits) -> dict[str, float | None]:
    """The limits that the caller named, by name."""
    values = {name: getattr(limits, name) for name in limits.model_fields_set}
    return {name: _tame(value) for name, value in values.items() if value is not None}


def network(value: bool | NetworkRules) -> bool | dict[str, tuple[str, ...]]:
    """False, True, or the rules, as the sessions room takes them."""
    return value if isinstance(value, bool) else {"allow": tuple(value.allow)}


def decode(text: str, encoding: Encoding, *, loc: str) -> bytes:
    """The bytes of a field that may be base64.

    Raises:
        InvalidRequest: `text` is no base64 although it says so.
    """
    if encoding == "utf-8":
        return text.encode("utf-8")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{loc} is not valid base64"
        raise InvalidRequest(message, errors=(FieldError(loc=loc, message=message),)) from error


def exactly_one(first: str, second: str, *, given: tuple[bool, bool]) -> None:
    """Check that exactly one of two fields is there.

    Raises:
        InvalidRequest: both are, or neither.
    """
    if given[0] != given[1]:
        return
    message = f"give exactly one of {first} and {second}"
    raise InvalidRequest(message, errors=(FieldError(loc=first, message=message),))


def _tame(value: float) -> float:
    return min(value, LARGEST)


BodyT = TypeVar("BodyT", bound=Body)
Examples = dict[str, Any]


def with_example(example: Examples) -> ConfigDict:
    """The model configuration that shows `example` in the OpenAPI document."""
    return ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": [example]})
