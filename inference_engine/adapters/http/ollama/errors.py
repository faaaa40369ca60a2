"""Errors as Ollama writes them: `{"error": "..."}`, in an answer of its own or as the last line of a stream."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http import statuses
from inference_engine.adapters.http.calls import retry_headers
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError

STATUS: dict[type[EngineError], int] = statuses.STATUS | {errors.UnsupportedTask: 400}


class ErrorBody(msgspec.Struct):
    error: str


def body_of(error: EngineError | HttpError) -> bytes:
    return msgspec.json.encode(ErrorBody(error.message))


def render(error: EngineError | HttpError) -> ErrorAnswer:
    """The answer for any error."""
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, body_of(error), error.headers)
    return ErrorAnswer(STATUS[type(error)], body_of(error), retry_headers(error))
