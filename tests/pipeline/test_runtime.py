"""Models with a pipeline, through both executors and with every way in which pipeline and model can disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, InvalidTensor, ModelLoadFailed
from inference_engine.domain.model import Manifest, PipelineSpec, Signature, TensorSpec
from inference_engine.domain.pipeline import Side, Specs
from inference_engine.domain.ports import Loaded, Runtime
from inference_engine.domain.requests import Chat, Message
from inference_engine.domain.results import Delivered, Done
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.pipeline.catalog import StepCatalog
from inference_engine.infra.pipeline.runtime import PipelineRuntime, create_runtime
from inference_engine.infra.runtimes.onnx import OnnxRuntime
from inference_engine.testing import FakeRuntime
from tests.fixtures.tiny_onnx import mlp_onnx
from tests.pipeline.conftest import CATALOG, Start, onnx_manifest
from tests.pipeline.test_catalog import foreign
from tests.runtimes.conftest import Recorder

MEAN, STD = [0.5, -1.0, 2.0, 0.0], [1.0, 2.0, 0.5, 3.0]
LABELS = [b"red", b"green", b"blue"]
PIPELINE = PipelineSpec(
    preprocess=({"use": "cast", "from": "float64"}, {"use": "scale", "mean": MEAN, "std": STD}),
    postprocess=({"use": "softmax"}, {"use": "top_k", "k": 2, "labels": "labels.txt"}),
)
CLIENT = Signature(
    (TensorSpec("x", "float64", (-1, 4)),),
    (TensorSpec("labels", "bytes", (-1, 2)), TensorSpec("scores", "float32", (-1, 2))),
)
ECHO = Signature((TensorSpec("x", "float32", (-1, 3)),), (TensorSpec("x", "float32", (-1, 3)),))
SCALED = PipelineSpec(preprocess=({"use": "scale"},))


class Narrow(msgspec.Struct, frozen=True):
    """A step whose preview lies: what it gives is not what the model takes."""

    side: ClassVar[Side] = "preprocess"

    def preview(self, specs: Specs) -> Specs:
        return specs

    def apply(self, tensors: Tensors) -> Tensors:
        return {"x": tensors["x"].astype(np.float16)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mlp_onnx(tmp_path / "model.onnx", inputs=4, hidden=8, outputs=3)
    (tmp_path / "labels.txt").write_bytes(b"\n".join(LABELS))
    return tmp_path


def by_hand(folder: Path, x: np.ndarray) -> dict[str, Any]:
    model = OnnxRuntime()
    model.load(onnx_manifest(PipelineSpec()), folder)
    scaled = (x.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    logits = model.run({"x": scaled})["y"]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    order = np.argsort(-shares, 1)[:, :2]
    return {"labels": [[LABELS[i] for i in row] for row in order], "scores": np.take_along_axis(shares, order, 1)}


@pytest.mark.parametrize("declared", [None, CLIENT])
async def test_both_executors_give_what_numpy_gives(
    kind: str, start: Start, folder: Path, declared: Signature | None
) -> None:
    executor, loaded = await start(kind, onnx_manifest(PIPELINE, declared), folder)
    assert loaded.signature == CLIENT
    x = np.random.default_rng(1).standard_normal((5, 4))
    result = await executor.run([{"x": x[:2]}, {"x": x[2:]}], [2, 3])
    expected = by_hand(folder, x)
    assert [part["scores"].shape for part in result.outputs] == [(2, 2), (3, 2)]
    for name in ("labels", "scores"):
        got = np.concatenate([part[name] for part in result.outputs])
        if name == "labels":
            assert got.tolist() == expected[name]
        else:
            np.testing.assert_allclose(got, expected[name], rtol=1e-6)


async def test_a_value_that_cannot_be_cast_is_the_client_s_fault(kind: str, start: Start, folder: Path) -> None:
    executor, _ = await start(kind, onnx_manifest(PIPELINE), folder)
    with pytest.raises(InvalidTensor, match="input 'x' holds values") as caught:
        await executor.run([{"x": np.full((1, 4), 1e300)}], [1])
    assert caught.value.param == "x"
    await executor.run([{"x": np.zeros((1, 4))}], [1])


async def test_a_step_that_does_not_fit_is_an_error_of_the_load(kind: str, start: Start, folder: Path) -> None:
    pipeline = PipelineSpec(postprocess=({"use": "softmax"}, {"use": "top_k", "k": 5}))
    message = r"pipeline.postprocess\[1\] \(use: top_k\): k is 5, tensor 'y' has 3 classes"
    with pytest.raises(InvalidManifest, match=message) as caught:
        await start(kind, onnx_manifest(pipeline), folder)
    assert caught.value.param == "pipeline.postprocess[1]"


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (
            Signature((TensorSpec("x", "float32", (-1, 4)),)),
            r"inputs says 'x' is float32 \[-1, 4\], .* float64 \[-1, 4\]",
        ),
        (Signature((TensorSpec("x", "float64", (-1, 5)),)), r"inputs says 'x' is float64 \[-1, 5\]"),
        (Signature((TensorSpec("x", "float64", (-1,)),)), r"inputs says 'x' is float64 \[-1\]"),
        (
            Signature((TensorSpec("z", "float64", (-1, 4)),)),
            r"signature.inputs are \['z'\], with the pipeline .*\['x'\]",
        ),
        (
            Signature(CLIENT.inputs, (TensorSpec("y", "float32", (-1, 3)),)),
            r"signature.outputs are \['y'\], with the pipeline they are \['labels', 'scores'\]",
        ),
    ],
)
def test_a_declared_signature_must_be_what_the_client_sees(folder: Path, signature: Signature, message: str) -> None:
    runtime = create_runtime(onnx_manifest(PIPELINE), steps=CATALOG)
    with pytest.raises(InvalidManifest, match=message):
        runtime.load(onnx_manifest(PIPELINE, signature), folder)


def test_what_a_declared_signature_leaves_open_is_filled_in(folder: Path) -> None:
    declared = Signature((TensorSpec("x", "float64", (1, -1)),))
    loaded = create_runtime(onnx_manifest(PIPELINE), steps=CATALOG).load(onnx_manifest(PIPELINE, declared), folder)
    assert loaded.signature == Signature((TensorSpec("x", "float64", (1, 4)),), CLIENT.outputs)


def test_a_model_without_a_pipeline_is_not_wrapped() -> None:
    assert isinstance(create_runtime(onnx_manifest(PipelineSpec())), OnnxRuntime)
    assert isinstance(create_runtime(onnx_manifest(PIPELINE)), PipelineRuntime)


def load(inner: Runtime, pipeline: PipelineSpec = SCALED, steps: StepCatalog = CATALOG) -> PipelineRuntime:
    runtime = PipelineRuntime(inner, steps)
    runtime.load(onnx_manifest(pipeline), Path())
    return runtime


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (FakeRuntime("chat", "complete"), r"a pipeline changes tensors, this model only answers chat, complete"),
        (FakeRuntime("predict"), r"a pipeline needs a model that tells its inputs and outputs"),
        (FakeRuntime("predict", signature=Signature(ECHO.inputs)), r"a pipeline needs a model that tells"),
        (FakeRuntime("predict", signature=Signature((TensorSpec("x", "int8", (-1,)),), ECHO.outputs)), r"use: scale"),
    ],
)
def test_a_model_that_cannot_have_this_pipeline_is_refused_and_closed(inner: FakeRuntime, message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        load(inner)
    assert inner.closed


def test_a_mistake_in_the_steps_is_found_before_the_model_is_loaded() -> None:
    class Never(FakeRuntime):
        def load(self, manifest: Manifest, folder: Path) -> Loaded:
            raise AssertionError("loaded")

    with pytest.raises(InvalidManifest, match="is no step"):
        load(Never(), PipelineSpec(preprocess=({"use": "nothing"},)))


def test_generations_pass_through_and_the_model_is_closed() -> None:
    inner = FakeRuntime("predict", "chat", signature=ECHO)
    runtime = load(inner)
    sink = Recorder()
    runtime.generate(Chat((Message("user", "one two"),)), Delivered(), sink)
    assert sink.text == "one two "
    assert isinstance(sink.done, Done)
    runtime.close()
    assert inner.closed


def test_a_step_that_lies_is_the_model_s_fault_not_the_client_s() -> None:
    runtime = load(
        FakeRuntime(signature=ECHO), PipelineSpec(preprocess=({"use": "Narrow"},)), foreign("Narrow", __name__)
    )
    with pytest.raises(
        InferenceFailed, match=r"after pipeline.preprocess: input 'x' is float16, the model takes float32"
    ):
        runtime.run({"x": np.zeros((1, 3), np.float32)})


PYTHON = """
class Model:
    {signature}
    def predict(self, inputs): return {{"y": inputs["x"].sum(1, keepdims=True)}}
