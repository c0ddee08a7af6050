"""Every error that the client raises, each saying what to do about it.

Three families: the service cannot be reached or broke off (`ServiceUnreachable`, `StreamBroken`,
`UnexpectedAnswer`), the service refused or failed (`ApiError`, one subclass for each `code` of the
HTTP API), and the model's endpoint failed (`ModelError`). What a *program* did wrong is never an
exception: it is data, in the result's `outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class CodecellError(Exception):
    """Base of every error of this package."""


class ServiceUnreachable(CodecellError):
    """Nothing that speaks the API answers at the address: wrong URL, or the service is not running."""


class AutostartFailed(ServiceUnreachable):
    """No service was running and none could be started; the message says how to get one."""


class UnexpectedAnswer(ServiceUnreachable):
    """Something answered, but it is not a Codecell service (or a proxy stands in between)."""


class StreamBroken(CodecellError):
    """The connection ended before the answer did: what ran may or may not have finished.

    `last_event_id` is the number of the last event that arrived (0: none).
    """

    def __init__(self, message: str, *, last_event_id: int = 0) -> None:
        super().__init__(message)
        self.last_event_id = last_event_id


class MissingDependency(CodecellError):
    """An optional package is needed for this; the message names it."""


class ApiError(CodecellError):
    """The service answered with a problem. `code` is stable; `detail` is for people."""

    CODE: ClassVar[str] = ""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        request_id: str | None = None,
        errors: tuple[Mapping[str, Any], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{detail} [{code}]" if code else detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.request_id = request_id
        self.errors = errors
        self.retry_after = retry_after


class AuthenticationFailed(ApiError):
    """The key is missing or wrong."""

    CODE = "unauthorized"


class Forbidden(ApiError):
    CODE = "forbidden"


class NotFound(ApiError):
    CODE = "not_found"


class SessionNotFound(NotFound):
    CODE = "session_not_found"


class ExecutionNotFound(NotFound):
    CODE = "execution_not_found"


class CommandNotFound(NotFound):
    CODE = "command_not_found"


class RunNotFound(NotFound):
    CODE = "run_not_found"


class LanguageNotFound(NotFound):
    CODE = "language_not_found"


class ImageNotFound(NotFound):
    CODE = "image_not_found"


class FileMissing(NotFound):
    CODE = "file_not_found"


class SessionBusy(ApiError):
    CODE = "session_busy"


class NotWaitingForInput(ApiError):
    CODE = "not_waiting_for_input"


class SessionClosed(ApiError):
    CODE = "session_closed"


class PayloadTooLarge(ApiError):
    CODE = "payload_too_large"


class InvalidRequest(ApiError):
    CODE = "invalid_request"


class LimitTooHigh(InvalidRequest):
    CODE = "limit_too_high"


class InvalidPath(InvalidRequest):
    CODE = "invalid_path"


class IsADirectory(InvalidRequest):
    CODE = "is_a_directory"


class NetworkNotAllowed(InvalidRequest):
    CODE = "network_not_allowed"


class QuotaExceeded(ApiError):
    CODE = "quota_exceeded"


class ServiceFault(ApiError):
    """The service could not do what it promises: not the caller's fault."""

    CODE = "internal"


class SandboxFailed(ServiceFault):
    CODE = "sandbox_failed"


class Capacity(ServiceFault):
    CODE = "capacity"


class BackendUnavailable(ServiceFault):
    CODE = "backend_unavailable"


class DiskFull(ServiceFault):
    CODE = "disk_full"


class ModelError(CodecellError):
    """The model's endpoint failed or refused. `retry_after` is the wait in seconds that it asked for."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelUnreachable(ModelError):
    """The model's endpoint does not answer, or broke off."""


class ModelTimeout(ModelUnreachable):
    """The model's endpoint took too long, for an answer or for the next piece of one."""


class ModelRateLimited(ModelError):
    """The model's endpoint wants to be asked less often, or has no quota left."""


class ModelAuthenticationFailed(ModelError):
    """The model's endpoint wants another key."""


class ModelRequestRefused(ModelError):
    """The request itself is wrong: another endpoint would refuse it too."""


def api_error(
    status: int,
    problem: Mapping[str, Any],
    *,
    url: str,
    request_id: str | None = None,
    retry_after: float | None = None,
    key_sent: bool = True,
) -> ApiError:
    """The typed error for a problem+json answer; an unknown code gives its family's class."""
    code = str(problem.get("code") or "")
    detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
    kind = _BY_CODE.get(code) or (ServiceFault if status >= 500 else ApiError)
    if kind is AuthenticationFailed:
        wanted = "another API key" if key_sent else "an API key"
        detail = (
            f"{detail}: {url} wants {wanted}. Set CODECELL_API_KEY or pass api_key= (for the"
            " command line, --key)."
        )
    found = problem.get("errors")
    errors = tuple(e for e in found if isinstance(e, Mapping)) if isinstance(found, list) else ()
    return kind(
        detail,
        status=status,
        code=code,
        request_id=request_id or problem.get("request_id"),
        errors=errors,
        retry_after=retry_after,
    )


def _codes(kind: type[ApiError]) -> dict[str, type[ApiError]]:
    found = {kind.CODE: kind} if kind.CODE else {}
    for child in kind.__subclasses__():
        found |= _codes(child)
    return found


_BY_CODE: Mapping[str, type[ApiError]] = _codes(ApiError)
