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


_BY_CODE: dict[str, type[ApiError]] = {}


class ApiError(CodecellError):
    """The service answered with a problem. `code` is stable; `detail` is for people."""

    CODE: ClassVar[str]

    def __init_subclass__(cls, *, code: str) -> None:
        cls.CODE = code
        _BY_CODE[code] = cls

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


class AuthenticationFailed(ApiError, code="unauthorized"):
    """The key is missing or wrong."""


class Forbidden(ApiError, code="forbidden"):
    """The key does not allow this."""


class NotFound(ApiError, code="not_found"):
    """There is no such thing."""


class SessionNotFound(NotFound, code="session_not_found"):
    """No session of this key has that id: it has ended, or never was."""


class ExecutionNotFound(NotFound, code="execution_not_found"):
    """The session has no such execution, or no longer."""


class CommandNotFound(NotFound, code="command_not_found"):
    """The session has no such command, or no longer."""


class RunNotFound(NotFound, code="run_not_found"):
    """There is no such run, or no longer."""


class LanguageNotFound(NotFound, code="language_not_found"):
    """The image has no such language."""


class ImageNotFound(NotFound, code="image_not_found"):
    """The service has no such image."""


class FileMissing(NotFound, code="file_not_found"):
    """The workspace has no such file."""


class SessionBusy(ApiError, code="session_busy"):
    """The session is executing something else."""


class NotWaitingForInput(ApiError, code="not_waiting_for_input"):
    """The program does not ask for input now."""


class SessionClosed(ApiError, code="session_closed"):
    """The session was closed, or has expired."""


class PayloadTooLarge(ApiError, code="payload_too_large"):
    """What was sent is larger than the service takes."""


class InvalidRequest(ApiError, code="invalid_request"):
    """The request says something that cannot be."""


class LimitTooHigh(InvalidRequest, code="limit_too_high"):
    """A limit above what the service allows was asked for."""


class InvalidPath(InvalidRequest, code="invalid_path"):
    """The path leaves the workspace, or is none."""


class IsADirectory(InvalidRequest, code="is_a_directory"):
    """The path is that of a directory, not of a file."""


class NetworkNotAllowed(InvalidRequest, code="network_not_allowed"):
    """The service allows no such network access."""


class QuotaExceeded(ApiError, code="quota_exceeded"):
    """The key has as many sessions as it may."""


class ServiceFault(ApiError, code="internal"):
    """The service could not do what it promises: not the caller's fault."""


class SandboxFailed(ServiceFault, code="sandbox_failed"):
    """The sandbox broke, or could not be made."""


class Capacity(ServiceFault, code="capacity"):
    """All sandboxes are taken; try again later."""


class BackendUnavailable(ServiceFault, code="backend_unavailable"):
    """What makes sandboxes does not answer."""


class DiskFull(ServiceFault, code="disk_full"):
    """The service has no disk space left."""


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
