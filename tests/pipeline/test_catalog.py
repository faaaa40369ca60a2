"""From the manifest's list to steps: names, options, files and sides, each mistake with its place."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    InvalidManifest,
    InvalidTensor,
    ModelLoadFailed,
    RuntimeMissing,
)
from inference_engine.domain.model import PipelineSpec, Signature, TensorSpec
from inference_engine.domain.pipeline import Pipeline, PlacedStep, Side, Specs
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.pipeline.catalog import GROUP, StepCatalog
from tests.pipeline.conftest import CATALOG

MODEL = Signature((TensorSpec("x", "float32", (-1, 3)),), (TensorSpec("y", "float32", (-1, 3)),))


class Broken(msgspec.Struct, frozen=True):
    """A step of foreign code that raises what its options say, in `preview` or in `apply`."""

    side: ClassVar[Side] = "postprocess"
    when: str
    what: str = "plain"

    def preview(self, specs: Specs) -> Specs:
        return self._maybe("preview") or specs

    def apply(self, tensors: Tensors) -> Tensors:
        return self._maybe("apply") or tensors

    def _maybe(self, now: str) -> None:
        if self.when == now:
            raise InvalidTensor("no, you", param="x") if self.what == "client" else ZeroDivisionError("by nothing")


class NotAStep:
    side = "postprocess"


class Odd(msgspec.Struct, frozen=True):
    side: ClassVar[Side] = "postprocess"
    when: complex


def foreign(name: str, module: str = __name__) -> StepCatalog:
    """A catalogue that knows one class of this or another test module, by its own name."""
    return StepCatalog([EntryPoint(name, f"{module}:{name}", GROUP)])


def build(folder: Path, side: str, *entries: dict[str, Any], catalog: StepCatalog = CATALOG) -> Pipeline:
    return catalog.build(PipelineSpec(**{side: entries}), folder)  # type: ignore[arg-type]


def test_every_declared_step_can_be_found() -> None:
    assert set(CATALOG.names()) >= {"boxes.decode", "cast", "image.crop", "impute", "scale", "softmax", "top_k"}
    assert set(CATALOG.names()) >= {"audio.decode", "ctc.decode", "text.tokenize", "tabular.encode", "rename", "pool"}
    assert set(StepCatalog().names()) >= set(CATALOG.names()), "run pip install -e . again"


@pytest.mark.parametrize(
    ("side", "entry", "message", "param"),
    [
        ("postprocess", {"use": "softmx"}, r"postprocess\[1\].use: 'softmx' is no step; did you mean 'softmax'\?", ""),
        ("preprocess", {"use": "softmax"}, r"preprocess\[1\] \(use: softmax\): is a postprocess step", ""),
        ("postprocess", {"use": "scale"}, r"postprocess\[1\] \(use: scale\): is a preprocess step", ""),
        ("postprocess", {"use": "top_k", "n": 3}, r"\[1\].n \(use: top_k\): unknown option; known are k,", ".n"),
        (
            "preprocess",
            {"use": "cast", "form": "int8"},
            r"\[1\].form .*: unknown option; did you mean 'from'\?",
            ".form",
        ),
        ("postprocess", {"use": "top_k"}, r"\[1\] \(use: top_k\): .*missing required field `k`", ""),
        ("postprocess", {"use": "top_k", "k": 0}, r"\[1\].k \(use: top_k\): Expected `int` >= 1", ".k"),
        ("postprocess", {"use": "top_k", "k": "5"}, r"\[1\].k .*Expected `int`, got `str`", ".k"),
        (
            "preprocess",
            {"use": "cast", "from": "text"},
            r"\[1\].from \(use: cast\): Invalid enum value 'text'",
            ".from",
        ),
        ("preprocess", {"use": "scale", "mean": [1, "x"]}, r"\[1\].mean\[1\] .*got `str`", ".mean[1]"),
        ("postprocess", {"use": "top_k", "k": 1, "labels": "../up.txt"}, r"labels .* must be a path inside", ".labels"),
        ("postprocess", {"use": "top_k", "k": 1, "labels": "/etc/passwd"}, r"must be a path inside", ".labels"),
        ("postprocess", {"use": "top_k", "k": 1, "labels": "way-out"}, r"must be a path inside", ".labels"),
        (
            "postprocess",
            {"use": "top_k", "k": 1, "labels": "no.txt"},
            r"no.txt does not exist: put it there",
            ".labels",
        ),
        ("postprocess", {"use": "top_k", "k": 1, "labels": 3}, r"must be the name of a file, not 3", ".labels"),
        ("postprocess", {"use": "top_k", "k": 1, "labels": "a\0b"}, r"labels \(use: top_k\)", ".labels"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, side: str, entry: dict[str, Any], message: str, param: str
) -> None:
    (tmp_path / "way-out").symlink_to(tmp_path.parent)
    good = {"use": "scale"} if side == "preprocess" else {"use": "softmax"}
    with pytest.raises(InvalidManifest, match=message) as caught:
        build(tmp_path, side, good, entry)
    assert caught.value.message.startswith(f"pipeline.{side}[1]")
    assert caught.value.param == f"pipeline.{side}[1]{param}"


def test_the_whole_signature_is_previewed_backwards_before_and_forwards_after(tmp_path: Path) -> None:
    pre = build(tmp_path, "preprocess", {"use": "cast", "from": "int64"}, {"use": "scale", "std": 255})
    post = build(tmp_path, "postprocess", {"use": "softmax"}, {"use": "top_k", "k": 2})
    pipeline = Pipeline(pre.preprocess, post.postprocess)
    assert pipeline.preview(MODEL) == Signature(
        (TensorSpec("x", "int64", (-1, 3)),),
        (TensorSpec("labels", "bytes", (-1, 2)), TensorSpec("scores", "float32", (-1, 2))),
    )
    x = np.array([[0, 51, 255]])
    np.testing.assert_array_equal(
        pipeline.before({"x": x})["x"], np.array([[0, 51, 255]], np.float32) / np.float32(255)
    )


def test_the_wrong_order_is_refused_before_anything_runs(tmp_path: Path) -> None:
    pipeline = build(tmp_path, "preprocess", {"use": "scale"}, {"use": "cast", "from": "int64"})
    with pytest.raises(
        InvalidManifest, match=r"pipeline.preprocess\[0\] \(use: scale\): tensor 'x' is int64"
    ) as caught:
        pipeline.preview(MODEL)
    assert caught.value.param == "pipeline.preprocess[0]"


def test_a_step_whose_package_is_missing_or_is_no_step() -> None:
    missing = StepCatalog([EntryPoint("a", "no_such_package:A", GROUP), EntryPoint("b", f"{__name__}:NoSuch", GROUP)])
    for name in missing.names():
        with pytest.raises(RuntimeMissing, match=rf"pipeline.postprocess\[0\]: step '{name}' cannot be imported from"):
            build(Path(), "postprocess", {"use": name}, catalog=missing)
    with pytest.raises(InvalidManifest, match=r"NotAStep is not a step"):
        build(Path(), "postprocess", {"use": "NotAStep"}, catalog=foreign("NotAStep"))
    with pytest.raises(InvalidManifest, match=r"postprocess\[0\].* an option cannot be of type <class 'complex'>"):
        build(Path(), "postprocess", {"use": "Odd", "when": "now"}, catalog=foreign("Odd"))


def test_what_foreign_code_raises_is_named_with_the_step() -> None:
    at_load = build(Path(), "postprocess", {"use": "Broken", "when": "preview"}, catalog=foreign("Broken"))
    with pytest.raises(InvalidManifest, match=r"postprocess\[0\] \(use: Broken\): ZeroDivisionError: by nothing"):
        at_load.preview(MODEL)
    later = build(Path(), "postprocess", {"use": "Broken", "when": "apply"}, catalog=foreign("Broken"))
    assert later.preview(MODEL) == MODEL
    with pytest.raises(InferenceFailed, match=r"postprocess\[0\] \(use: Broken\): ZeroDivisionError: by nothing"):
        later.after({"y": np.zeros((1, 3), np.float32)})
    blaming = Pipeline((PlacedStep("pipeline.preprocess[0]", "Broken", Broken("apply", "client")),))
    with pytest.raises(InvalidTensor, match=r"^no, you$"):
        blaming.before({"x": np.zeros((1, 3), np.float32)})


CLIP = """
from typing import ClassVar

