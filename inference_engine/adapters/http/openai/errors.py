"""Errors as OpenAI writes them, so that its clients raise the right class and retry only what is worth it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from inference_engine.adapters.http.calls import retry_headers
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import Header, HttpError
from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError

INVALID = "invalid_request_error"
SERVER = "server_error"


class Meaning(NamedTuple):
    """What an error is in OpenAI's words."""

    status: int
    type: str
    code: str


MEANINGS: dict[type[EngineError], Meaning] = {
    errors.EngineError: Meaning(500, SERVER, "engine_error"),
    errors.InvalidRequest: Meaning(400, INVALID, "invalid_value"),
    errors.UnknownField: Meaning(400, INVALID, "unknown_parameter"),
    errors.InvalidTensor: Meaning(400, INVALID, "invalid_tensor"),
    errors.ContextLengthExceeded: Meaning(400, INVALID, "context_length_exceeded"),
    errors.UnsupportedTask: Meaning(400, INVALID, "unsupported_task"),
    errors.NotFound: Meaning(404, INVALID, "not_found"),
    errors.ModelNotFound: Meaning(404, INVALID, "model_not_found"),
    errors.RouteNotFound: Meaning(404, INVALID, "route_not_found"),
    errors.AccessError: Meaning(403, "permission_error", "access_error"),
    errors.Unauthenticated: Meaning(401, "authentication_error", "invalid_api_key"),
    errors.Forbidden: Meaning(403, "permission_error", "forbidden"),
    errors.Unavailable: Meaning(503, SERVER, "unavailable"),
    errors.QueueFull: Meaning(429, "rate_limit_error", "queue_full"),
    errors.ModelNotReady: Meaning(503, SERVER, "model_not_ready"),
    errors.ShuttingDown: Meaning(503, SERVER, "shutting_down"),
    errors.DeadlineExceeded: Meaning(504, SERVER, "deadline_exceeded"),
    errors.RequestCancelled: Meaning(499, INVALID, "cancelled"),
    errors.ModelError: Meaning(500, SERVER, "model_error"),
    errors.InvalidManifest: Meaning(500, SERVER, "invalid_manifest"),
    errors.ModelLoadFailed: Meaning(500, SERVER, "model_load_failed"),
    errors.RuntimeMissing: Meaning(501, SERVER, "runtime_missing"),
    errors.InferenceFailed: Meaning(500, SERVER, "inference_failed"),
    errors.RunnerLost: Meaning(503, SERVER, "runner_lost"),
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_NO_RETRY: Header = (b"x-should-retry", b"false")


class Problem(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    error: Problem


def body_of(error: EngineError | HttpError) -> bytes:
    """`{"error": {...}}`, in an answer of its own or as the last event of a stream."""
    if isinstance(error, HttpError):
        kind = _TYPES.get(error.status, INVALID if error.status < 500 else SERVER)
        return msgspec.json.encode(ErrorBody(Problem(error.message, kind, error.param, error.code)))
    meaning = MEANINGS[type(error)]
    return msgspec.json.encode(ErrorBody(Problem(error.message, meaning.type, error.param, meaning.code)))


def render(error: EngineError | HttpError) -> ErrorAnswer:
    """The answer for any error. What would fail again in the same way says so, or the official client retries it."""
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, body_of(error), error.headers)
    status = MEANINGS[type(error)].status
    headers = retry_headers(error)
    if status >= 500 and not error.retryable:
        headers = (*headers, _NO_RETRY)
    return ErrorAnswer(status, body_of(error), headers)
