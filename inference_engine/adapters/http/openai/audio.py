"""POST /v1/audio/transcriptions and /v1/audio/translations: a form with a file in, text or events out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import convert, shown
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.forms import Form, form_of
from inference_engine.adapters.http.openai import wire_audio as wire
from inference_engine.adapters.http.openai.answers import DONE
from inference_engine.adapters.http.openai.generation import failure_event, target_of
from inference_engine.adapters.http.openai.transcripts import TIMED, usage, written
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import InferenceFailed, InvalidRequest, UnknownField
from inference_engine.domain.requests import Sampling, Transcribe
from inference_engine.domain.results import Delta, Done
from inference_engine.services.inference import Generation, InferenceService

_ENCODER = msgspec.json.Encoder()
_LISTS = ("timestamp_granularities", "include")
FormType = TypeVar("FormType", bound=wire.TranslationForm)


class Transcriber:
    """The two endpoints. `default_model` answers requests that name none."""

    def __init__(self, inference: InferenceService, calls: Calls, default_model: str | None) -> None:
        self._inference = inference
        self._calls = calls
        self._default_model = default_model

    async def transcriptions(self, exchange: Exchange) -> None:
        form = typed(await form_of(exchange), wire.TranscriptionForm)
        _refuse(form)
        timed = form.response_format in TIMED
        request = _request(form, language=form.language and form.language.lower(), timestamps=timed)
        await self._answer(exchange, form, request, stream=form.stream)

    async def translations(self, exchange: Exchange) -> None:
        form = typed(await form_of(exchange), wire.TranslationForm)
        request = _request(form, translate=True, timestamps=form.response_format in TIMED)
        await self._answer(exchange, form, request, stream=False)

    async def _answer(
        self, exchange: Exchange, form: wire.TranslationForm, request: Transcribe, *, stream: bool
    ) -> None:
        target = target_of(form.model, self._default_model)
        generation = await self._inference.generate(target, request, self._calls.of(exchange))
        answer = Answer()
        async with aclosing(generation.deltas) as deltas:
            exchange.cancel_when_gone()
            if stream:
                await _stream(exchange, generation, deltas)
                return
            async for delta in deltas:
                answer.add(delta)
        body, kind = written(answer, form.response_format, request, generation.served)
        await exchange.respond(200, body, kind, served_headers(generation.served), compress=True)


def typed(form: Form, kind: type[FormType]) -> FormType:
    """A form's fields with their types; lists may be called `name[]`.

    Raises:
        InvalidRequest; UnknownField
    """
    values: dict[str, Any] = {"file": form.file("file").data}
    if others := form.files.keys() - values.keys():
        raise UnknownField(
            f"{min(others)[:80]} is no file that is supported here: upload file alone", param=min(others)
        )
    for given, found in form.fields.items():
        name = given.removesuffix("[]")
        if name in _LISTS:
            values[name] = values.get(name, []) + found
        elif len(found) > 1 or name in values:
            raise InvalidRequest(f"{name} came several times: send it once", param=name)
        else:
            values[name] = found[0]
    if not values["file"]:
        raise InvalidRequest("file is empty: upload the audio", param="file")
    return convert(values, kind, "", strict=False)


def _refuse(form: wire.TranscriptionForm) -> None:
    for granularity in form.timestamp_granularities:
        if granularity != "segment":
            raise UnknownField(
                f"timestamp_granularities holds {shown(granularity)}: only segment is supported",
                param="timestamp_granularities",
            )
    if form.timestamp_granularities and form.response_format != "verbose_json":
        raise InvalidRequest(
            "timestamp_granularities needs response_format verbose_json", param="timestamp_granularities"
        )
    if form.include:
        raise UnknownField("include is not supported: log probabilities are not given here", param="include")
    if form.chunking_strategy not in (None, "auto"):
        raise UnknownField("chunking_strategy may be auto: leave it out", param="chunking_strategy")
    if form.stream and form.response_format != "json":
        raise InvalidRequest("stream gives events of text: leave response_format out", param="response_format")


def _request(form: wire.TranslationForm, **fields: Any) -> Transcribe:
    return Transcribe(form.file, prompt=form.prompt, sampling=Sampling(temperature=form.temperature), **fields)


async def _stream(exchange: Exchange, generation: Generation, deltas: AsyncGenerator[Delta]) -> None:
    """An error before the first delta is an HTTP error; a later one is the stream's last event."""
    first = await anext(deltas, None)
    if first is None:
        raise InferenceFailed("the model ended without an answer")
    await exchange.start_events(served_headers(generation.served))
    answer = Answer()
    try:
        await exchange.send_events(_event(first, answer))
        async for delta in deltas:
            await exchange.send_events(_event(delta, answer))
    except Exception as error:  # whatever it was, the client must not take the part for the whole
        await exchange.end_events(failure_event(exchange, error))
        return
    await exchange.end_events(DONE)


def _event(delta: Delta, answer: Answer) -> bytes:
    answer.add(delta)
    event: object = wire.TextEvent("transcript.text.delta", "" if isinstance(delta, Done) else delta.text)
    if isinstance(delta, Done):
        event = wire.DoneEvent("transcript.text.done", answer.text.strip(), usage(answer.usage))
    return b"data: %b\n\n" % _ENCODER.encode(event)
