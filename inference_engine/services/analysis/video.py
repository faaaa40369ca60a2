"""Videos: what their pictures show, their scenes, the objects in them followed over time, and a summary of it all.

Pictures come from a `VideoReader`, sampled and scaled. Each is asked about as any image is (`images.py`), a few at a
time and behind the requests of others, so that a long video starves nobody. Whoever leaves the stream of events ends
the decoder.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, closing
from typing import NamedTuple

import msgspec
import numpy as np

from inference_engine.core.deadline import Deadline
from inference_engine.domain.analysis import (
    MAX_TOP_K,
    MODEL_TASKS,
    AnalyzeImages,
    Detection,
    ImageTask,
    Label,
    TaskReport,
)
from inference_engine.domain.errors import DeadlineExceeded, InvalidRequest, UnsupportedTask
from inference_engine.domain.requests import Call, Chat, ImagePart, Message, Part, Predict, Sampling, TextPart
from inference_engine.domain.results import Served
from inference_engine.domain.tensors import Array
from inference_engine.domain.video import (
    MAX_SIDE,
    FrameSize,
    OpenVideo,
    VideoFrame,
    VideoInfo,
    VideoReader,
    check_sampling,
)
from inference_engine.domain.video_analysis import (
    CLIP_TASK,
    AnalyzeVideo,
    FrameFindings,
    VideoAnalysis,
    VideoEvent,
    VideoOpened,
    VideoProgress,
    VideoTask,
)
from inference_engine.services.analysis.answering import whole
from inference_engine.services.analysis.choosing import served_for
from inference_engine.services.analysis.images import Found, ImageAnalyzer
from inference_engine.services.analysis.outputs import image_input, labels_of
from inference_engine.services.analysis.over_time import scenes_of, summary_of
from inference_engine.services.analysis.scenes import Look, cuts, difference, look_of
from inference_engine.services.analysis.together import together
from inference_engine.services.analysis.tracks import follow
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

IN_FLIGHT = 8
"""Pictures of one video that are asked about at once."""
TOLD_FRAMES = 4
"""Pictures that a vision-language model is shown of a video."""
_BEHIND = 1
"""How much later than its call's own priority a picture is served."""
_LEAST_SIDE = 16


class _Plan(NamedTuple):
    """What is done, and by which models. `clip` is a model that classifies the whole file."""

    tasks: frozenset[VideoTask]
    targets: Mapping[ImageTask, str]
    clip: str | None = None
    describe: str | None = None


class _Seen(NamedTuple):
    """What the models said of one picture, and what is kept of it."""

    frame: VideoFrame
    found: Mapping[ImageTask, Found]
    look: Look


