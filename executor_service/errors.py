"""Errors that a caller of the service can meet, each with its HTTP status and stable code.

Blame is a type: the program's failure is never an exception here (it is data, see
:mod:`executor_service.result`); a :class:`CallerError` is the caller's fault (4xx), a
:class:`ServiceFault` is ours (5xx).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """One thing that is wrong with a request: where (`loc`, a dotted path) and what."""

    loc: str
    message: str


class CodecellError(Exception):
    """Base of every error that is answered as problem+json."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after


class CallerError(CodecellError):
    """The request cannot be served as it is; sending it again unchanged will not help."""


class ServiceFault(CodecellError):
    """The service could not do what it promises."""


class Unauthorized(CallerError):
    code, status, title = "unauthorized", 401, "Missing or unknown key"


class Forbidden(CallerError):
    code, status, title = "forbidden", 403, "Not allowed"


class NotFound(CallerError):
    code, status, title = "not_found", 404, "Not found"


class SessionNotFound(CallerError):
    code, status, title = "session_not_found", 404, "No such session"


class ExecutionNotFound(CallerError):
    code, status, title = "execution_not_found", 404, "No such execution"


class CommandNotFound(CallerError):
    code, status, title = "command_not_found", 404, "No such command"


class RunNotFound(CallerError):
    code, status, title = "run_not_found", 404, "No such run"


class LanguageNotFound(CallerError):
    code, status, title = "language_not_found", 404, "No such language"


class ImageNotFound(CallerError):
    code, status, title = "image_not_found", 404, "No such image"


class FileMissing(CallerError):
    code, status, title = "file_not_found", 404, "No such file"


class MethodNotAllowed(CallerError):
    code, status, title = "method_not_allowed", 405, "Method not allowed"


class SessionBusy(CallerError):
    code, status, title = "session_busy", 409, "The session is busy"


class NotWaitingForInput(CallerError):
    code, status, title = "not_waiting_for_input", 409, "Nothing waits for input"


class SessionClosed(CallerError):
    code, status, title = "session_closed", 410, "The session is closed"


class PayloadTooLarge(CallerError):
    code, status, title = "payload_too_large", 413, "Payload too large"


class UnsupportedMediaType(CallerError):
    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class RangeNotSatisfiable(CallerError):
    code, status, title = "range_not_satisfiable", 416, "Range not satisfiable"


class InvalidRequest(CallerError):
    code, status, title = "invalid_request", 422, "Invalid request"


class LimitTooHigh(CallerError):
    code, status, title = "limit_too_high", 422, "Limit too high"


class InvalidPath(CallerError):
    code, status, title = "invalid_path", 422, "Invalid path"


class IsADirectory(CallerError):
    code, status, title = "is_a_directory", 422, "Is a directory"


class NetworkNotAllowed(CallerError):
    code, status, title = "network_not_allowed", 422, "Network not allowed"


class QuotaExceeded(CallerError):
    code, status, title = "quota_exceeded", 429, "Quota exceeded"


class Internal(ServiceFault):
    code, status, title = "internal", 500, "Internal error"


class NotImplementedHere(ServiceFault):
    code, status, title = "not_implemented", 501, "Not implemented"


class SandboxFailed(ServiceFault):
    code, status, title = "sandbox_failed", 502, "The sandbox failed"


class Capacity(ServiceFault):
    code, status, title = "capacity", 503, "No capacity"


class BackendUnavailable(ServiceFault):
    code, status, title = "backend_unavailable", 503, "The backend is unavailable"


class DiskFull(ServiceFault):
    code, status, title = "disk_full", 507, "The disk is full"
