"""POST /inference/multimodal: texts, images, sounds and videos together, one text out, whole or as a stream."""

from __future__ import annotations

import time
from typing import get_args

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import convert, decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.forms import Form, form_of
from inference_engine.adapters.http.inference_api import wire_texts as wire
from inference_engine.adapters.http.inference_api.bodies import check_files, is_form, single_fields, words
from inference_engine.adapters.http.inference_api.streams import stream
from inference_engine.adapters.http.inference_api.texts import refuse_stream, sampling_of, text_answer
from inference_engine.adapters.http.media import inline
from inference_engine.domain.multimodal import AnyPart, Context, Mode, Multimodal, VideoPart
from inference_engine.domain.requests import AudioPart, Call, ImagePart, TextPart
from inference_engine.services.analysis.answering import whole
from inference_engine.services.analysis.multimodal import Combined, MultimodalAnswerer

_DECODER = msgspec.json.Decoder(wire.MultimodalRequest)
_PARAMETERS = msgspec.json.Decoder(wire.Parameters)
_ENCODER = msgspec.json.Encoder()
WORDS = {"mode": get_args(Mode), "type": ("text", "image", "audio", "video")}
_FILES: dict[str, type[ImagePart] | type[AudioPart] | type[VideoPart]] = {
    "image": ImagePart,
    "audio": AudioPart,
    "video": VideoPart,
}


class MultimodalTexts:
    """The endpoint, and the items of batches of that type."""

    def __init__(self, answerer: MultimodalAnswerer, calls: Calls) -> None:
        self._answerer = answerer
        self._calls = calls

    async def answer(self, exchange: Exchange) -> None:
        streamed, request = await _read(exchange)
        call = self._calls.of(exchange)
        started = time.perf_counter()
        exchange.cancel_when_gone()
        combined = await self._answerer.answer(request, call)
        generation = combined.generation
        if streamed:
            context = [_context(one) for one in combined.context]
            await stream(exchange, generation, started, wire.ContextEvent(context) if context else None)
            return
        body_out = _ENCODER.encode(await _whole(combined, started))
        await exchange.respond(200, body_out, headers=served_headers(generation.served), compress=True)

    async def item(self, body: wire.MultimodalRequest, call: Call) -> wire.MultimodalAnswer:
        """The answer to one item of a batch. Raises `EngineError`."""
        refuse_stream(body)
        started = time.perf_counter()
        return await _whole(await self._answerer.answer(of_json(body), call), started)


async def _read(exchange: Exchange) -> tuple[bool, Multimodal]:
    """Whether the answer is to be streamed, and the request."""
    form = is_form(exchange)
    body = await (form_of(exchange) if form else exchange.body())
    with words(**WORDS):
        if isinstance(body, Form):
            return of_form(body)
        found = decode(_DECODER, body)
    return found.stream, of_json(found)


def of_json(body: wire.MultimodalRequest) -> Multimodal:
    """Raises `InvalidRequest`, `UnknownField`."""
    parts = [_part(part, f"parts[{place}].data") for place, part in enumerate(body.parts)]
    return Multimodal(tuple(parts), body.model, body.mode, body.system, sampling_of(body.parameters))


def _part(given: wire.PartIn, place: str) -> AnyPart:
    if isinstance(given, wire.TextIn):
        return TextPart(given.text)
    data = inline(given.data, place)
    if isinstance(given, wire.VideoIn):
        return VideoPart(data)
    return ImagePart(data) if isinstance(given, wire.ImageIn) else AudioPart(data)


def of_form(form: Form) -> tuple[bool, Multimodal]:
    """Whether it is to be streamed, and the request: images, sounds, videos, then the text.

    Raises `InvalidRequest`, `UnknownField`.
    """
    check_files(form, tuple(_FILES))
    values = single_fields(form)
    parameters = decode(_PARAMETERS, values.pop("parameters", "{}").encode())
    fields = convert(values, wire.MultimodalForm, "", strict=False)
    parts: list[AnyPart] = [kind(file.data) for name, kind in _FILES.items() for file in form.files.get(name, ())]
    if fields.text:
        parts.append(TextPart(fields.text))
    return fields.stream, Multimodal(tuple(parts), fields.model, fields.mode, fields.system, sampling_of(parameters))


async def _whole(combined: Combined, started: float) -> wire.MultimodalAnswer:
    answer = await whole(combined.generation)
    text = text_answer(combined.generation.served, answer, time.perf_counter() - started)
    return wire.MultimodalAnswer(**msgspec.structs.asdict(text), context=[_context(one) for one in combined.context])


def _context(found: Context) -> wire.Context:
    helpers = [wire.Helper(one.task, one.served.ref.name, one.served.ref.version) for one in found.helpers]
    return wire.Context(found.part, found.text, helpers)
