"""One answer to texts, images, sounds and videos together.

A model gets the parts as they are where it takes them. In the mode `combine`, what it does not take is analysed by the
models that can (images by `ImageAnalyzer`, videos by `VideoAnalyzer`, sounds by speech recognition), and stands as text
in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from inference_engine.domain.analysis import MODEL_TASKS, AnalyzeImages, Findings, ImageTask
from inference_engine.domain.errors import InvalidRequest, ModelNotFound, UnsupportedTask
from inference_engine.domain.images import checked_head
from inference_engine.domain.multimodal import AnyPart, Context, Helper, Multimodal, VideoPart
from inference_engine.domain.ports import Media
from inference_engine.domain.requests import AudioPart, Call, Chat, ImagePart, Message, Part, TextPart, Transcribe
from inference_engine.domain.sounds import checked_sound
from inference_engine.domain.video_analysis import AnalyzeVideo, VideoAnalysis
from inference_engine.services.analysis.answering import Writers, whole
from inference_engine.services.analysis.choosing import needed_for, served_for
from inference_engine.services.analysis.images import ImageAnalyzer
from inference_engine.services.analysis.together import together
from inference_engine.services.analysis.video import VideoAnalyzer
from inference_engine.services.inference import Generation, InferenceService
from inference_engine.services.models import ModelService

HEARING = ("automatic-speech-recognition",)
MAX_PARTS = 64
MAX_VIDEOS = 4
_TOLD: tuple[ImageTask, ...] = ("classify", "detect", "describe")
_TOLD_LABELS = 3
_TOLD_TOKENS = 200  # a description must leave room for the answer
_TOLD_TRACKS = 20
_WORDS = {"image": "an image", "audio": "a sound", "video": "a video"}
Kind = Media | Literal["video"]


class Combined(NamedTuple):
    """An answer that is about to be streamed, and what the model was told instead of parts it does not take."""

    generation: Generation
    context: tuple[Context, ...]


class MultimodalAnswerer:
    """Answers `Multimodal` requests. `max_sound_bytes` bounds each sound; others have their analyzers' limits."""

    def __init__(
        self,
        models: ModelService,
        inference: InferenceService,
        images: ImageAnalyzer,
        videos: VideoAnalyzer,
        writers: Writers,
        max_sound_bytes: int,
    ) -> None:
        self._models = models
        self._inference = inference
        self._images = images
        self._videos = videos
        self._writers = writers
        self._max_sound_bytes = max_sound_bytes

    async def answer(self, request: Multimodal, call: Call) -> Combined:
        """Check, analyse what must be, and route; the generation runs while its deltas are read.

        Raises:
            InvalidRequest: a part is no file of its kind or too large. UnsupportedTask: the model does not take a part,
                and the mode is `direct`. ModelNotFound: there is no model for it. Unavailable; DeadlineExceeded;
                ModelError.
        """
        self.check(request)
        kinds = {kind for part in request.parts if (kind := _kind(part)) is not None}
        target = self._target(request, kinds)
        loaded = await self._models.ready(self._models.resolve(target).ref)
        foreign = [place for place, part in enumerate(request.parts) if _kind(part) not in (None, *loaded.media)]
        if foreign and request.mode == "direct":
            raise self._refusal(target, request.parts[foreign[0]], foreign[0])
        numbers = _numbers(request.parts)
        told = await together([self._told(place, numbers[place], request.parts[place], call) for place in foreign])
        chat = _chat(request, {context.part: context.text for context in told})
        return Combined(await self._inference.generate(target, chat, call), tuple(told))

    def check(self, request: Multimodal) -> None:
        """Refuse what can be refused without a model. Raises `InvalidRequest`."""
        limits = self._images.limits
        if not request.parts:
            raise InvalidRequest("parts is empty: send at least one part", param="parts")
        if len(request.parts) > MAX_PARTS:
            raise InvalidRequest(f"{len(request.parts)} parts came, at most {MAX_PARTS} are taken", param="parts")
        if sum(isinstance(part, ImagePart) for part in request.parts) > limits.max_images:
            raise InvalidRequest(f"parts may hold {limits.max_images} images: send fewer", param="parts")
        if sum(isinstance(part, VideoPart) for part in request.parts) > MAX_VIDEOS:
            raise InvalidRequest(f"parts may hold {MAX_VIDEOS} videos: send fewer", param="parts")
        for place, part in enumerate(request.parts):
            if isinstance(part, ImagePart):
                checked_head(part.data, f"parts[{place}]", limits.max_bytes, limits.max_pixels)
            elif isinstance(part, AudioPart):
                checked_sound(part.data, f"parts[{place}]", self._max_sound_bytes)

    def _target(self, request: Multimodal, kinds: set[Kind]) -> str:
        """The named model; else one that sees, where there are images and such a model; else one that writes."""
        seeing = None
        if request.model is None and "image" in kinds:
            seeing = served_for(self._models, MODEL_TASKS["describe"])
        return seeing or self._writers.target(request.model)

    def _refusal(self, target: str, part: AnyPart, place: int) -> UnsupportedTask:
        ref = self._models.resolve(target).ref
        remedy = "" if isinstance(part, VideoPart) else "name a model that does, or "
        return UnsupportedTask(
            f"parts[{place}] is {_WORDS[_kind(part) or 'image']}, which {ref} does not take: {remedy}"
            "send mode: combine to have it analysed by other models and told to this one as text",
            param=f"parts[{place}]",
        )

    async def _told(self, place: int, number: int, part: AnyPart, call: Call) -> Context:
        """What is said of a part in its place."""
        try:
            if isinstance(part, AudioPart):
                return await self._heard(place, number, part, call)
            if isinstance(part, VideoPart):
                return await self._watched(place, number, part, call)
            assert isinstance(part, ImagePart)
            return await self._seen(place, number, part, call)
        except (UnsupportedTask, ModelNotFound):
            raise
        except InvalidRequest as error:
            raise type(error)(f"parts[{place}]: {error.message}", param=f"parts[{place}]") from error

    async def _seen(self, place: int, number: int, part: ImagePart, call: Call) -> Context:
        tasks = tuple([task for task in _TOLD if served_for(self._models, MODEL_TASKS[task])])
        if not tasks:
            needed_for(self._models, MODEL_TASKS["describe"], f"parts[{place}]")
        found = await self._images.analyze(AnalyzeImages((part,), tasks, max_tokens=_TOLD_TOKENS), call)
        helpers = tuple([Helper(report.task, report.served) for report in found.reports])
        return Context(place, f"[Image {number}. {_in_words(found.images[0])}]", helpers)

    async def _watched(self, place: int, number: int, part: VideoPart, call: Call) -> Context:
        found = await self._videos.analyze(AnalyzeVideo(part.data, max_tokens=_TOLD_TOKENS), call)
        helpers = tuple([Helper(report.task, report.served) for report in found.reports])
        return Context(place, f"[Video {number}. {_video_in_words(found)}]", helpers)

    async def _heard(self, place: int, number: int, part: AudioPart, call: Call) -> Context:
        target = needed_for(self._models, HEARING, f"parts[{place}]")
        generation = await self._inference.generate(target, Transcribe(part.data), call)
        text = (await whole(generation)).text.strip()
        said = f'It says: "{text}"' if text else "Nothing is said in it."
        return Context(place, f"[Sound {number}. {said}]", (Helper("transcribe", generation.served),))


