"""POST /inference/text: a prompt continued or messages answered, whole or as a stream."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.inference_api import wire_texts as wire
from inference_engine.adapters.http.inference_api.bodies import words
from inference_engine.adapters.http.inference_api.streams import stream
from inference_engine.adapters.http.inference_api.wire import ms, token_usage
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Call, Chat, Complete, Message, Sampling
from inference_engine.domain.results import Served
from inference_engine.services.analysis.answering import Writers, whole
from inference_engine.services.inference import Generation, InferenceService

_DECODER = msgspec.json.Decoder(wire.TextRequest)
WORDS = {"role": ("system", "user", "assistant")}
_ENCODER = msgspec.json.Encoder()


class Texts:
    """The endpoint, and the items of batches that are texts."""

    def __init__(self, inference: InferenceService, writers: Writers, calls: Calls) -> None:
        self._inference = inference
        self._writers = writers
        self._calls = calls

    async def generate(self, exchange: Exchange) -> None:
        content = await exchange.body()
        with words(**WORDS):
            body = decode(_DECODER, content)
        call = self._calls.of(exchange)
        started = time.perf_counter()
        exchange.cancel_when_gone()
        generation = await self._begun(body, call)
        if body.stream:
            await stream(exchange, generation, started)
            return
        answer = text_answer(generation.served, await whole(generation), time.perf_counter() - started)
        headers = served_headers(generation.served)
        await exchange.respond(200, _ENCODER.encode(answer), headers=headers, compress=True)

    async def item(self, body: wire.TextRequest, call: Call) -> wire.TextAnswer:
        """The answer to one item of a batch. Raises `EngineError`."""
        refuse_stream(body)
        started = time.perf_counter()
        generation = await self._begun(body, call)
        return text_answer(generation.served, await whole(generation), time.perf_counter() - started)

    async def _begun(self, body: wire.TextRequest, call: Call) -> Generation:
        request = request_of(body)
        return await self._inference.generate(self._writers.target(body.model), request, call)


def request_of(body: wire.TextRequest) -> Chat | Complete:
    """Raises `InvalidRequest`."""
    if (body.prompt is None) == (not body.messages):
        raise InvalidRequest("send either a prompt to be continued, or messages to be answered", param="prompt")
    sampling = sampling_of(body.parameters)
    if body.prompt is not None:
        return Complete(body.prompt, sampling)
    return Chat(tuple([Message(turn.role, turn.content) for turn in body.messages]), sampling)


def sampling_of(parameters: wire.Parameters) -> Sampling:
    """The parameters in the domain's words; the domain checks their ranges."""
    values: dict[str, Any] = msgspec.structs.asdict(parameters)
    stop = values.pop("stop")
    return Sampling(**values, stop=(stop,) if isinstance(stop, str) else tuple(stop))


def text_answer(served: Served, answer: Answer, seconds: float) -> wire.TextAnswer:
    """A whole answer as it is written."""
    made = wire.TextAnswer(
        model=served.ref.name,
        version=served.ref.version,
        latency_ms=ms(seconds),
        usage=token_usage(answer.usage),
        text=answer.text,
        finish_reason=answer.reason,
    )
    if answer.reasoning:
        made.reasoning = answer.reasoning
    return made


def refuse_stream(body: wire.Generated) -> None:
    """Raises `UnknownField`: an item of a batch has no stream of its own."""
    if body.stream:
        raise UnknownField("stream is not for one item: stream the whole batch, or leave it out", param="stream")
