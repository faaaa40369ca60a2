"""Videos over fakes: what is asked of which model, how many at once, what comes of it over time, and how it ends."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from inference_engine.domain.errors import DeadlineExceeded, InvalidRequest, ModelNotFound, UnsupportedTask
from inference_engine.domain.model import Execution, Signature, TensorSpec
from inference_engine.domain.requests import Call, Chat, ImagePart, Predict, Principal, TextPart
from inference_engine.domain.results import Prediction
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.domain.video import FrameSize, VideoFrame, VideoInfo, VideoLimits, VideoSampling
from inference_engine.domain.video_analysis import (
    CLIP_TASK,
    AnalyzeVideo,
    Scene,
    VideoAnalysis,
    VideoOpened,
    VideoProgress,
)
from inference_engine.services.analysis.images import ImageAnalyzer
from inference_engine.services.analysis.over_time import spans_of
from inference_engine.services.analysis.video import IN_FLIGHT, TOLD_FRAMES, VideoAnalyzer, bitmap
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService
from inference_engine.testing import FakeClock, FakeExecutor, FakeExecutors, FakeRepository, FakeRoutes, manifest
from inference_engine.testing import RecordingTelemetry as Telemetry

CALL = Call("1", Principal("default", "local"))
WIDE = 4
"""The video is so many times as wide and high as its sampled pictures."""


def of_files(*outputs: TensorSpec) -> Signature:
    return Signature((TensorSpec("pixels", "bytes", (-1,)),), outputs)


SORTER = of_files(TensorSpec("labels", "bytes", (-1, 2)), TensorSpec("scores", "float32", (-1, 2)))
FINDER = of_files(
    TensorSpec("boxes", "float32", (-1, 1, 4)),
    TensorSpec("scores", "float32", (-1, 1)),
    TensorSpec("labels", "bytes", (-1, 1)),
)


def pixels_of(files: Array) -> list[Array]:
    return [np.asarray(Image.open(io.BytesIO(file))) for file in files]


def sort(batch: Tensors) -> dict[str, Any]:
    """`night` where the upper left corner is dark."""
    rows = [[b"night", b"day"] if image[0, 0, 2] < 100 else [b"day", b"night"] for image in pixels_of(batch["pixels"])]
    return {"labels": np.array(rows, object), "scores": np.tile(np.array([0.8, 0.2], np.float32), (len(rows), 1))}


def find(batch: Tensors) -> dict[str, Any]:
    """The one red spot, called `ball`; an empty place where there is none."""
    boxes, labels = [], []
    for image in pixels_of(batch["pixels"]):
        ys, xs = np.nonzero((image[..., 0] > 200) & (image[..., 1] < 50))
        boxes.append([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else [[0, 0, 0, 0]])
        labels.append([b"ball" if len(xs) else b""])
    scores = np.full((len(boxes), 1), 0.9, np.float32)
    return {"boxes": np.array(boxes, np.float32), "scores": scores, "labels": np.array(labels, object)}


def pictures(count: int = 12, cut: int = 6, hidden: tuple[int, ...] = ()) -> list[Array]:
    """A red ball of 8 x 8 that moves by 4 pixels each time, first by day and from `cut` on by night."""
    made = []
    for index in range(count):
        picture = np.full((40, 80, 3), (200, 220, 255) if index < cut else (10, 20, 40), np.uint8)
        if index not in hidden:
            picture[16:24, 4 * index : 4 * index + 8] = (255, 0, 0)
        made.append(picture)
    return made


class FakeReader:
    """`VideoReader` of given pictures, two a second. `ended` is set when the context was left."""

    def __init__(self, made: list[Array]) -> None:
        self.pictures = made
        self.limits = VideoLimits()
        self.given = 0
        self.ended = asyncio.Event()

    @asynccontextmanager
    async def open(self, data: bytes, sampling: VideoSampling, size: FrameSize, field: str) -> AsyncGenerator[Any]:
        if data != b"video":
            raise InvalidRequest(f"{field} holds no video", param=field)
        try:
            yield self
        finally:
            self.ended.set()

    @property
    def info(self) -> VideoInfo:
        height, width = self.pictures[0].shape[:2]
        count = len(self.pictures)
        return VideoInfo("mov", "h264", width * WIDE, height * WIDE, 30.0, count / 2, count * 15)

    @property
    def expected(self) -> int:
        return len(self.pictures)

    damaged = 0

    async def frames(self) -> AsyncGenerator[VideoFrame]:
        for index, picture in enumerate(self.pictures):
            self.given += 1
            yield VideoFrame(index, index / 2, picture)


class NotingInference(InferenceService):
    """Remembers the priorities it was asked with."""

    priorities: set[int]

    async def predict(self, target: str, request: Predict, call: Call) -> Prediction:
        self.__dict__.setdefault("priorities", set()).add(call.priority)
        return await super().predict(target, request, call)


class Bench:
    """An analyzer over a fake video and fake models."""

    def __init__(self, *tasks: str, made: list[Array] | None = None) -> None:
        self.sorter = FakeExecutor(SORTER, compute=sort)
        self.finder = FakeExecutor(FINDER, compute=find)
        self.seer = FakeExecutor(kinds=("chat",), words=("A ball", " rolls."), media=("image",))
        self.clip = FakeExecutor(
            SORTER, compute=lambda batch: sort({"pixels": np.array([bitmap(pictures()[0])], object)})
        )
        known = {
            "image-classification": ("sorter", SORTER, self.sorter),
            "object-detection": ("finder", FINDER, self.finder),
            "image-text-to-text": ("seer", None, self.seer),
            CLIP_TASK: ("clip", SORTER, self.clip),
        }
        chosen = {task: known[task] for task in tasks}
        self.clock = FakeClock()
        self.models = ModelService(
            FakeRepository(
                *(
                    manifest(name, signature=signature, task=task, execution=Execution(max_batch_size=64))
                    for task, (name, signature, _) in chosen.items()
                )
            ),
            FakeExecutors({f"{name}:1": executor for name, _, executor in chosen.values()}),
            FakeRoutes(),
            Telemetry(),
            self.clock,
        )
        self.inference = NotingInference(self.models, Telemetry(), self.clock)
        images = ImageAnalyzer(self.models, self.inference, self.clock)
        self.reader = FakeReader(pictures() if made is None else made)
        self.videos = VideoAnalyzer(self.models, self.inference, images, self.reader, self.clock)

    async def analyze(self, *tasks: str, **options: Any) -> VideoAnalysis:
        request = AnalyzeVideo(b"video", tasks, **options)  # type: ignore[arg-type]
        return await self.videos.analyze(request, CALL)


@asynccontextmanager
async def bench_of(*tasks: str, made: list[Array] | None = None) -> AsyncIterator[Bench]:
    made_bench = Bench(*tasks, made=made)
    await made_bench.models.open()
    yield made_bench
    await made_bench.models.close()


BOTH = ("image-classification", "object-detection")


async def test_everything_there_are_models_for_is_done_unasked() -> None:
    async with bench_of(*BOTH) as bench:
        found = await bench.analyze()
        assert [frame.time_s for frame in found.frames] == [index / 2 for index in range(12)]
        assert [frame.labels[0].name for frame in found.frames if frame.labels] == ["day"] * 6 + ["night"] * 6
        first = found.frames[1].objects
        assert first is not None
        assert first[0].box == (4 * WIDE, 16 * WIDE, 12 * WIDE, 24 * WIDE)  # in pixels of the original
        assert found.scenes == (Scene(0.0, 3.0, 0, 5), Scene(3.0, 6.0, 6, 11))
        assert found.tracks is not None
        assert [(track.id, track.label, len(track.sightings)) for track in found.tracks] == [
            (1, "ball", 6),
            (2, "ball", 6),
        ]
        assert found.summary is not None
        assert [(one.label, one.share, one.spans) for one in found.summary.labels or ()] == [
            ("day", 0.5, ((0.0, 3.0),)),
            ("night", 0.5, ((3.0, 6.0),)),
        ]
        (ball,) = found.summary.objects or ()
        assert (ball.label, ball.share, ball.most, ball.tracks, ball.spans) == ("ball", 1.0, 1, 2, ((0.0, 6.0),))
        assert [(scene.label, scene.objects) for scene in found.summary.scenes] == [
            ("day", {"ball": 1}),
            ("night", {"ball": 1}),
        ]
        assert found.description is None
        assert {report.task: report.served.ref.name for report in found.reports} == {
            "classify": "sorter",
            "detect": "finder",
        }


async def test_only_what_is_asked_is_done() -> None:
    async with bench_of(*BOTH) as bench:
        found = await bench.analyze("scenes")
        assert found.scenes is not None
        assert found.reports == ()
        assert found.frames[0].labels is None
        assert found.frames[0].objects is None
        assert (found.tracks, found.summary, found.labels, found.description) == (None, None, None, None)
        tracked = await bench.analyze("track")
        assert [report.task for report in tracked.reports] == ["detect"]
        assert tracked.tracks
        assert tracked.scenes is None


async def test_without_any_model_there_are_scenes_and_a_summary() -> None:
    async with bench_of() as bench:
        found = await bench.analyze()
        assert len(found.scenes or ()) == 2
        assert found.summary is not None
        assert (found.summary.labels, found.summary.objects) == (None, None)
        with pytest.raises(ModelNotFound, match="object-detection") as error:
            await bench.analyze("track")
        assert error.value.param == "model"


async def test_a_hidden_object_keeps_its_track() -> None:
    async with bench_of(*BOTH, made=pictures(cut=99, hidden=(4, 8))) as bench:
        found = await bench.analyze("track", "summarize")
        assert [(track.id, len(track.sightings)) for track in found.tracks or ()] == [(1, 10)]
        assert found.summary is not None
        assert (found.summary.objects or ())[0].spans == ((0.0, 2.0), (2.5, 4.0), (4.5, 6.0))


async def test_events_come_in_order_with_their_progress() -> None:
    async with bench_of(*BOTH) as bench:
        async with aclosing(bench.videos.events(AnalyzeVideo(b"video"), CALL)) as events:
            found = [event async for event in events]
        assert isinstance(found[0], VideoOpened)
        assert isinstance(found[-1], VideoAnalysis)
        progress = [event for event in found if isinstance(event, VideoProgress)]
        assert [event.findings.index for event in progress] == list(range(12))
        assert [event.progress for event in progress] == pytest.approx(
            [(index + 1) / 12 for index in range(12)], abs=1e-3
        )


async def test_few_pictures_are_in_flight_and_leaving_ends_all() -> None:
    async with bench_of(*BOTH, made=pictures(60)) as bench:
        bench.finder.hold = 0
        events = bench.videos.events(AnalyzeVideo(b"video", ("detect",)), CALL)
        assert isinstance(await anext(events), VideoOpened)
        waiting = asyncio.ensure_future(anext(events))
        await bench.finder.waiting.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert bench.reader.given == IN_FLIGHT
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await events.aclose()
        await asyncio.wait_for(bench.reader.ended.wait(), 1)
        assert bench.models.statuses()[0].in_flight == 0


async def test_others_go_first() -> None:
    """A picture waits behind a request of the same call's priority."""
    async with bench_of("object-detection") as bench:
        await bench.analyze("detect")
        assert bench.inference.priorities == {CALL.priority + 1}


