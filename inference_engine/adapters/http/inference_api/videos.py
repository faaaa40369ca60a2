"""POST /inference/video: JSON or a form in; pictures, scenes, tracks and a summary out, whole or as they are found."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, TypeVar, cast

import msgspec
from msgspec import UNSET

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.decoding import convert, decode
from inference_engine.adapters.http.endpoints import Doc, Endpoint
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.forms import Form, form_of
from inference_engine.adapters.http.inference_api import video_examples as examples
from inference_engine.adapters.http.inference_api import wire_videos as wire
from inference_engine.adapters.http.inference_api.bodies import check_files, is_form, single_fields, words
from inference_engine.adapters.http.inference_api.streams import event, problem
from inference_engine.adapters.http.inference_api.wire import ms, task_report
from inference_engine.adapters.http.inference_api.wire_images import LabelScore, Object
from inference_engine.adapters.http.inference_api.wire_texts import ErrorEvent
from inference_engine.adapters.http.media import inline
from inference_engine.domain.analysis import Detection, ImageTask, Label
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Call
from inference_engine.domain.video import VideoInfo, VideoSampling
from inference_engine.domain.video_analysis import (
    VIDEO_TASKS,
    AnalyzeVideo,
    FrameFindings,
    ObjectOverTime,
    Summary,
    Track,
    VideoAnalysis,
    VideoOpened,
    VideoProgress,
)
from inference_engine.services.analysis.video import VideoAnalyzer

_DECODER = msgspec.json.Decoder(wire.VideoRequest)
_SAMPLE = msgspec.json.Decoder(wire.Sample)
_ENCODER = msgspec.json.Encoder()
_FILE = "file"
WORDS = {"tasks": VIDEO_TASKS}
_ERRORS = (400, 401, 404, 413, 415, 429, 500, 501, 503, 504)
Answer = TypeVar("Answer", wire.VideoAnswer, wire.ResultEvent)


def endpoint(analyzer: VideoAnalyzer, calls: Calls) -> Endpoint:
    """The route, with what the documentation says of it."""
    doc = Doc(
        "Look into a video: pictures, scenes, objects followed over time, a summary",
        "A video in base64, as a data URL, or as the file of a form. With `stream` the answer is server-sent events: "
        "one of type video, one of type frame for each picture, then one of type result, or error.",
        wire.VideoRequest,
        examples.VIDEO,
        wire.VideoAnswer,
        examples.VIDEO_ANSWER,
        errors=_ERRORS,
        form=wire.VideoForm,
    )
    return Endpoint("POST", "/inference/video", Videos(analyzer, calls).analyze, doc, hot=True)


class Videos:
    """The endpoint, and the items of batches that are videos."""

    def __init__(self, analyzer: VideoAnalyzer, calls: Calls) -> None:
        self._analyzer = analyzer
        self._calls = calls

    async def item(self, body: wire.VideoRequest, call: Call) -> wire.VideoAnswer:
        """The answer to one item of a batch. Raises `EngineError`."""
        if body.stream:
            raise UnknownField("stream is not for one item: stream the whole batch, or leave it out", param="stream")
        return answer_of(await self._analyzer.analyze(of_json(body), call), wire.VideoAnswer)

    async def analyze(self, exchange: Exchange) -> None:
        form = is_form(exchange)
        body = await (form_of(exchange) if form else exchange.body())
        with words(**WORDS):
            request, streamed = of_form(body) if isinstance(body, Form) else _of_body(body)
        call = self._calls.of(exchange)
        exchange.cancel_when_gone()
        if streamed:
            await self._stream(exchange, request, call)
            return
        found = await self._analyzer.analyze(request, call)
        await exchange.respond(200, _ENCODER.encode(answer_of(found, wire.VideoAnswer)), compress=True)

    async def _stream(self, exchange: Exchange, request: AnalyzeVideo, call: Call) -> None:
        """An error before the video is opened is an HTTP error, a later one the last event."""
        async with aclosing(self._analyzer.events(request, call)) as events:
            first = await anext(events)
            await exchange.start_events()
            try:
                await exchange.send_events(event(_event(first)))
                async for found in events:
                    await exchange.send_events(event(_event(found)))
            except Exception as error:  # whatever it was, the client must not take the part for the whole
                await exchange.end_events(event(ErrorEvent(problem(exchange, error))))
                return
            await exchange.end_events()


def _of_body(body: bytes | memoryview) -> tuple[AnalyzeVideo, bool]:
    read = decode(_DECODER, body)
    return of_json(read), read.stream


def of_json(body: wire.VideoRequest) -> AnalyzeVideo:
    """Raises `InvalidRequest`, `UnknownField`."""
    return _request(body, inline(body.video, "video"))


def of_form(form: Form) -> tuple[AnalyzeVideo, bool]:
    """The request, and whether it is to be streamed. Raises `InvalidRequest`, `UnknownField`."""
    check_files(form, (_FILE,))
    data = form.file(_FILE).data
    if "models" in form.fields:
        raise UnknownField("models cannot stand in a form: name one model, or send JSON", param="models")
    tasks = [word.strip() for text in form.fields.pop("tasks", ()) for word in text.split(",") if word.strip()]
    values: dict[str, Any] = {**single_fields(form), "tasks": tasks}
    if "sample" in values:
        values["sample"] = _sample(values["sample"])
    options = convert(values, wire.VideoOptions, "", strict=False)
    return _request(options, data), options.stream


def _sample(text: str) -> dict[str, Any]:
    """The JSON in the form's field `sample`, whose own fields keep their names in errors."""
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest('sample must be JSON, such as {"every_s": 0.5}', param="sample")
    return found