class VideoAnalyzer:
    """Answers `AnalyzeVideo` with the models of a `ModelService`."""

    def __init__(
        self,
        models: ModelService,
        inference: InferenceService,
        images: ImageAnalyzer,
        reader: VideoReader,
        clock: Callable[[], float],
    ) -> None:
        self._models = models
        self._inference = inference
        self._images = images
        self._reader = reader
        self._clock = clock

    async def analyze(self, request: AnalyzeVideo, call: Call) -> VideoAnalysis:
        """All of it at once.

        Raises:
            InvalidRequest: no video, damaged, beyond the limits, or a value out of its range. ModelNotFound: there is
            no
                model for a task. UnsupportedTask: the named model cannot do it. Unavailable; DeadlineExceeded;
                ModelError.
        """
        async with aclosing(self.events(request, call)) as events:
            async for event in events:
                if isinstance(event, VideoAnalysis):
                    return event
        raise AssertionError("the last event is the analysis")

    async def events(self, request: AnalyzeVideo, call: Call) -> AsyncGenerator[VideoEvent]:
        """`VideoOpened`, a `VideoProgress` for each picture in order of time, and the `VideoAnalysis`.

        Closing it ends the decoder and what the models still compute. Raises what `analyze` does.
        """
        left_s = None if call.deadline_s is None else call.deadline_s - self._clock()
        with closing(Deadline(left_s)) as deadline:
            async with aclosing(self._events(request, call)) as events:
                while True:
                    try:
                        event = await deadline.wait(anext(events))
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        raise DeadlineExceeded("the video was not done within the deadline of this request") from None
                    yield event

    async def _events(self, request: AnalyzeVideo, call: Call) -> AsyncGenerator[VideoEvent]:
        started = self._clock()
        self.check(request)
        plan = await self._planned(request)
        behind = msgspec.structs.replace(call, priority=call.priority + _BEHIND)
        frames: list[FrameFindings] = []
        looks: list[Look] = []
        told = _Thinned(TOLD_FRAMES)
        work = _Work()
        size = FrameSize(max_side=request.max_side)
        async with self._reader.open(request.video, request.sampling, size, "video") as video:
            info = video.info
            yield VideoOpened(info, video.expected)
            async with aclosing(self._looked(video, plan, request, behind)) as seen:
                async for one in seen:
                    findings = _findings(one, info)
                    frames.append(findings)
                    looks.append(one.look)
                    if plan.describe is not None:
                        told.add(one.frame)
                    work.add(one.found)
                    yield VideoProgress(findings, min(1.0, round(len(frames) / video.expected, 4)))
            damaged = video.damaged
        found = cuts([difference(one, other) for one, other in itertools.pairwise(looks)])
        times_s = [frame.time_s for frame in frames]
        scenes = scenes_of(info, times_s, found)
        tracks = follow(times_s, [frame.objects or () for frame in frames], found) if "track" in plan.tasks else None
        labels = None
        description = None
        reports = work.reports()
        if plan.clip is not None:
            labels, report = await self._clip_labels(plan.clip, request, call)
            reports.append(report)
        if plan.describe is not None:
            description, report = await self._described(plan.describe, info, told.frames, request, call)
            reports.append(report)
        yield VideoAnalysis(
            info,
            damaged,
            tuple(frames),
            labels,
            scenes if "scenes" in plan.tasks else None,
            tracks,
            summary_of(info, frames, scenes, tracks) if "summarize" in plan.tasks else None,
            description,
            tuple(reports),
            self._clock() - started,
        )

    def check(self, request: AnalyzeVideo) -> None:
        """Refuse what can be refused without a model or a decoder. Raises `InvalidRequest`."""
        if request.top_k is not None and not 1 <= request.top_k <= MAX_TOP_K:
            raise InvalidRequest(f"top_k is {request.top_k}, it must lie between 1 and {MAX_TOP_K}", param="top_k")
        if request.threshold is not None and not math.isfinite(request.threshold):
            raise InvalidRequest("threshold must be a finite number", param="threshold")
        if not _LEAST_SIDE <= request.max_side <= MAX_SIDE:
            raise InvalidRequest(
                f"sample.max_side is {request.max_side}, it must lie between {_LEAST_SIDE} and {MAX_SIDE}",
                param="sample.max_side",
            )
        if request.model is not None and request.models:
            raise InvalidRequest("give either model, for all tasks, or models, by task", param="models")
        check_sampling(request.sampling, self._reader.limits, "sample")

    async def _planned(self, request: AnalyzeVideo) -> _Plan:
        """Raises `ModelNotFound`, `UnsupportedTask`, `InvalidRequest`."""
        if request.model is not None and self._word(request.model) == CLIP_TASK:
            return self._clip_plan(request)
        wanted = _image_tasks(request.tasks)
        named = request.model is not None or bool(request.models)
        if wanted or (named and not request.tasks):
            asked = AnalyzeImages((), wanted, request.model, request.models)
            targets = await self._images.targets(asked)
        elif named:
            raise InvalidRequest(
                f"no model is needed for {', '.join(request.tasks)}: leave it out, or ask for classify, detect or "
                "describe too",
                param="models" if request.models else "model",
            )
        elif not request.tasks or "summarize" in request.tasks:
            targets = self._available()
        else:
            targets = {}
        if "embed" in targets:
            raise UnsupportedTask("pictures of a video are not embedded: name a model that classifies or detects")
        tasks: set[VideoTask] = set(request.tasks)
        if not tasks:
            can: tuple[VideoTask, ...] = ("classify", "detect", "describe")
            tasks = {"scenes", "summarize", *(task for task in can if task in targets)}
            tasks |= {"track"} if "detect" in targets else set()
        describe = targets.get("describe")
        if describe is None and "summarize" in tasks:
            describe = self._loaded_describer()
        return _Plan(
            frozenset(tasks),
            {task: target for task, target in targets.items() if task != "describe"},
            describe=describe,
        )

    def _clip_plan(self, request: AnalyzeVideo) -> _Plan:
        others = set(request.tasks) - {"classify", "scenes", "summarize"}
        if others:
            raise UnsupportedTask(
                f"{request.model} does {CLIP_TASK}, not {', '.join(sorted(others))}: ask for that with another model",
                param="tasks",
            )
        return _Plan(frozenset(request.tasks or ("classify", "scenes")), {}, clip=request.model)

    def _available(self) -> dict[ImageTask, str]:
        kinds: tuple[ImageTask, ...] = ("classify", "detect")
        found = {task: served_for(self._models, MODEL_TASKS[task]) for task in kinds}
        return {task: target for task, target in found.items() if target is not None}

    def _loaded_describer(self) -> str | None:
        """A vision-language model, if one is loaded already: a summary is not worth loading one."""
        target = served_for(self._models, MODEL_TASKS["describe"])
        if target is None or not self._models.is_ready(self._models.resolve(target).ref):
            return None
        return target

    def _word(self, target: str) -> str:
        return self._models.stored(self._models.resolve(target).ref).manifest.task

    async def _looked(self, video: OpenVideo, plan: _Plan, request: AnalyzeVideo, call: Call) -> AsyncGenerator[_Seen]:
        """Every picture with what the models say of it, in order, `IN_FLIGHT` at once."""
        asked: deque[asyncio.Task[_Seen]] = deque()
        try:
            async with aclosing(video.frames()) as frames:
                async for frame in frames:
                    asked.append(asyncio.create_task(self._seen(frame, plan, request, call)))
                    if len(asked) >= IN_FLIGHT:
                        yield await asked[0]
                        asked.popleft()
            while asked:
                yield await asked[0]
                asked.popleft()
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _seen(self, frame: VideoFrame, plan: _Plan, request: AnalyzeVideo, call: Call) -> _Seen:
        look = look_of(frame.pixels)
        if not plan.targets:
            return _Seen(frame, {}, look)
        image = ImagePart(bitmap(frame.pixels), "image/bmp")
        try:
            found = await together(
                [
                    self._images.look(task, target, image, call, top_k=request.top_k, threshold=request.threshold)
                    for task, target in plan.targets.items()
                ]
            )
        except UnsupportedTask:
            raise
        except InvalidRequest as error:
            raise InvalidRequest(f"video, at {frame.time_s:g} s: {error.message}", param="video") from error
        return _Seen(frame, dict(zip(plan.targets, found, strict=True)), look)

    async def _clip_labels(
        self, target: str, request: AnalyzeVideo, call: Call
    ) -> tuple[tuple[Label, ...], TaskReport]:
        """What a model for whole videos says; it samples by its own pipeline."""
        started = self._clock()
        served = self._models.resolve(target)
        await self._models.ready(served.ref)
        signature = self._models.signature(served.ref)
        files = np.empty(1, dtype=object)
        files[0] = request.video
        try:
            made = await self._inference.predict(target, Predict({image_input(served.ref, signature): files}), call)
        except UnsupportedTask:
            raise
        except InvalidRequest as error:
            raise InvalidRequest(f"video: {error.message}", param="video") from error
        labels = labels_of(made.served.ref, made.outputs, signature, request.top_k, request.threshold)
        seconds = self._clock() - started
        return labels, TaskReport("classify", made.served, seconds, made.queue_s, made.compute_s)

    async def _described(
        self, target: str, info: VideoInfo, frames: Sequence[VideoFrame], request: AnalyzeVideo, call: Call
    ) -> tuple[str, TaskReport]:
        """What a vision-language model says to a few of the pictures."""
        served = self._models.resolve(target)
        loaded = await self._models.ready(served.ref)
        if "image" not in loaded.media:
            raise UnsupportedTask(
                f"{served.ref} does not take images, so it cannot describe a video: name a model of the task "
                "image-text-to-text",
                param="model",
            )
        started = self._clock()
        parts: list[Part] = [TextPart(f"{len(frames)} pictures of one video of {info.duration_s:.1f} seconds follow.")]
        for frame in frames:
            parts += [TextPart(f"At {frame.time_s:.1f} s:"), ImagePart(bitmap(frame.pixels), "image/bmp")]
        parts.append(TextPart(request.prompt))
        chat = Chat((Message("user", tuple(parts)),), Sampling(max_tokens=request.max_tokens))
        generation = await self._inference.generate(target, chat, call)
        answer = await whole(generation)
        seconds = self._clock() - started
        return answer.text, TaskReport("describe", generation.served, seconds, 0.0, seconds, answer.usage)