import msgspec
import numpy as np

from limits import LOWEST


class Clip(msgspec.Struct, frozen=True):
    side: ClassVar[str] = "preprocess"
    high: float

    def preview(self, specs):
        return specs

    def apply(self, tensors):
        return {name: np.clip(array, LOWEST, self.high) for name, array in tensors.items()}


class Plain:
    pass
"""


def test_a_step_from_a_file_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "clip.py").write_text(CLIP)
    (tmp_path / "limits.py").write_text("LOWEST = -1.0")
    pipeline = build(tmp_path, "preprocess", {"use": "clip.py:Clip", "high": 2.0})
    assert pipeline.before({"x": np.array([[-5.0, 1.0, 5.0]])})["x"].tolist() == [[-1.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("use", "kind", "says"),
    [
        ("gone.py:Clip", EngineError, "gone.py"),
        ("../clip.py:Clip", EngineError, "clip.py"),
        ("clip.py:Nobody", InvalidManifest, "has no class 'Nobody'"),
        ("clip.py:Plain", InvalidManifest, "is not a step"),
        ("bad.py:Clip", ModelLoadFailed, "ZeroDivisionError"),
    ],
)
def test_a_file_that_holds_no_such_step(tmp_path: Path, use: str, kind: type[EngineError], says: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "clip.py").write_text("")
    (folder / "clip.py").write_text("class Plain: pass")
    (folder / "bad.py").write_text("1 / 0")
    with pytest.raises(kind, match=says):
        build(folder, "preprocess", {"use": use})