"""
OWN = """inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]
    outputs = [{"name": "y", "dtype": "float32", "shape": [-1, 1]}]"""


def python_manifest(signature: Signature | None) -> Manifest:
    pipeline = PipelineSpec(({"use": "cast", "from": "int64"},), ({"use": "threshold", "at": 3},))
    return Manifest("m", "1", "python", "model.py:Model", signature=signature, pipeline=pipeline)


def test_a_python_class_tells_its_own_signature(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(PYTHON.format(signature=OWN))
    runtime = create_runtime(python_manifest(None), steps=CATALOG)
    assert runtime.load(python_manifest(None), tmp_path).signature == Signature(
        (TensorSpec("x", "int64", (-1, 2)),), (TensorSpec("y", "bool", (-1, 1)),)
    )
    assert runtime.run({"x": np.array([[1, 1], [1, 2]])})["y"].tolist() == [[False], [True]]
    runtime.close()


def test_a_python_class_without_a_signature_hears_why_the_manifest_s_does_not_help(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(PYTHON.format(signature=""))
    manifest = python_manifest(Signature((TensorSpec("x", "int64", (-1, 2)),)))
    with pytest.raises(
        InvalidManifest, match="`signature` is what the client sees: the model itself must carry its own"
    ):
        create_runtime(manifest, steps=CATALOG).load(manifest, tmp_path)


def test_an_error_of_the_model_s_own_load_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model.onnx does not exist"):
        create_runtime(onnx_manifest(SCALED), steps=CATALOG).load(onnx_manifest(SCALED), tmp_path)
