"""Errors as the Open Inference Protocol writes them: a status and `{"error": "message"}`."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http.calls import retry_headers
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.adapters.http.statuses import STATUS
from inference_engine.domain.errors import EngineError


class ErrorBody(msgspec.Struct):
    error: str


def render(error: EngineError | HttpError) -> ErrorAnswer:
    """The answer for any error."""
    body = msgspec.json.encode(ErrorBody(error.message))
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, body, error.headers)
    return ErrorAnswer(STATUS[type(error)], body, retry_headers(error))