def _request(options: wire.VideoOptions, data: bytes) -> AnalyzeVideo:
    sample = options.sample
    return AnalyzeVideo(
        data,
        (options.tasks,) if isinstance(options.tasks, str) else tuple(options.tasks),
        options.model,
        cast("dict[ImageTask, str]", options.models),
        VideoSampling(sample.every_s, sample.count, sample.keyframes, sample.max_frames),
        sample.max_side,
        options.top_k,
        options.threshold,
        options.prompt,
        options.max_tokens,
    )


def _event(found: VideoOpened | VideoProgress | VideoAnalysis) -> msgspec.Struct:
    if isinstance(found, VideoOpened):
        return wire.VideoEvent(_info(found.info), found.expected)
    if isinstance(found, VideoProgress):
        frame = _frame(found.findings)
        return wire.FrameEvent(frame.index, frame.time_s, frame.labels, frame.objects, progress=found.progress)
    made = answer_of(found, wire.ResultEvent)
    made.frames = UNSET
    return made


def answer_of(found: VideoAnalysis, kind: type[Answer]) -> Answer:
    """The findings as they are written."""
    made = kind(
        _info(found.info),
        len(found.frames),
        {report.task: task_report(report) for report in found.reports if report.task != "embed"},
        ms(found.latency_s),
        found.damaged,
    )
    if any(frame.labels is not None or frame.objects is not None for frame in found.frames):
        made.frames = [_frame(frame) for frame in found.frames]
    if found.labels is not None:
        made.labels = _labels(found.labels)
    if found.scenes is not None:
        made.scenes = [wire.SceneResult(one.start_s, one.end_s, one.first, one.last) for one in found.scenes]
    if found.tracks is not None:
        made.tracks = [_track(track) for track in found.tracks]
    if found.summary is not None:
        made.summary = _summary(found.summary)
    if found.description is not None:
        made.description = found.description
    return made


def _info(info: VideoInfo) -> wire.Info:
    return wire.Info(**msgspec.structs.asdict(info))


def _frame(found: FrameFindings) -> wire.FrameResult:
    made = wire.FrameResult(found.index, found.time_s)
    if found.labels is not None:
        made.labels = _labels(found.labels)
    if found.objects is not None:
        made.objects = [_object(one) for one in found.objects]
    return made


def _labels(labels: tuple[Label, ...]) -> list[LabelScore]:
    return [LabelScore(label.name, label.score) for label in labels]


def _object(found: Detection) -> Object:
    return Object(found.label, found.score, found.box)


def _track(track: Track) -> wire.TrackResult:
    places = [wire.Place(one.index, one.time_s, one.score, one.box) for one in track.sightings]
    return wire.TrackResult(track.id, track.label, places[0].time_s, places[-1].time_s, places)


def _summary(found: Summary) -> wire.SummaryResult:
    made = wire.SummaryResult([])
    for scene in found.scenes:
        content = wire.SceneSummary(scene.start_s, scene.end_s)
        if scene.label is not None:
            content.label = scene.label
        if found.objects is not None:
            content.objects = dict(scene.objects)
        made.scenes.append(content)
    if found.labels is not None:
        made.labels = [wire.LabelSummary(one.label, one.share, one.score, list(one.spans)) for one in found.labels]
    if found.objects is not None:
        made.objects = [_kind(one) for one in found.objects]
    return made


def _kind(found: ObjectOverTime) -> wire.ObjectSummary:
    made = wire.ObjectSummary(found.label, found.share, found.most, list(found.spans))
    if found.tracks is not None:
        made.tracks = found.tracks
    return made