class _Thinned:
    """At most `most` of the pictures that are added, spread evenly, however many come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._every = 1
        self._count = 0
        self._kept: list[VideoFrame] = []

    def add(self, frame: VideoFrame) -> None:
        if self._count % self._every == 0:
            self._kept.append(frame)
            if len(self._kept) > 2 * self._most:
                self._kept = self._kept[::2]
                self._every *= 2
        self._count += 1

    @property
    def frames(self) -> list[VideoFrame]:
        count = min(self._most, len(self._kept))
        return [self._kept[(2 * place + 1) * len(self._kept) // (2 * count)] for place in range(count)]


class _Work:
    """What the models took, over all pictures."""

    def __init__(self) -> None:
        self._served: dict[ImageTask, Served] = {}
        self._queue_s: dict[ImageTask, float] = {}
        self._compute_s: dict[ImageTask, float] = {}

    def add(self, found: Mapping[ImageTask, Found]) -> None:
        for task, one in found.items():
            self._served[task] = one.served
            self._queue_s[task] = self._queue_s.get(task, 0.0) + one.queue_s
            self._compute_s[task] = self._compute_s.get(task, 0.0) + one.compute_s

    def reports(self) -> list[TaskReport]:
        return [
            TaskReport(
                task, served, self._queue_s[task] + self._compute_s[task], self._queue_s[task], self._compute_s[task]
            )
            for task, served in self._served.items()
        ]


def _image_tasks(tasks: Sequence[VideoTask]) -> tuple[ImageTask, ...]:
    """What single pictures must be asked for these tasks."""
    wanted: dict[ImageTask, set[VideoTask]] = {
        "classify": {"classify"},
        "detect": {"detect", "track"},
        "describe": {"describe"},
    }
    return tuple([task for task, words in wanted.items() if words & set(tasks)])


def _findings(seen: _Seen, info: VideoInfo) -> FrameFindings:
    """With boxes in pixels of the upright original."""
    labels = seen.found["classify"].findings.labels if "classify" in seen.found else None
    objects = seen.found["detect"].findings.objects if "detect" in seen.found else None
    if objects is not None:
        height, width = seen.frame.pixels.shape[:2]
        across, down = info.width / width, info.height / height
        objects = tuple([_scaled(one, across, down) for one in objects])
    return FrameFindings(seen.frame.index, seen.frame.time_s, labels, objects)


def _scaled(found: Detection, across: float, down: float) -> Detection:
    x0, y0, x1, y1 = found.box
    box = (round(x0 * across, 2), round(y0 * down, 2), round(x1 * across, 2), round(y1 * down, 2))
    return Detection(found.label, found.score, box)


def bitmap(pixels: Array) -> bytes:
    """uint8 RGB [height, width, 3] as a BMP file (24 bits, top row first): models take files, and this one costs
    nothing."""
    height, width = pixels.shape[:2]
    row = (width * 3 + 3) // 4 * 4
    rows = np.zeros((height, row), np.uint8)
    rows[:, : width * 3] = pixels[..., ::-1].reshape(height, width * 3)
    size = 54 + rows.nbytes
    head = b"BM" + b"".join(
        number.to_bytes(length, "little", signed=True)
        for number, length in (
            (size, 4),
            (0, 4),
            (54, 4),
            (40, 4),
            (width, 4),
            (-height, 4),
            (1, 2),
            (24, 2),
            (0, 4),
            (rows.nbytes, 4),
            (2835, 4),
            (2835, 4),
            (0, 4),
            (0, 4),
        )
    )
    return head + rows.tobytes()
