"""The commands' client over the models in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

import msgspec

from inference_engine.adapters.cli.client import (
    Engine,
    Messages,
    ModelView,
    NewModel,
    Output,
    Scores,
    Seen,
    SeenBy,
    SeenImage,
    SeenLabel,
    SeenObject,
    SeenScene,
    SeenTrack,
    SeenVideo,
    Segment,
    Step,
    TextStream,
    Transcript,
    Vectors,
)

if TYPE_CHECKING:
    from inference_engine.domain.analysis import Findings
    from inference_engine.domain.model import Manifest
    from inference_engine.domain.ports import ModelRepository
    from inference_engine.domain.video_analysis import Track


class LocalClient:
    """A `Client` that owns an engine for as long as it is entered."""

    def __init__(self, engine: AbstractContextManager[Engine], repository: ModelRepository) -> None:
        self._owner = engine
        self._repository = repository

    def __enter__(self) -> Self:
        self._engine = self._owner.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._owner.__exit__(None, None, None)

    def models(self) -> list[ModelView]:
        return [_view(status) for status in self._engine.models()]

    def broken(self) -> list[str]:
        return [folder.message for folder in self._repository.scan()[1]]

    def show(self, target: str) -> tuple[ModelView, Manifest]:
        status, manifest = self._engine.show(target)
        return _view(status), manifest

    def load(self, target: str) -> ModelView:
        return _view(self._engine.load(target))

    def unload(self, target: str) -> int:
        return self._engine.unload(target)

    def predict(self, target: str, inputs: Mapping[str, Any]) -> list[Output]:
        outputs = self._engine.predict(target, inputs)
        return [_output(name, array) for name, array in outputs.items()]

    def predict_stream(self, target: str, inputs: Mapping[str, Any]) -> Iterator[list[Output]]:
        for outputs in self._engine.predict_stream(target, inputs):
            yield [_output(name, array) for name, array in outputs.items()]

    def generate(self, target: str, messages: Messages, sampling: Mapping[str, Any]) -> TextStream:
        return self._engine.generate(target, messages, **sampling)

    def pull(self, name: str) -> Iterator[Step]:
        return map(_step, self._engine.pull(name))

    def create(self, name: str, new: NewModel) -> Iterator[Step]:
        from inference_engine.domain.model_store import Changes

        changes = Changes(
            system=new.system, template=new.template, licence=new.licence, parameters=dict(new.parameters)
        )
        steps = self._engine.create(name, base=new.base, files=new.files, adapters=new.adapters, changes=changes)
        return map(_step, steps)

    def copy(self, source: str, destination: str) -> None:
        self._engine.copy(source, destination)

    def delete(self, target: str) -> None:
        self._engine.delete(target)

    def embed(self, target: str, texts: Sequence[str], dimensions: int | None) -> Vectors:
        found = self._engine.embed(target, texts, dimensions=dimensions)
        return Vectors(found.vectors.tolist(), found.prompt_tokens)

    def rerank(self, target: str, query: str, documents: Sequence[str]) -> Scores:
        found = self._engine.rerank(target, query, documents)
        return Scores(found.scores.tolist(), found.prompt_tokens)

    def transcribe(self, target: str, audio: bytes, *, timestamps: bool, translate: bool, **options: str) -> Transcript:
        found = self._engine.transcribe(target, audio, timestamps=timestamps, translate=translate, **options)
        segments = [Segment(segment.start_s, segment.end_s, segment.text.strip()) for segment in found.segments]
        return Transcript(found.text.strip(), segments)

    def analyze_images(self, images: Sequence[bytes], tasks: Sequence[str], **options: Any) -> Seen:
        found = self._engine.analyze_images(images, tasks=tasks, **options)
        models: dict[str, SeenBy] = {
            report.task: SeenBy(report.served.ref.name, report.served.ref.version) for report in found.reports
        }
        return Seen([_seen(findings) for findings in found.images], models)

    def analyze_video(self, video: bytes, tasks: Sequence[str], *, every_s: float, **options: Any) -> SeenVideo:
        found = self._engine.analyze_video(video, tasks=tasks, sampling={"every_s": every_s}, **options)
        models: dict[str, SeenBy] = {
            report.task: SeenBy(report.served.ref.name, report.served.ref.version) for report in found.reports
        }
        return SeenVideo(
            len(found.frames),
            models,
            None if found.labels is None else [SeenLabel(one.name, one.score) for one in found.labels],
            None if found.scenes is None else [SeenScene(one.start_s, one.end_s) for one in found.scenes],
            None if found.tracks is None else [_track(one) for one in found.tracks],
            found.description,
        )


def _track(found: Track) -> SeenTrack:
    return SeenTrack(found.id, found.label, found.sightings[0].time_s, found.sightings[-1].time_s)


def _seen(found: Findings) -> SeenImage:
    return SeenImage(
        None if found.labels is None else [SeenLabel(one.name, one.score) for one in found.labels],
        None if found.objects is None else [SeenObject(one.label, one.score, one.box) for one in found.objects],
        found.description,
        None if found.embedding is None else found.embedding.tolist(),
    )


def _step(progress: msgspec.Struct) -> Step:
    return msgspec.convert(progress, Step, from_attributes=True)


def _view(status: msgspec.Struct) -> ModelView:
    return msgspec.convert(msgspec.to_builtins(status), ModelView)


def _output(name: str, array: Any) -> Output:
    from inference_engine.domain.tensors import dtype_name

    return Output(name, dtype_name(array), tuple(array.shape), _plain(array.tolist()))


def _plain(data: Any) -> Any:
    if isinstance(data, list):
        return [_plain(item) for item in data]
    return data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
