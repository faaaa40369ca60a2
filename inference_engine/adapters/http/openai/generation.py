"""POST /v1/chat/completions and /v1/completions: decode, generate, answer whole or as a stream. A hot path."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.adapters.http.openai import requests, wire
from inference_engine.adapters.http.openai.answers import DONE, ChatWriter, TextWriter, Writer
from inference_engine.adapters.http.openai.choices import Tally, best
from inference_engine.adapters.http.openai.errors import body_of
from inference_engine.core.logging import get_logger
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidRequest
from inference_engine.domain.results import Delta, Done, Served
from inference_engine.services.inference import InferenceService
from inference_engine.services.streams import interleaved

_CHAT = msgspec.json.Decoder(wire.ChatRequest)
_COMPLETION = msgspec.json.Decoder(wire.CompletionRequest)
_log = get_logger(__name__)


class Generations:
    """The two endpoints. `default_model` answers requests that name none; `fingerprint` names this server."""

    def __init__(self, inference: InferenceService, calls: Calls, default_model: str | None, fingerprint: str) -> None:
        self._inference = inference
        self._calls = calls
        self._default_model = default_model
        self._fingerprint = fingerprint

    async def chat(self, exchange: Exchange) -> None:
        body = decode(_CHAT, await exchange.body())
        request = requests.chat(body)
        call = self._calls.of(exchange, priority=body.priority or 0)
        generation = await self._inference.generate(target_of(body.model, self._default_model), request, call)
        writer = ChatWriter(generation.served, self._fingerprint, bool(body.logprobs))
        await _answer(exchange, body, _Reply(generation.served, generation.deltas, writer, request.choices, 1))

    async def completions(self, exchange: Exchange) -> None:
        body = decode(_COMPLETION, await exchange.body())
        wanted = requests.completions(body)
        target = target_of(body.model, self._default_model)
        call = self._calls.of(exchange, priority=body.priority or 0)
        generations = [await self._inference.generate(target, request, call) for request in wanted]
        served, choices = generations[0].served, wanted[0].choices
        deltas = generations[0].deltas
        if len(generations) > 1:
            deltas = interleaved([generation.deltas for generation in generations], choices)
        writer = TextWriter(served, self._fingerprint, body.logprobs)
        kept = body.n or 1
        await _answer(exchange, body, _Reply(served, deltas, writer, choices, len(wanted), kept))


def target_of(model: str | None, default_model: str | None) -> str:
    """The model that is asked for. Raises `InvalidRequest` when there is none."""
    target = model or default_model
    if target is None:
        raise InvalidRequest("model is missing: name one of GET /v1/models", param="model")
    return target


class _Reply(NamedTuple):
    """What is about to be answered: `per_prompt` choices for each of `prompts`, numbered through.

    Of these the `kept` best are written; None for all.
    """

    served: Served
    deltas: AsyncGenerator[Delta]
    writer: Writer
    per_prompt: int
    prompts: int
    kept: int | None = None

    @property
    def choices(self) -> int:
        return self.per_prompt * self.prompts


async def _answer(exchange: Exchange, body: wire.Common, reply: _Reply) -> None:
    """Read all deltas; when the client leaves, this task is cancelled and they are closed, which ends the compute."""
    async with aclosing(reply.deltas) as deltas:
        exchange.cancel_when_gone()
        tally = Tally(reply.per_prompt)
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            await _stream(exchange, reply, tally, usage=usage)
            return
        choices = [Answer() for _ in range(reply.choices)]
        async for delta in deltas:
            choices[delta.index].add(delta)
            if isinstance(delta, Done):
                tally.add(delta)
    if reply.kept is not None and reply.kept < reply.per_prompt:
        choices = best(choices, reply.per_prompt, reply.kept)
    whole = reply.writer.whole(choices, tally)
    await exchange.respond(200, whole, headers=served_headers(reply.served), compress=True)


async def _stream(exchange: Exchange, reply: _Reply, tally: Tally, *, usage: bool) -> None:
    """An error before the first delta is an HTTP error; a later one is the stream's last event."""
    writer, deltas = reply.writer, reply.deltas
    first = await anext(deltas, None)
    if first is None:
        raise InferenceFailed("the model ended without an answer")
    await exchange.start_events(served_headers(reply.served))
    try:
        await exchange.send_events(writer.opening(reply.choices) + _written(first, writer, tally))
        async for delta in deltas:
            await exchange.send_events(_written(delta, writer, tally))
    except Exception as error:  # whatever it was, the client must not take the part for the whole
        await exchange.end_events(failure_event(exchange, error))
        return
    await exchange.end_events((writer.usage_event(tally) if usage else b"") + DONE)


def failure_event(exchange: Exchange, error: Exception) -> bytes:
    """The last event of a stream that failed; what nobody expected is logged."""
    if not isinstance(error, EngineError):
        _log.error("stream failed", request_id=exchange.request_id.decode("latin-1"), exc_info=error)
        failed = HttpError(500, "internal_error", "the server failed unexpectedly; the answer above is not complete")
        return b"data: %b\n\n" % body_of(failed)
    return b"data: %b\n\n" % body_of(error)


def _written(delta: Delta, writer: Writer, tally: Tally) -> bytes:
    if isinstance(delta, Done):
        tally.add(delta)
    return writer.event(delta)
