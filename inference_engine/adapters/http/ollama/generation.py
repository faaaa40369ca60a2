"""POST /api/chat and /api/generate: decode, load, generate, answer as lines of JSON or whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import JSON_LINES, Exchange, HttpError
from inference_engine.adapters.http.ollama import requests, wire
from inference_engine.adapters.http.ollama.answers import Lines, Shape, Stopwatch, chat_shape, generate_shape, whole
from inference_engine.adapters.http.ollama.errors import body_of
from inference_engine.adapters.http.ollama.values import keep_alive_s, resolve
from inference_engine.core.logging import get_logger
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import ContextLengthExceeded, EngineError, InferenceFailed, UnsupportedTask
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import Call, Chat, Complete
from inference_engine.domain.results import Served, Usage
from inference_engine.services.inference import Generation, InferenceService
from inference_engine.services.models import ModelService

_CHAT = msgspec.json.Decoder(wire.ChatRequest)
_GENERATE = msgspec.json.Decoder(wire.GenerateRequest)
_log = get_logger(__name__)


class _Asked(NamedTuple):
    """What both endpoints know of a request. `keep_s` is how long its model is to stay loaded."""

    call: Call
    body: wire.Common
    served: Served
    keep_s: float | None
    watch: Stopwatch
    shape: Shape


class Generations:
    """The two endpoints. `clock` is the monotonic clock in seconds."""

    def __init__(
        self, models: ModelService, inference: InferenceService, calls: Calls, clock: Callable[[], float]
    ) -> None:
        self._models = models
        self._inference = inference
        self._calls = calls
        self._clock = clock

    async def chat(self, exchange: Exchange) -> None:
        body = decode(_CHAT, await exchange.body())
        asked = self._asked(exchange, body, chat_shape(body.model))
        if not body.messages:
            await self._load_or_unload(exchange, asked)
            return
        request = requests.chat(body)
        loaded = await self._loaded(asked)
        await self._answer(exchange, asked, request, loaded)

    async def generate(self, exchange: Exchange) -> None:
        body = decode(_GENERATE, await exchange.body())
        requests.refuse(body, wire.REFUSED)
        asked = self._asked(exchange, body, generate_shape(body.model))
        requests.generate(body, chats=True)  # what is wrong with it is told before a model is loaded
        if not body.prompt and not body.images and not body.suffix:
            await self._load_or_unload(exchange, asked)
            return
        loaded = await self._loaded(asked)
        await self._answer(exchange, asked, requests.generate(body, chats="chat" in loaded.kinds), loaded)

    def _asked(self, exchange: Exchange, body: wire.Common, shape: Shape) -> _Asked:
        exchange.cancel_when_gone()
        served = resolve(self._models, body.model)
        return _Asked(
            self._calls.of(exchange), body, served, keep_alive_s(body.keep_alive), Stopwatch(self._clock), shape
        )

    async def _loaded(self, asked: _Asked) -> Loaded:
        loaded = await self._models.ready(asked.served.ref)
        asked.watch.is_loaded()
        return loaded

    async def _load_or_unload(self, exchange: Exchange, asked: _Asked) -> None:
        """A request without a prompt loads the model, or with keep_alive 0 unloads it."""
        ref = asked.served.ref
        if asked.keep_s == 0:
            await self._models.unload(ref)
        else:
            await self._loaded(asked)
            if asked.keep_s is not None:
                self._models.keep_alive(ref, asked.keep_s)
        figures = asked.watch.figures("unload" if asked.keep_s == 0 else "load", Usage())
        await exchange.respond(200, asked.shape("", "", (), (), {"done_reason": figures["done_reason"]}))

    async def _answer(self, exchange: Exchange, asked: _Asked, request: Chat | Complete, loaded: Loaded) -> None:
        """Read all deltas; when the client leaves, they are closed, which ends the compute."""
        target = asked.served.route
        try:
            request = await self._within_window(asked, request, loaded)
            generation = await self._inference.generate(target, request, asked.call)
            async with aclosing(generation.deltas):
                if asked.body.stream is False:
                    await _respond(exchange, asked, generation)
                else:
                    await _stream(exchange, asked, generation)
        finally:
            if asked.keep_s is not None:
                self._models.keep_alive(asked.served.ref, asked.keep_s)

    async def _within_window(self, asked: _Asked, request: Chat | Complete, loaded: Loaded) -> Chat | Complete:
        """Hold prompt and answer together to `num_ctx` tokens. A window as large as the model's needs no help.

        Raises:
            ContextLengthExceeded: it is larger than the model's context, or smaller than the prompt. UnsupportedTask:
            the model has no window that is known.
        """
        wanted = asked.body.options.num_ctx if asked.body.options else None
        if wanted is None or wanted == loaded.context_length:
            return request
        _check_window(wanted, loaded, asked.served)
        prompt = len(await self._inference.tokenize(asked.served.route, request, asked.call))
        if prompt >= wanted:
            raise ContextLengthExceeded(
                f"the prompt has {prompt} tokens, options.num_ctx allows {wanted} with the answer: nothing is cut off "
                "silently, so shorten the prompt or raise num_ctx",
                param="options.num_ctx",
            )
        limit = min(wanted - prompt, request.sampling.max_tokens or wanted)
        sampling = msgspec.structs.replace(request.sampling, max_tokens=limit)
        return msgspec.structs.replace(request, sampling=sampling)


def _check_window(wanted: int, loaded: Loaded, served: Served) -> None:
    if loaded.context_length is None:
        raise UnsupportedTask(
            f"options.num_ctx: {served.ref} does not tell how long its context is: leave it out",
            param="options.num_ctx",
        )
    if wanted > loaded.context_length:
        raise ContextLengthExceeded(
            f"options.num_ctx is {wanted}, {served.ref} runs with a context of {loaded.context_length} tokens: ask for "
            "less, or raise options.context_length in its model.yaml",
            param="options.num_ctx",
        )


async def _respond(exchange: Exchange, asked: _Asked, generation: Generation) -> None:
    answer = Answer()
    begun = False
    async for delta in generation.deltas:
        if not begun:
            begun = True
            asked.watch.has_begun()
        answer.add(delta)
    body = whole(asked.shape, answer, asked.watch)
    await exchange.respond(200, body, headers=served_headers(generation.served), compress=True)


async def _stream(exchange: Exchange, asked: _Asked, generation: Generation) -> None:
    """An error before the first delta is an HTTP error; a later one is the stream's last line."""
    first = await anext(generation.deltas, None)
    if first is None:
        raise InferenceFailed("the model ended without an answer")
    asked.watch.has_begun()
    lines = Lines(asked.shape, asked.watch)
    await exchange.start_events(served_headers(generation.served), JSON_LINES)
    try:
        if written := lines.of(first):
            await exchange.send_events(written)
        async for delta in generation.deltas:
            if written := lines.of(delta):
                await exchange.send_events(written)
    except EngineError as error:
        await exchange.end_events(body_of(error) + b"\n")
        return
    except Exception as error:  # whatever it was, the client must not take the part for the whole
        _log.error("stream failed", request_id=exchange.request_id.decode("latin-1"), exc_info=error)
        failed = HttpError(500, "internal_error", "the server failed unexpectedly; the answer above is not complete")
        await exchange.end_events(body_of(failed) + b"\n")
        return
    await exchange.end_events()
