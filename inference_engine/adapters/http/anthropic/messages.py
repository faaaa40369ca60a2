"""POST /v1/messages and its count_tokens: decode, generate, answer whole or as a stream. A hot path."""

from __future__ import annotations

from contextlib import aclosing

import msgspec

from inference_engine.adapters.http.anthropic import requests, wire
from inference_engine.adapters.http.anthropic.answers import Show, StreamWriter, whole
from inference_engine.adapters.http.anthropic.errors import body_of
from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange, Header, HttpError
from inference_engine.core.logging import get_logger
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidRequest
from inference_engine.domain.requests import Chat
from inference_engine.domain.results import Served
from inference_engine.services.inference import Generation, InferenceService

_MESSAGES = msgspec.json.Decoder(wire.MessagesRequest)
_COUNT = msgspec.json.Decoder(wire.CountRequest)
_ENCODER = msgspec.json.Encoder()
_log = get_logger(__name__)


class Messages:
    """The two endpoints. `default_model` answers requests that name none."""

    def __init__(self, inference: InferenceService, calls: Calls, default_model: str | None) -> None:
        self._inference = inference
        self._calls = calls
        self._default_model = default_model

    async def create(self, exchange: Exchange) -> None:
        body = decode(_MESSAGES, await exchange.body())
        request = requests.messages(body)
        try:
            await self._answer(exchange, body, request)
        except InvalidRequest as error:
            await self._answer(exchange, body, requests.unthinking(request, body, error))

    async def _answer(self, exchange: Exchange, body: wire.MessagesRequest, request: Chat) -> None:
        generation = await self._inference.generate(self._target(body), request, self._calls.of(exchange))
        async with aclosing(generation.deltas):
            exchange.cancel_when_gone()
            if body.stream:
                await _stream(exchange, generation, _shown(body.thinking))
            else:
                await _whole(exchange, generation, _shown(body.thinking))

    async def count_tokens(self, exchange: Exchange) -> None:
        body = decode(_COUNT, await exchange.body())
        request = requests.counted(body)
        target, call = self._target(body), self._calls.of(exchange)
        try:
            tokens = await self._inference.tokenize(target, request, call)
        except InvalidRequest as error:
            tokens = await self._inference.tokenize(target, requests.unthinking(request, body, error), call)
        await exchange.respond(200, _ENCODER.encode(wire.TokenCount(len(tokens))), headers=(named(exchange),))

    def _target(self, body: wire.CountRequest) -> str:
        target = body.model or self._default_model
        if target is None:
            raise InvalidRequest("model is missing: name one of GET /v1/models", param="model")
        return target


def named(exchange: Exchange) -> Header:
    """The request's id under the name that Anthropic's clients look for."""
    return (b"request-id", exchange.request_id)


def _headers(exchange: Exchange, served: Served) -> tuple[Header, ...]:
    return (*served_headers(served), named(exchange))


def _shown(thinking: wire.Thinking | None) -> Show:
    if thinking is None or thinking.type == "disabled":
        return Show()
    return Show(block=True, text=thinking.display != "omitted")


async def _whole(exchange: Exchange, generation: Generation, show: Show) -> None:
    answer = Answer()
    async for delta in generation.deltas:
        answer.add(delta)
    body = whole(generation.served, answer, show)
    await exchange.respond(200, body, headers=_headers(exchange, generation.served), compress=True)


async def _stream(exchange: Exchange, generation: Generation, show: Show) -> None:
    """An error before the first delta is an HTTP error; a later one is the stream's last event."""
    writer = StreamWriter(generation.served, show)
    first = await anext(generation.deltas, None)
    if first is None:
        raise InferenceFailed("the model ended without an answer")
    await exchange.start_events(_headers(exchange, generation.served))
    try:
        await exchange.send_events(writer.opening() + writer.events(first))
        async for delta in generation.deltas:
            if events := writer.events(delta):
                await exchange.send_events(events)
    except EngineError as error:
        await _break_off(exchange, error)
        return
    except Exception as error:  # whatever it was, the client must not take the part for the whole
        _log.error("stream failed", request_id=exchange.request_id.decode("latin-1"), exc_info=error)
        await _break_off(
            exchange, HttpError(500, "internal_error", "the server failed unexpectedly; the answer is not complete")
        )
        return
    await exchange.end_events()


async def _break_off(exchange: Exchange, error: EngineError | HttpError) -> None:
    body = body_of(error, exchange.request_id.decode("latin-1"))
    await exchange.end_events(b"event: error\ndata: %b\n\n" % body)
