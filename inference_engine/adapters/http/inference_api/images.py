"""POST /inference/image: JSON or a form in, labels, objects, descriptions and vectors out."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import convert, decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.forms import Form, form_of
from inference_engine.adapters.http.inference_api import wire_images as wire
from inference_engine.adapters.http.inference_api.bodies import check_files, is_form, single_fields, words
from inference_engine.adapters.http.inference_api.wire import ms, task_report
from inference_engine.adapters.http.media import inline
from inference_engine.domain.analysis import IMAGE_TASKS, AnalyzeImages, Findings, ImageAnalysis
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Call, ImagePart
from inference_engine.services.analysis.images import ImageAnalyzer

_DECODER = msgspec.json.Decoder(wire.ImageRequest)
_ENCODER = msgspec.json.Encoder()
_FILE = "file"
WORDS = {"tasks": IMAGE_TASKS}


class Images:
    """The endpoint, and the items of batches that are images."""

    def __init__(self, analyzer: ImageAnalyzer, calls: Calls) -> None:
        self._analyzer = analyzer
        self._calls = calls

    async def item(self, body: wire.ImageRequest, call: Call) -> wire.ImageAnswer:
        """The answer to one item of a batch. Raises `EngineError`."""
        return answer_of(await self._analyzer.analyze(of_json(body), call))

    async def analyze(self, exchange: Exchange) -> None:
        form = is_form(exchange)
        body = await (form_of(exchange) if form else exchange.body())
        with words(**WORDS):
            request = of_form(body) if isinstance(body, Form) else of_json(decode(_DECODER, body))
        call = self._calls.of(exchange)
        exchange.cancel_when_gone()
        found = await self._analyzer.analyze(request, call)
        headers = served_headers(found.reports[0].served) if len(found.reports) == 1 else ()
        await exchange.respond(200, _ENCODER.encode(answer_of(found)), headers=headers, compress=True)


def of_json(body: wire.ImageRequest) -> AnalyzeImages:
    """Raises `InvalidRequest`, `UnknownField`."""
    if (body.image is None) == (not body.images):
        raise InvalidRequest("send one image in image, or several in images, each in base64", param="images")
    if body.image is not None:
        return _request(body, (ImagePart(inline(body.image, "image")),))
    return _request(
        body, tuple([ImagePart(inline(text, f"images[{index}]")) for index, text in enumerate(body.images)])
    )


def of_form(form: Form) -> AnalyzeImages:
    """Raises `InvalidRequest`, `UnknownField`."""
    check_files(form, (_FILE,))
    if not form.files:
        raise InvalidRequest("file is missing: upload images as files of the form, each called file", param=_FILE)
    options = convert(_values(form), wire.ImageOptions, "", strict=False)
    return _request(options, tuple([ImagePart(upload.data) for upload in form.files[_FILE]]))


def _values(form: Form) -> dict[str, Any]:
    if "models" in form.fields:
        raise UnknownField("models cannot stand in a form: name one model, or send JSON", param="models")
    tasks = [word.strip() for text in form.fields.pop("tasks", ()) for word in text.split(",") if word.strip()]
    return {**single_fields(form), "tasks": tasks}


def _request(options: wire.ImageOptions, images: tuple[ImagePart, ...]) -> AnalyzeImages:
    return AnalyzeImages(
        images,
        (options.tasks,) if isinstance(options.tasks, str) else tuple(options.tasks),
        options.model,
        options.models,
        options.top_k,
        options.threshold,
        options.prompt,
        options.max_tokens,
    )


def answer_of(found: ImageAnalysis) -> wire.ImageAnswer:
    """The findings as they are written."""
    return wire.ImageAnswer(
        [_result(findings) for findings in found.images],
        {report.task: task_report(report) for report in found.reports},
        ms(found.latency_s),
    )


def _result(found: Findings) -> wire.ImageResult:
    made = wire.ImageResult()
    if found.width is not None and found.height is not None:
        made.width, made.height = found.width, found.height
    if found.labels is not None:
        made.labels = [wire.LabelScore(label.name, label.score) for label in found.labels]
    if found.objects is not None:
        made.objects = [wire.Object(one.label, one.score, one.box) for one in found.objects]
    if found.description is not None:
        made.description = found.description
    if found.embedding is not None:
        made.embedding = found.embedding.tolist()
    return made