async def test_the_deadline_of_the_call_ends_it() -> None:
    async with bench_of(*BOTH) as bench:
        bench.finder.hold = 0
        late = msgspec.structs.replace(CALL, deadline_s=bench.clock() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await bench.videos.analyze(AnalyzeVideo(b"video", ("detect",)), late)
        await asyncio.wait_for(bench.reader.ended.wait(), 1)


async def test_a_model_that_sees_is_shown_a_few_pictures() -> None:
    async with bench_of("image-text-to-text") as bench:
        found = await bench.analyze("describe", prompt="What rolls?", max_tokens=9)
        assert found.description == "A ball rolls."
        (asked,) = bench.seer.requests
        assert isinstance(asked, Chat)
        assert asked.sampling.max_tokens == 9
        (message,) = asked.messages
        images = [part for part in message.content if isinstance(part, ImagePart)]
        texts = [part.text for part in message.content if isinstance(part, TextPart)]
        assert len(images) == TOLD_FRAMES
        assert texts == [
            "4 pictures of one video of 6.0 seconds follow.",
            "At 0.0 s:",
            "At 2.0 s:",
            "At 3.0 s:",
            "At 5.0 s:",
            "What rolls?",
        ]
        shown = pixels_of(np.array([image.data for image in images], object))
        assert all((one == pictures()[place]).all() for one, place in zip(shown, (0, 4, 6, 10), strict=True))
        assert [report.task for report in found.reports] == ["describe"]


async def test_a_summary_is_described_only_by_a_model_that_is_loaded() -> None:
    async with bench_of("image-text-to-text") as bench:
        assert (await bench.analyze("summarize")).description is None
        await bench.models.ready(bench.models.resolve("seer").ref)
        assert (await bench.analyze("summarize")).description == "A ball rolls."


async def test_a_model_for_clips_gets_the_whole_file() -> None:
    async with bench_of(CLIP_TASK) as bench:
        found = await bench.analyze(model="clip", top_k=1)
        assert [label.name for label in found.labels or ()] == ["day"]
        assert len(found.scenes or ()) == 2
        with pytest.raises(UnsupportedTask, match="not track"):
            await bench.analyze("track", model="clip")


async def test_a_named_model_does_what_it_can() -> None:
    async with bench_of(*BOTH) as bench:
        found = await bench.analyze(model="finder")
        assert [report.task for report in found.reports] == ["detect"]
        assert found.tracks
        with pytest.raises(UnsupportedTask, match="does object-detection"):
            await bench.analyze("classify", model="finder")


@pytest.mark.parametrize(
    ("tasks", "options", "param", "text"),
    [
        ((), {"top_k": 0}, "top_k", "between 1 and"),
        ((), {"threshold": float("inf")}, "threshold", "a finite number"),
        ((), {"max_side": 8}, "sample.max_side", "between 16 and"),
        ((), {"sampling": VideoSampling(every_s=0.0)}, "sample.every_s", "between 0.001 and 3600 seconds"),
        ((), {"sampling": VideoSampling(count=0)}, "sample.count", "between 1 and 1000"),
        ((), {"sampling": VideoSampling(max_frames=5000)}, "sample.max_frames", "between 1 and 1000"),
        ((), {"sampling": VideoSampling(every_s=1.0, count=3)}, "sample", "one of every_s, count and keyframes"),
        ((), {"model": "a", "models": {"detect": "b"}}, "models", "either model"),
        (("scenes",), {"model": "finder"}, "model", "no model is needed for scenes"),
        (("detect",), {"models": {"classify": "sorter"}}, "models.classify", "not among tasks"),
    ],
)
async def test_what_cannot_be_honoured(tasks: tuple[str, ...], options: dict[str, Any], param: str, text: str) -> None:
    async with bench_of(*BOTH) as bench:
        with pytest.raises(InvalidRequest, match=text) as error:
            await bench.analyze(*tasks, **options)
        assert error.value.param == param


async def test_what_is_no_video() -> None:
    async with bench_of() as bench:
        with pytest.raises(InvalidRequest, match="no video") as error:
            await bench.videos.analyze(AnalyzeVideo(b"else"), CALL)
        assert error.value.param == "video"


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (7, 2)])
def test_bitmaps(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    (back,) = pixels_of(np.array([bitmap(pixels)], object))
    np.testing.assert_array_equal(back, pixels)


def test_spans() -> None:
    times = [0.0, 1.0, 2.0, 3.0]
    assert spans_of([0, 1, 3], times, 3.5) == ((0.0, 2.0), (3.0, 3.5))
    assert spans_of([], times, 3.5) == ()
