"""The generate extension of v2: a text in, a text out, whole or as server-sent events."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.adapters.http.v2.errors import ErrorBody, broken_off
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.requests import Complete, Sampling
from inference_engine.domain.results import Done, Served, TextDelta
from inference_engine.services.inference import Generation, InferenceService

_ENCODER = msgspec.json.Encoder()


class GenerateParameters(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How the text is made. `exclude_input_in_output: false` writes the prompt before the answer.

    `timeout` counts microseconds, `priority` is as in infer.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    exclude_input_in_output: bool = True
    stream: bool | None = None
    priority: Annotated[int, Meta(ge=0)] = 0
    timeout: Annotated[int, Meta(ge=0)] = 0


class GenerateRequest(msgspec.Struct, forbid_unknown_fields=True):
    text_input: str
    id: str | UnsetType = UNSET
    parameters: GenerateParameters = msgspec.field(default_factory=GenerateParameters)
    stream: bool | None = None


class GenerateResponse(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    text_output: str
    id: str | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(GenerateRequest)


class Generate:
    """The two endpoints."""

    def __init__(self, inference: InferenceService, calls: Calls) -> None:
        self._inference = inference
        self._calls = calls

    async def whole(self, exchange: Exchange) -> None:
        request, generation = await self._begun(exchange)
        answer = Answer()
        async with aclosing(generation.deltas) as deltas:
            exchange.cancel_when_gone()
            async for delta in deltas:
                answer.add(delta)
        body = _written(generation.served, request, answer.text)
        await exchange.respond(200, body, headers=served_headers(generation.served), compress=True)

    async def stream(self, exchange: Exchange) -> None:
        """An error before the first text is an HTTP error; a later one is the stream's last event."""
        request, generation = await self._begun(exchange)
        async with aclosing(generation.deltas) as deltas:
            exchange.cancel_when_gone()
            delta = await anext(deltas, None)
            if delta is None:
                raise InferenceFailed("the model ended without an answer")
            await exchange.start_events(served_headers(generation.served))
            try:
                while delta is not None and not isinstance(delta, Done):
                    if isinstance(delta, TextDelta):
                        await exchange.send_events(_event(_written(generation.served, request, delta.text)))
                    delta = await anext(deltas, None)
            except Exception as error:  # whatever it was, the client must not take the part for the whole
                await exchange.end_events(_event(_ENCODER.encode(ErrorBody(broken_off(exchange, error)))))
                return
            await exchange.end_events()

    async def _begun(self, exchange: Exchange) -> tuple[GenerateRequest, Generation]:
        request = decode(_DECODER, await exchange.body())
        parameters, path = request.parameters, exchange.path_params
        if exchange.path.endswith("/generate") and (request.stream or parameters.stream):
            raise HttpError(400, "invalid_request", "stream: true is answered by generate_stream: ask there")
        target = f"{path['model']}:{path['version']}" if "version" in path else path["model"]
        call = self._calls.of(exchange, parameters.timeout * 1e-6 or None, parameters.priority)
        echo = not parameters.exclude_input_in_output
        return request, await self._inference.generate(
            target, Complete(request.text_input, _sampling(parameters), echo=echo), call
        )


def _sampling(parameters: GenerateParameters) -> Sampling:
    values: dict[str, Any] = {
        name: getattr(parameters, name)
        for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "ignore_eos")
    }
    stop = parameters.stop
    return Sampling(
        **values,
        presence_penalty=parameters.presence_penalty,
        frequency_penalty=parameters.frequency_penalty,
        repeat_penalty=parameters.repetition_penalty,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
    )


def _written(served: Served, request: GenerateRequest, text: str) -> bytes:
    return _ENCODER.encode(GenerateResponse(served.ref.name, served.ref.version, text, request.id))


def _event(body: bytes) -> bytes:
    return b"data: %b\n\n" % body
