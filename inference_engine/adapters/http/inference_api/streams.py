"""An answer as server-sent events: pieces of text, then who wrote them and what it took, or what went wrong."""

from __future__ import annotations

import time
from contextlib import aclosing

import msgspec

from inference_engine.adapters.http.calls import served_headers
from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.adapters.http.inference_api import wire_texts as wire
from inference_engine.adapters.http.inference_api.errors import Problem, problem_of
from inference_engine.adapters.http.inference_api.wire import ms, token_usage
from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError, InferenceFailed
from inference_engine.domain.results import Delta, Done, ReasoningDelta, Served
from inference_engine.services.inference import Generation

_ENCODER = msgspec.json.Encoder()
_log = get_logger(__name__)


async def stream(
    exchange: Exchange, generation: Generation, started: float, opening: wire.ContextEvent | None = None
) -> None:
    """Send an answer as it comes. An error before the first piece is an HTTP error, a later one the last event.

    `started` is a reading of `time.perf_counter`.
    """
    async with aclosing(generation.deltas) as deltas:
        first = await anext(deltas, None)
        if first is None:
            raise InferenceFailed("the model ended without an answer")
        await exchange.start_events(served_headers(generation.served))
        try:
            if opening is not None:
                await exchange.send_events(event(opening))
            await exchange.send_events(_written(first, generation.served, started))
            async for delta in deltas:
                await exchange.send_events(_written(delta, generation.served, started))
        except Exception as error:  # whatever it was, the client must not take the part for the whole
            await exchange.end_events(event(wire.ErrorEvent(problem(exchange, error))))
            return
        await exchange.end_events()


def event(value: msgspec.Struct) -> bytes:
    return b"data: %b\n\n" % _ENCODER.encode(value)


def problem(exchange: Exchange, error: Exception) -> Problem:
    """What a client is told of an error inside an answer that has begun; what nobody expected is logged."""
    if isinstance(error, EngineError | HttpError):
        return problem_of(error)
    request_id = exchange.request_id.decode("latin-1")
    _log.error("unexpected error", request_id=request_id, path=exchange.path, exc_info=error)
    return Problem("internal_error", f"the server failed unexpectedly; its log says more under {request_id}")


def _written(delta: Delta, served: Served, started: float) -> bytes:
    if isinstance(delta, Done):
        return event(
            wire.DoneEvent(
                model=served.ref.name,
                version=served.ref.version,
                latency_ms=ms(time.perf_counter() - started),
                usage=token_usage(delta.usage),
                finish_reason=delta.reason,
            )
        )
    kind = wire.ReasoningEvent if isinstance(delta, ReasoningDelta) else wire.TextEvent
    return event(kind(delta.text)) if delta.text else b""