def _kind(part: AnyPart) -> Kind | None:
    if isinstance(part, VideoPart):
        return "video"
    return "image" if isinstance(part, ImagePart) else "audio" if isinstance(part, AudioPart) else None


def _numbers(parts: Sequence[AnyPart]) -> list[int]:
    """Which image, sound or video each part is, from 1."""
    counts: dict[Kind | None, int] = {}
    numbers = []
    for part in parts:
        counts[_kind(part)] = counts.get(_kind(part), 0) + 1
        numbers.append(counts[_kind(part)])
    return numbers


def _chat(request: Multimodal, told: dict[int, str]) -> Chat:
    parts: list[Part] = [
        part if place not in told and not isinstance(part, VideoPart) else TextPart(told[place])
        for place, part in enumerate(request.parts)
    ]
    if all(isinstance(part, TextPart) for part in parts):
        content: str | tuple[Part, ...] = "\n".join([part.text for part in parts if isinstance(part, TextPart)])
    else:
        content = tuple(parts)
    system = (Message("system", request.system),) if request.system else ()
    return Chat((*system, Message("user", content)), request.sampling)


def _in_words(found: Findings) -> str:
    """Findings as a language model is told of them."""
    said = []
    if found.labels:
        best = ", ".join([f"{label.name} ({label.score:.2f})" for label in found.labels[:_TOLD_LABELS]])
        said.append(f"Classified as: {best}.")
    if found.objects is not None:
        places = [
            f"{one.label} ({one.score:.2f}) at x {one.box[0]:.0f} to {one.box[2]:.0f}, "
            f"y {one.box[1]:.0f} to {one.box[3]:.0f}"
            for one in found.objects
        ]
        said.append(f"Objects in pixels: {'; '.join(places)}." if places else "No objects were found.")
    if found.description is not None:
        said.append(f'Description: "{found.description.strip()}"')
    return " ".join(said) or "Nothing was recognised."


def _video_in_words(found: VideoAnalysis) -> str:
    """A video as a language model is told of it."""
    said = [f"{found.info.duration_s:.1f} seconds."]
    if found.labels:
        best = ", ".join([f"{label.name} ({label.score:.2f})" for label in found.labels[:_TOLD_LABELS]])
        said.append(f"Classified as: {best}.")
    for index, scene in enumerate(found.summary.scenes if found.summary else ()):
        shown = [scene.label] if scene.label is not None else []
        shown += [f"{most} {label} at once" for label, most in scene.objects.items()]
        what = ", ".join(shown) or "nothing recognised"
        said.append(f"Scene {index + 1}, {scene.start_s:.1f} to {scene.end_s:.1f} s: {what}.")
    if found.tracks:
        seen = [
            f"{track.label} {track.id} from {track.sightings[0].time_s:.1f} to {track.sightings[-1].time_s:.1f} s"
            for track in found.tracks[:_TOLD_TRACKS]
        ]
        said.append(f"Objects followed: {'; '.join(seen)}.")
    if found.description is not None:
        said.append(f'Description: "{found.description.strip()}"')
    return " ".join(said)
