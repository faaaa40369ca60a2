"""Images: classified, searched for objects, described and embedded, by whichever served models can do it.

Checks files by their headers, chooses models by task, and asks `InferenceService` once for each image and task, so that
images of all requests share batches. Decodes nothing: that is the models' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from inference_engine.domain.analysis import (
    DEFAULT_PROMPT,
    IMAGE_TASKS,
    MAX_TOP_K,
    MODEL_TASKS,
    AnalyzeImages,
    Findings,
    ImageAnalysis,
    ImageTask,
    TaskReport,
)
from inference_engine.domain.errors import InvalidRequest, UnsupportedTask
from inference_engine.domain.images import MAX_BYTES, MAX_PIXELS, ImageHead, checked_head
from inference_engine.domain.requests import Call, Chat, ImagePart, Message, Predict, Sampling, TextPart
from inference_engine.domain.results import Served, Usage
from inference_engine.services.analysis.answering import whole
from inference_engine.services.analysis.choosing import needed_for, served_for
from inference_engine.services.analysis.outputs import image_input, labels_of, objects_of, vector_of
from inference_engine.services.analysis.together import together
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

_FIELDS = frozenset(AnalyzeImages.__struct_fields__)
_UNASKED: tuple[ImageTask, ...] = ("classify", "detect")


class ImageLimits(msgspec.Struct, frozen=True):
    """What is taken: images in one request, and bytes and pixels of each."""

    max_images: int = 32
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS


class Found(msgspec.Struct, frozen=True):
    """What one model found in one image, and what it took. `usage` counts tokens, where there are any."""

    findings: Findings
    served: Served
    queue_s: float = 0.0
    compute_s: float = 0.0
    usage: Usage | None = None


class ImageAnalyzer:
    """Answers `AnalyzeImages` with the models of a `ModelService`."""

    def __init__(
        self,
        models: ModelService,
        inference: InferenceService,
        clock: Callable[[], float],
        limits: ImageLimits | None = None,
    ) -> None:
        self.limits = limits or ImageLimits()
        self._models = models
        self._inference = inference
        self._clock = clock

    async def analyze(self, request: AnalyzeImages, call: Call) -> ImageAnalysis:
        """Do all tasks for all images. One image that cannot be analysed fails the request; the error names it.

        Raises:
            InvalidRequest: an image is none, too large or damaged, or a value is out of its range.
            ModelNotFound: there is no model for a task; the error says how to add one. UnsupportedTask: the named
                model cannot do it. Unavailable; DeadlineExceeded; ModelError.
        """
        started = self._clock()
        heads = self.check(request)
        targets = await self.targets(request)
        done = await together([self._all(task, target, request, call) for task, target in targets.items()])
        findings = [
            _merged(head, [one.findings for one in row])
            for head, row in zip(heads, zip(*(found for found, _ in done), strict=True), strict=True)
        ]
        reports = [_report(task, found, seconds) for task, (found, seconds) in zip(targets, done, strict=True)]
        return ImageAnalysis(tuple(findings), tuple(reports), self._clock() - started)

    def check(self, request: AnalyzeImages) -> list[ImageHead]:
        """Refuse what can be refused without a model, and give the images' headers. Raises `InvalidRequest`."""
        limits = self.limits
        if not request.images:
            raise InvalidRequest("images is empty: send at least one image", param="images")
        if len(request.images) > limits.max_images:
            raise InvalidRequest(
                f"{len(request.images)} images came, at most {limits.max_images} are taken: send several requests",
                param="images",
            )
        if request.top_k is not None and not 1 <= request.top_k <= MAX_TOP_K:
            raise InvalidRequest(f"top_k is {request.top_k}, it must lie between 1 and {MAX_TOP_K}", param="top_k")
        if request.threshold is not None and not math.isfinite(request.threshold):
            raise InvalidRequest("threshold must be a finite number", param="threshold")
        if request.model is not None and request.models:
            raise InvalidRequest("give either model, for all tasks, or models, by task", param="models")
        return [
            checked_head(image.data, f"images[{index}]", limits.max_bytes, limits.max_pixels)
            for index, image in enumerate(request.images)
        ]

    async def targets(self, request: AnalyzeImages) -> dict[ImageTask, str]:
        """The model for each task that is to be done. Raises `ModelNotFound`, `UnsupportedTask`, `InvalidRequest`."""
        if request.model is not None:
            wanted = request.tasks or await self._can(request.model)
            return dict.fromkeys(_in_order(wanted), request.model)
        tasks = request.tasks or tuple(request.models)
        if not tasks:
            found = {task: served_for(self._models, MODEL_TASKS[task]) for task in _UNASKED}
            there = {task: target for task, target in found.items() if target is not None}
            return there or {"classify": needed_for(self._models, MODEL_TASKS["classify"], "model")}
        for task in request.models:
            if task not in tasks:
                raise InvalidRequest(f"models names one for {task}, which is not among tasks", param=f"models.{task}")
        return {
            task: request.models.get(task) or needed_for(self._models, MODEL_TASKS[task], "model")
            for task in _in_order(tasks)
        }

    async def _can(self, target: str) -> tuple[ImageTask, ...]:
        """What a named model does with images. Raises `UnsupportedTask`."""
        ref = self._models.resolve(target).ref
        word = self._models.stored(ref).manifest.task
        can = tuple([task for task in IMAGE_TASKS if word in MODEL_TASKS[task]])
        if can:
            return can
        if "image" in (await self._models.ready(ref)).media:
            return ("describe",)
        raise UnsupportedTask(
            f"{ref} has the task {word!r}: models for images have one of "
            f"{', '.join(MODEL_TASKS[task][0] for task in IMAGE_TASKS)} as task in model.yaml; or say what it "
            "is to do, in tasks",
            param="model",
        )

    async def _all(self, task: ImageTask, target: str, request: AnalyzeImages, call: Call) -> tuple[list[Found], float]:
        """One task for all images, and how long it took."""
        started = self._clock()
        found = await together(
            [self._named(index, task, target, image, request, call) for index, image in enumerate(request.images)]
        )
        return found, self._clock() - started

    async def _named(
        self, index: int, task: ImageTask, target: str, image: ImagePart, request: AnalyzeImages, call: Call
    ) -> Found:
        """What is wrong with an image is told with its place."""
        try:
            return await self.look(
                task,
                target,
                image,
                call,
                top_k=request.top_k,
                threshold=request.threshold,
                prompt=request.prompt,
                max_tokens=request.max_tokens,
            )
        except UnsupportedTask:
            raise
        except InvalidRequest as error:
            if error.param in _FIELDS:
                raise
            raise type(error)(f"images[{index}]: {error.message}", param=f"images[{index}]") from error

    async def look(
        self,
        task: ImageTask,
        target: str,
        image: ImagePart,
        call: Call,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        prompt: str = DEFAULT_PROMPT,
        max_tokens: int | None = None,
    ) -> Found:
        """One task for one image with one model. The image's header must have been checked.

        Raises what `analyze` does.
        """
        if task == "describe":
            return await self._described(target, image, prompt, max_tokens, call)
        served = self._models.resolve(target)
        self._check_task(served, task)
        await self._models.ready(served.ref)
        signature = self._models.signature(served.ref)
        files = np.empty(1, dtype=object)
        files[0] = image.data
        request = Predict({image_input(served.ref, signature): files})
        made = await self._inference.predict(target, request, call)
        ref, outputs = made.served.ref, made.outputs
        if task == "classify":
            findings = Findings(labels=labels_of(ref, outputs, signature, top_k, threshold))
        elif task == "detect":
            findings = Findings(objects=objects_of(ref, outputs, top_k, threshold))
        else:
            findings = Findings(embedding=vector_of(ref, outputs))
        return Found(findings, made.served, made.queue_s, made.compute_s)

    def _check_task(self, served: Served, task: ImageTask) -> None:
        """A model that says it does something else is not asked."""
        word = self._models.stored(served.ref).manifest.task
        if word and word not in MODEL_TASKS[task]:
            raise UnsupportedTask(
                f"{served.ref} does {word}, not {MODEL_TASKS[task][0]}: name another model, or none", param="model"
            )

    async def _described(self, target: str, image: ImagePart, prompt: str, max_tokens: int | None, call: Call) -> Found:
        served = self._models.resolve(target)
        loaded = await self._models.ready(served.ref)
        if "image" not in loaded.media:
            raise UnsupportedTask(
                f"{served.ref} does not take images, so it cannot describe one: name a model of the task "
                "image-text-to-text",
                param="model",
            )
        started = self._clock()
        chat = Chat((Message("user", (image, TextPart(prompt))),), Sampling(max_tokens=max_tokens))
        generation = await self._inference.generate(target, chat, call)
        answer = await whole(generation)
        seconds = self._clock() - started
        return Found(Findings(description=answer.text), generation.served, 0.0, seconds, answer.usage)


def _in_order(tasks: tuple[ImageTask, ...]) -> list[ImageTask]:
    return [task for task in IMAGE_TASKS if task in tasks]


def _merged(head: ImageHead, findings: list[Findings]) -> Findings:
    """What several tasks found in one image."""
    values: dict[str, Any] = {"width": head.width, "height": head.height}
    for one in findings:
        values |= {name: value for name, value in msgspec.structs.asdict(one).items() if value is not None}
    return Findings(**values)


def _report(task: ImageTask, found: list[Found], seconds: float) -> TaskReport:
    usages = [one.usage for one in found if one.usage is not None]
    usage = (
        Usage(*(sum(counts) for counts in zip(*map(msgspec.structs.astuple, usages), strict=True))) if usages else None
    )
    return TaskReport(
        task,
        found[0].served,
        seconds,
        max(one.queue_s for one in found),
        max(one.compute_s for one in found),
        usage,
    )
