"""Errors as Anthropic writes them, so that its clients raise the right class."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http.calls import retry_headers
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.adapters.http.statuses import STATUS
from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError

INVALID, API, OVERLOADED = "invalid_request_error", "api_error", "overloaded_error"
_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: OVERLOADED,
    504: "timeout_error",
}
TYPES: dict[type[EngineError], str] = {
    kind: _BY_STATUS.get(status, INVALID if status < 500 else API) for kind, status in STATUS.items()
} | {errors.RunnerLost: API}


class Details(msgspec.Struct):
    """What clients read of a refusal that they can get around themselves."""

    error_code: str
    unsupported: tuple[str, ...]


NO_THREADS = "thread_unsupported_request"
_DETAILS = {NO_THREADS: Details(NO_THREADS, ("thread",))}


class Problem(msgspec.Struct):
    """`param` and `code` are ours: the place of the field at fault and the engine's own word for the error."""

    type: str
    message: str
    param: str | None
    code: str
    details: Details | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct, tag="error"):
    error: Problem
    request_id: str | None


def body_of(error: EngineError | HttpError, request_id: str | None) -> bytes:
    """`{"type": "error", ...}`, in an answer of its own or as the last event of a stream."""
    if isinstance(error, HttpError):
        kind = _BY_STATUS.get(error.status, INVALID if error.status < 500 else API)
    else:
        kind = TYPES[type(error)]
    problem = Problem(kind, error.message, error.param, error.code, _DETAILS.get(error.code, msgspec.UNSET))
    return msgspec.json.encode(ErrorBody(problem, request_id))


def render(error: EngineError | HttpError) -> ErrorAnswer:
    """The answer for an error of which no request is known."""
    return render_for(error, None)


def render_for(error: EngineError | HttpError, request_id: str | None) -> ErrorAnswer:
    """The answer for any error. What would fail again in the same way says so, or the official client retries it."""
    body = body_of(error, request_id)
    headers = () if request_id is None else ((b"request-id", request_id.encode("latin-1")),)
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, body, (*error.headers, *headers))
    status = STATUS[type(error)]
    if status >= 500 and not error.retryable:
        headers = (*headers, (b"x-should-retry", b"false"))
    return ErrorAnswer(status, body, (*retry_headers(error), *headers))
