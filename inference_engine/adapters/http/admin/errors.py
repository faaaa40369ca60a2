"""Errors of our own API: `{"error": {"code", "message", "param"}}`, with the domain's codes."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http import statuses
from inference_engine.adapters.http.calls import retry_headers
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError

STATUS: dict[type[EngineError], int] = statuses.STATUS | {
    errors.ModelError: 422,
    errors.InvalidManifest: 422,
    errors.ModelLoadFailed: 422,
}
"""A model that cannot be loaded is 422 here: the operator's files are at fault, not the server."""


class Problem(msgspec.Struct):
    code: str
    message: str
    param: str | None


class ErrorBody(msgspec.Struct):
    error: Problem


def render(error: EngineError | HttpError) -> ErrorAnswer:
    """The answer for any error."""
    body = msgspec.json.encode(ErrorBody(Problem(error.code, error.message, error.param)))
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, body, error.headers)
    return ErrorAnswer(STATUS[type(error)], body, retry_headers(error))
