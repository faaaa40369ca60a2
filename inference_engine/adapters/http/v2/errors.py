"""Errors as the Open Inference Protocol writes them: a status and `{"error": "message"}`."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http.calls import retry_headers
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.adapters.http.statuses import STATUS
from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError

_log = get_logger(__name__)


class ErrorBody(msgspec.Struct):
    error: str


def render(error: EngineError | HttpError) -> ErrorAnswer:
    """The answer for any error."""
    body = msgspec.json.encode(ErrorBody(error.message))
    if isinstance(error, HttpError):
        return ErrorAnswer(error.status, body, error.headers)
    return ErrorAnswer(STATUS[type(error)], body, retry_headers(error))


def broken_off(exchange: Exchange, error: Exception) -> str:
    """What the last event of a stream says that has failed after it began."""
    if isinstance(error, EngineError):
        return error.message
    _log.error("stream failed", request_id=exchange.request_id.decode("latin-1"), exc_info=error)
    return "the server failed unexpectedly; the answer above is not complete"
