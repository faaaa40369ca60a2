"""Errors of these routes: `{"error": {"code", "message", "field"}}`, with the domain's codes."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http.calls import retry_headers
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.adapters.http.statuses import STATUS
from inference_engine.domain.errors import EngineError


class Problem(msgspec.Struct):
    """`field` is the place in the request that is at fault, where one is."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(msgspec.Struct):
    error: Problem


def problem_of(error: EngineError | HttpError) -> Problem:
    """An error as it stands in an answer, in a stream or in the result of one item."""
    return Problem(error.code, error.message, error.param)


def render(error: EngineError | HttpError) -> ErrorAnswer:
    """The answer for any error."""
    body = msgspec.json.encode(ErrorBody(problem_of(error)))
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, body, error.headers)
    return ErrorAnswer(STATUS[type(error)], body, retry_headers(error))
