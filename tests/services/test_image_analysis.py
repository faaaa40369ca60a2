"""Images over fakes: which model is asked, what its outputs mean, and what is said when it does not work."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.analysis import AnalyzeImages, Detection, Label
from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    UnsupportedTask,
)
from inference_engine.domain.model import ModelRef, Signature, TensorSpec
from inference_engine.domain.requests import Call, ImagePart, Principal
from inference_engine.services.analysis.images import ImageAnalyzer, ImageLimits
from inference_engine.services.analysis.outputs import labels_of, objects_of, vector_of
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService
from inference_engine.testing import FakeExecutor, FakeExecutors, FakeRepository, FakeRoutes, NullTelemetry, manifest
from tests.fixtures.tiny_vision import png
from tests.http.image_models import OF_IMAGES, seen

CALL = Call("1", Principal("default", "local"))
RED, BLUE = ImagePart(png((255, 0, 0))), ImagePart(png((0, 0, 255), 50, 60))
CLASSIFY, SORTS = OF_IMAGES["sorter"]
DETECT, FINDS = OF_IMAGES["finder"]
FILES = TensorSpec("pixels", "bytes", (-1,))
REF = ModelRef("m", "1")


class Bench:
    """An analyzer over the fakes that a test adds."""

    def __init__(self, **limits: int) -> None:
        self.repository = FakeRepository()
        executors = FakeExecutors({})
        self.executors = executors.executors
        telemetry = NullTelemetry()
        self.models = ModelService(self.repository, executors, FakeRoutes(), telemetry, time.monotonic)
        inference = InferenceService(self.models, telemetry, time.monotonic)
        self.analyzer = ImageAnalyzer(self.models, inference, time.monotonic, ImageLimits(**limits))

    def add(self, name: str, task: str, signature: Signature | None = None, **fields: Any) -> FakeExecutor:
        self.repository.models.append(manifest(name, signature=signature, task=task, tags=fields.pop("tags", ())))
        compute = fields.pop("compute", None) or (seen(signature) if signature else None)
        made = self.executors[f"{name}:1"] = FakeExecutor(signature, compute=compute, **fields)
        self.models.refresh()
        return made

    async def of(self, *images: ImagePart, **fields: Any) -> Any:
        return await self.analyzer.analyze(AnalyzeImages(images or (RED,), **fields), CALL)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(max_images=3, max_bytes=5000, max_pixels=10_000)
    yield made
    await made.models.close()


async def test_labels_objects_vectors_and_descriptions_of_several_images(bench: Bench) -> None:
    for name, (task, signature) in OF_IMAGES.items():
        bench.add(name, task, signature)
    bench.add("seer", "image-text-to-text", kinds=("chat",), words=("A ", "dot"), media=("image",))
    found = await bench.of(RED, BLUE, tasks=("describe", "embed", "detect", "classify"), top_k=1)
    first, second = found.images
    assert first.labels == second.labels == (Label("cat", 0.75),)
    assert first.objects == (Detection("cat", 0.75, (1, 2, 30, 40)),)
    assert first.description == "A dot"
    assert first.embedding.tolist() == [len(RED.data), 1]
    assert second.embedding.tolist() == [len(BLUE.data), 1]
    by_task = {report.task: report for report in found.reports}
    assert [str(report.served.ref) for report in found.reports] == ["sorter:1", "finder:1", "seer:1", "hasher:1"]
    assert by_task["describe"].usage.completion_tokens == 4
    assert by_task["classify"].usage is None
    prompt = bench.executors["seer:1"].requests[0].messages[0]
    assert prompt.text == "Describe this image."
    assert found.latency_s > 0


async def test_an_operators_own_model_goes_before_a_built_in_one_and_a_broken_one_comes_last(bench: Bench) -> None:
    bench.add("aaa", CLASSIFY, SORTS, tags=("built-in",))
    bench.add("zzz", CLASSIFY, SORTS)
    bench.add("mmm", CLASSIFY, SORTS)
    bench.repository.refuse[ModelRef("mmm", "1")] = ModelLoadFailed("damaged")
    with pytest.raises(ModelLoadFailed):
        await bench.models.load(ModelRef("mmm", "1"))
    found = await bench.of()
    assert str(found.reports[0].served.ref) == "zzz:1"


async def test_without_tasks_images_are_classified_and_searched_as_far_as_there_are_models(bench: Bench) -> None:
    bench.add("finder", DETECT, FINDS)
    assert [report.task for report in (await bench.of()).reports] == ["detect"]
    with pytest.raises(ModelNotFound, match=r"put one whose model\.yaml says task: image-classification"):
        await bench.of(tasks=("classify",))


async def test_a_named_model_does_what_its_task_says(bench: Bench) -> None:
    bench.add("finder", DETECT, FINDS)
    bench.add("blank", "", SORTS)
    bench.add("eyes", "", kinds=("chat",), media=("image",), words=("x",))
    bench.add("talker", "text-generation", kinds=("chat",))
    assert [report.task for report in (await bench.of(model="finder")).reports] == ["detect"]
    assert [report.task for report in (await bench.of(model="eyes")).reports] == ["describe"]
    assert (await bench.of(model="blank", tasks=("classify",))).images[0].labels[0].name == "cat"
    for fields, words in (
        ({"model": "finder", "tasks": ("classify",)}, "finder:1 does object-detection, not image-classification"),
        ({"model": "talker"}, "has the task 'text-generation'"),
        ({"model": "talker", "tasks": ("describe",)}, "does not take images"),
    ):
        with pytest.raises(UnsupportedTask, match=words) as caught:
            await bench.of(**fields)
        assert caught.value.param == "model"


async def test_models_by_task(bench: Bench) -> None:
    for name in ("one", "two"):
        bench.add(name, CLASSIFY, SORTS)
    assert str((await bench.of(models={"classify": "two:1"})).reports[0].served.ref) == "two:1"
    for fields in (
        {"models": {"detect": "two"}, "tasks": ("classify",)},
        {"models": {"classify": "two"}, "model": "one"},
    ):
        with pytest.raises(InvalidRequest) as caught:
            await bench.of(**fields)
        assert caught.value.param.startswith("models")


@pytest.mark.parametrize(
    ("images", "fields", "place"),
    [
        ((), {}, "images"),
        ((RED,) * 4, {}, "images"),
        ((RED,), {"top_k": 0}, "top_k"),
        ((RED,), {"threshold": float("nan")}, "threshold"),
        ((RED, ImagePart(b"x")), {}, "images[1]"),
        ((RED, ImagePart(RED.data + bytes(9000))), {}, "images[1]"),
        ((ImagePart(png((1, 1, 1), 200, 200)),), {}, "images[0]"),
        ((RED, ImagePart(RED.data + b"broken")), {}, "images[1]"),
    ],
)
async def test_what_is_wrong_is_named(
    bench: Bench, images: tuple[ImagePart, ...], fields: dict[str, Any], place: str
) -> None:
    bench.add("sorter", CLASSIFY, SORTS)
    with pytest.raises(InvalidRequest) as caught:
        await bench.analyzer.analyze(AnalyzeImages(images, **fields), CALL)
    assert caught.value.param == place


@pytest.mark.parametrize("error", [InferenceFailed("it broke"), ModelLoadFailed("damaged")])
async def test_what_the_model_raises_is_raised_as_it_is(bench: Bench, error: EngineError) -> None:
    bench.add("sorter", CLASSIFY, SORTS, fail=error)
    with pytest.raises(type(error), match=error.message):
        await bench.of(RED, BLUE)


async def test_a_model_that_takes_tensors_is_told_from_one_that_takes_files(bench: Bench) -> None:
    bench.add("raw", CLASSIFY, Signature((TensorSpec("x", "float32", (-1, 3, 8, 8)),), SORTS.outputs))
    with pytest.raises(UnsupportedTask, match=r"raw:1 takes x float32 \[-1, 3, 8, 8\]; .*begin with image.decode"):
        await bench.of()


def row(*values: Any, dtype: Any = np.float32) -> Any:
    return np.array([values], dtype)


def test_labels_are_read_from_any_classifier() -> None:
    named = {"labels": row(b"a", b"b", dtype=object), "scores": row(0.2, 0.97)}
    assert labels_of(REF, named, None, None, None) == (Label("b", 0.97), Label("a", 0.2))
    assert labels_of(REF, named, None, None, 0.5) == (Label("b", 0.97),)
    logits = labels_of(REF, {"y": row(-3, 2)}, None, None, None)
    assert logits == (Label("1", 2.0), Label("0", -3.0))
    numbers = {"y": row(0.1, 0.7, 0.2)}
    assert labels_of(REF, numbers, None, 2, None) == (Label("1", 0.7), Label("2", 0.2))
    signature = Signature((FILES,), (TensorSpec("y", "float32", (-1, 3), ("x", "y", "z")),))
    assert labels_of(REF, numbers, signature, 1, None) == (Label("y", 0.7),)
    several = {"features": row(1, 2), "scores": row(0.5, 0.1)}
    assert labels_of(REF, several, None, 1, None) == (Label("0", 0.5),)
    assert len(labels_of(REF, {"y": row(*range(9))}, None, None, None)) == 5
    for outputs in ({"a": row(1), "b": row(2)}, {"y": row(1, dtype=np.int64)}, {"y": np.zeros((1, 2, 2), np.float32)}):
        with pytest.raises(UnsupportedTask, match=r"m:1 gives .* a classifier gives labels and scores"):
            labels_of(REF, outputs, None, None, None)


def test_objects_are_read_from_any_detector() -> None:
    boxes = np.array([[[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]]], np.float32)
    named = {"boxes": boxes, "scores": row(0.5, 0.9, 0), "labels": row(b"a", b"b", b"", dtype=object)}
    assert objects_of(REF, named, None, None) == (Detection("b", 0.9, (5, 6, 7, 8)), Detection("a", 0.5, (1, 2, 3, 4)))
    assert objects_of(REF, named, 1, None) == (Detection("b", 0.9, (5, 6, 7, 8)),)
    assert objects_of(REF, named, None, 0.95) == ()
    numbered = {"boxes": boxes, "scores": row(0.5, 0.9, 0), "classes": row(0, 7, -1, dtype=np.int64)}
    assert [one.label for one in objects_of(REF, numbered, None, None)] == ["7", "0"]
    for broken in ({"boxes": boxes}, {**named, "scores": row(1)}, {**named, "boxes": boxes[..., :2]}):
        with pytest.raises(UnsupportedTask, match="a detector gives boxes"):
            objects_of(REF, broken, None, None)


def test_vectors_are_read_from_any_model_for_them() -> None:
    assert vector_of(REF, {"last": row(1, 2)}).tolist() == [1, 2]
    assert vector_of(REF, {"x": row(9, dtype=np.int64), "embedding": row(1), "other": row(3)}).tolist() == [1]
    for outputs in ({"a": row(1), "b": row(2)}, {"a": np.zeros((1, 4, 4), np.float32)}, {}):
        with pytest.raises(UnsupportedTask, match="one output of floats"):
            vector_of(REF, outputs)
    with pytest.raises(InferenceFailed, match="for one image"):
        vector_of(REF, {"a": np.zeros((2, 4), np.float32)})
