"""`softmax`, `top_k`, `threshold`: what they compute, and what they refuse at load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from inference_engine.domain.model import PipelineSpec, TensorSpec
from tests.pipeline.conftest import CATALOG, spec, step

LOGITS = spec("y", "float32", -1, 3)


def rows(dtype: str, elements: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=3, max_side=5), elements=elements)


@given(x=rows("float32", st.floats(-(2.0**100), 2.0**100, width=32)))
def test_softmax_gives_probabilities_in_the_order_of_the_logits(x: np.ndarray) -> None:
    y = step("softmax").apply({"y": x})["y"]
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)
    assert (y.max(-1) == np.take_along_axis(y, x.argmax(-1)[..., None], -1)[..., 0]).all()


def test_softmax_of_known_values_of_half_precision_and_of_nothing() -> None:
    softmax = step("softmax")
    y = softmax.apply({"y": np.log(np.array([[1, 2, 5]], np.float32))})["y"]
    np.testing.assert_allclose(y, [[0.125, 0.25, 0.625]], rtol=1e-6)
    assert softmax.apply({"y": np.zeros((1, 4), np.float16)})["y"].dtype == np.float16
    assert np.isnan(softmax.apply({"y": np.full((1, 2), -np.inf)})["y"]).all()
    assert softmax.preview(LOGITS) == LOGITS


@given(x=rows("float64", st.floats(allow_nan=False)), data=st.data())
def test_top_k_is_a_stable_descending_sort(x: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.shape[-1]))
    y = step("top_k", k=k).apply({"y": x})
    assert y.keys() == {"labels", "scores"}
    for row, labels, scores in zip(
        x.reshape(-1, x.shape[-1]), y["labels"].reshape(-1, k), y["scores"].reshape(-1, k), strict=True
    ):
        best = sorted(range(len(row)), key=lambda index: (-row[index], index))[:k]
        assert labels.tolist() == [b"%d" % index for index in best]
        assert scores.tolist() == [row[index] for index in best]


def test_top_k_names_the_classes_and_puts_nan_last(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\nd\u00f6g\nline\u2028break\n", encoding="utf-8")
    top = step("top_k", tmp_path, k=3, labels="labels.txt")
    assert top.preview(LOGITS) == {**spec("labels", "bytes", -1, 3), **spec("scores", "float32", -1, 3)}
    y = top.apply({"y": np.array([[1, np.nan, 2]], np.float32)})
    assert y["labels"].dtype == object
    assert y["labels"].tolist() == [["line\u2028break".encode(), b"cat", "d\u00f6g".encode()]]
    np.testing.assert_array_equal(y["scores"], [[2, 1, np.nan]])


def test_a_labels_file_may_have_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    y = step("top_k", tmp_path, k=2, labels="labels.txt").apply({"y": np.array([[1.0, 0.0]])})
    assert y["labels"].tolist() == [[b"cat", b"dog"]]


def test_top_k_keeps_what_it_is_told_to_keep_and_replaces_equal_names() -> None:
    specs = {**LOGITS, **spec("scores", "int64", -1), **spec("box", "float32", -1, 4)}
    tensors = {name: np.ones((2, *one.shape[1:]), one.dtype) for name, one in specs.items()}
    for keep, expected in ((False, {"box", "labels", "scores"}), (True, {"y", "box", "labels", "scores"})):
        top = step("top_k", k=1, output="y", keep=keep)
        seen, got = top.preview(specs), top.apply(tensors)
        assert seen.keys() == got.keys() == expected
        assert seen["scores"] == TensorSpec("scores", "float32", (-1, 1))
        assert got["scores"].dtype == np.float32


def test_classes_that_are_only_known_when_they_come_are_checked_then(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    for options in ({"k": 3}, {"k": 1, "labels": "labels.txt"}):
        top = step("top_k", tmp_path, **options)
        top.preview(spec("y", "float32", -1, -1))
        width = 2 if "labels" not in options else 3
        with pytest.raises(InferenceFailed, match=rf"output 'y' has {width} classes"):
            top.apply({"y": np.zeros((1, width), np.float32)})


@given(x=rows("float32"), at=st.floats(-(2.0**100), 2.0**100, width=32))
def test_threshold_compares(x: np.ndarray, at: float) -> None:
    y = step("threshold", at=at).apply({"y": x})["y"]
    assert y.dtype == np.bool_
    assert y.tolist() == (x >= np.float32(at)).tolist()


@given(x=rows("int8"), at=st.floats(-1000, 1000))
def test_threshold_compares_whole_numbers_too(x: np.ndarray, at: float) -> None:
    y = step("threshold", at=at).apply({"y": x})["y"]
    assert y.ravel().tolist() == [value >= at for value in x.ravel().tolist()]


def test_threshold_in_the_output_s_own_precision() -> None:
    threshold = step("threshold", at=0.7)
    assert threshold.preview(LOGITS) == spec("y", "bool", -1, 3)
    assert threshold.apply({"y": np.array([0.7, 0.69, np.nan], np.float32)})["y"].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("use", "options", "specs", "message"),
    [
        ("softmax", {}, spec("y", "int64", -1, 3), r"tensor 'y' is int64"),
        ("softmax", {}, spec("y", "float32", -1), r"tensor 'y' has shape \[-1\], it needs a dimension of values"),
        ("softmax", {"output": "z"}, LOGITS, r"no tensor 'z' here; there are: 'y'"),
        ("top_k", {"k": 4}, LOGITS, r"k is 4, tensor 'y' has 3 classes"),
        ("top_k", {"k": 1}, spec("y", "bytes", -1, 3), r"tensor 'y' is bytes"),
        ("top_k", {"k": 1}, spec("y", "float32"), r"tensor 'y' has shape \[\]"),
        ("threshold", {"at": 1}, spec("y", "bool", -1), r"tensor 'y' is bool"),
        ("threshold", {"at": 1e6}, spec("y", "float16", -1), r"at is 1000000.0, .* not finite in float16"),
        ("threshold", {"at": float("nan")}, spec("y", "int8", -1), r"at is nan"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    use: str, options: dict[str, Any], specs: dict[str, TensorSpec], message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        step(use, **options).preview(specs)


@pytest.mark.parametrize(
    ("content", "specs", "message"),
    [
        (b"a\nb\n", LOGITS, r"labels has 2 lines, tensor 'y' has 3 classes"),
        (b"a\n", spec("y", "float32", -1, -1), r"k is 2, tensor 'y' has 1 classes"),
        (b"\xff\xfe", LOGITS, r"labels: .*labels.txt cannot be read as UTF-8"),
    ],
)
def test_a_labels_file_that_does_not_fit_is_refused_at_load(
    tmp_path: Path, content: bytes, specs: dict[str, TensorSpec], message: str
) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(InvalidManifest, match=message):
        step("top_k", tmp_path, k=2, labels="labels.txt").preview(specs)


def test_a_folder_is_no_labels_file(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    pipeline = CATALOG.build(PipelineSpec((), ({"use": "top_k", "k": 1, "labels": "labels"},)), tmp_path)
    with pytest.raises(InvalidManifest, match="cannot be read"):
        pipeline.postprocess[0].step.preview(LOGITS)
