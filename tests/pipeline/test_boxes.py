"""The box steps against plain references, and boxes on their way back to the image the client sent."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from inference_engine.domain.model import PipelineSpec
from tests.pipeline.conftest import CATALOG, NO_FOLDER, spec, step


def _iou(one: Any, other: Any) -> float:
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - wide * high
    return wide * high / union if union > 0 else 0.0


def _plain_nms(boxes: Any, scores: Any, at: float, iou: float, k: int) -> list[tuple[int, int]]:
    """Boxes and classes that stay, by the textbook."""
    rest = [
        (-float(scores[b][c]), b, c) for b in range(len(boxes)) for c in range(len(scores[b])) if scores[b][c] >= at
    ]
    kept: list[tuple[int, int]] = []
    for _, box, kind in sorted(rest):
        if all(other != kind or _iou(boxes[box], boxes[there]) <= iou for there, other in kept):
            kept.append((box, kind))
    return kept[:k]


@given(data=st.data(), count=st.integers(1, 12), classes=st.integers(1, 3), k=st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_nms_is_the_textbook_s(data: st.DataObject, count: int, classes: int, k: int) -> None:
    corners = data.draw(hnp.arrays("float64", (2, count, 4), elements=st.integers(0, 12).map(float)))
    boxes = np.concatenate(
        [np.minimum(corners[..., :2], corners[..., 2:]), np.maximum(corners[..., :2], corners[..., 2:])], -1
    )
    scores = data.draw(
        hnp.arrays("float32", (2, count, classes), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    )
    found = step("boxes.nms", k=k, at=0.3, iou=0.4).apply({"boxes": boxes, "scores": scores})
    for row in range(2):
        expected = _plain_nms(boxes[row], scores[row], 0.3, 0.4, k)
        kept = int((found["classes"][row] >= 0).sum())
        assert found["classes"][row, :kept].tolist() == [kind for _, kind in expected]
        assert found["boxes"][row, :kept].tolist() == [boxes[row, box].tolist() for box, _ in expected]
        assert found["scores"][row, :kept].tolist() == [float(scores[row, box, kind]) for box, kind in expected]
        assert (found["classes"][row, kept:] == -1).all()
        assert not found["boxes"][row, kept:].any()
        assert not found["scores"][row, kept:].any()


@given(
    given_map=hnp.arrays("float32", (2, 6, 3, 4), elements=st.floats(-50, 50, width=32)), stride=st.sampled_from([1, 8])
)
@settings(max_examples=40, deadline=None)
def test_decode_is_the_formula(given_map: np.ndarray, stride: int) -> None:
    found = step("boxes.decode", stride=stride).apply({"map": given_map})
    assert set(found) == {"boxes", "scores"}
    for n, y, x in np.ndindex(2, 3, 4):
        left, top, right, bottom = (stride * math.exp(min(6, max(-6, float(v)))) for v in given_map[n, :4, y, x])
        middle = ((x + 0.5) * stride, (y + 0.5) * stride)
        expected = [middle[0] - left, middle[1] - top, middle[0] + right, middle[1] + bottom]
        np.testing.assert_allclose(found["boxes"][n, y * 4 + x], expected, rtol=1e-4, atol=1e-3)
        shares = [1 / (1 + math.exp(-float(v))) for v in given_map[n, 4:, y, x]]
        np.testing.assert_allclose(found["scores"][n, y * 4 + x], shares, rtol=1e-4, atol=1e-6)


GEOMETRIES: list[list[dict[str, Any]]] = [
    [{"use": "image.letterbox", "width": 32, "height": 24}],
    [{"use": "image.resize", "width": 17, "height": 40}],
    [{"use": "image.resize", "shorter": 20}, {"use": "image.crop", "width": 30, "height": 30}],
    [{"use": "image.crop", "width": 50, "height": 9}, {"use": "image.letterbox", "width": 64, "height": 64}],
]


@pytest.mark.parametrize("entries", GEOMETRIES)
@given(sizes=st.lists(st.tuples(st.integers(4, 60), st.integers(4, 60)), min_size=1, max_size=3), data=st.data())
@settings(max_examples=15, deadline=None)
def test_boxes_find_back_to_the_image_that_was_sent(
    entries: list[dict[str, Any]], sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    made = CATALOG.build(PipelineSpec(preprocess=({"use": "image.decode"}, *entries)), NO_FOLDER)
    files = np.empty(len(sizes), dtype=object)
    for row, size in enumerate(sizes):
        file = io.BytesIO()
        Image.new("RGB", size).save(file, "PNG")
        files[row] = file.getvalue()
    note = made.before({"x": files})["@x"]
    shares = data.draw(hnp.arrays("float64", (len(sizes), 2, 2), elements=st.floats(0, 1)))
    for row, (width, height) in enumerate(sizes):
        size = np.array([width, height])
        original = np.concatenate([shares[row].min(0) * size, shares[row].max(0) * size])
        seen = original * np.tile(note[row, :2], 2) + np.tile(note[row, 2:4], 2)
        found = step("boxes.to_original").apply({"boxes": seen[None, None], "@x": note[row : row + 1]})
        np.testing.assert_allclose(found["boxes"][0, 0], original, atol=1e-6)
        far = step("boxes.to_original").apply(
            {"boxes": np.array([[[-999.0, -999, 9999, 9999]]]), "@x": note[row : row + 1]}
        )
        assert far["boxes"][0, 0].tolist() == [0, 0, width, height]


def test_places_without_a_box_stay_empty(tmp_path: Path) -> None:
    note = {"@x": np.array([[0.5, 0.5, 3, 4, 10, 10]])}
    assert not step("boxes.to_original").apply({"boxes": np.zeros((1, 2, 4), np.float32), **note})["boxes"].any()
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    labels = step("boxes.labels", tmp_path, file="labels.txt")
    found = labels.apply({"classes": np.array([[1, 0, -1]])})
    assert {name: array.tolist() for name, array in found.items()} == {"labels": [[b"dog", b"cat", b""]]}
    with pytest.raises(InferenceFailed, match="does not name"):
        labels.apply({"classes": np.array([[2]])})


BOXES = spec("boxes", "float32", -1, 9, 4)
SCORES = spec("scores", "float32", -1, 9, 3)


@pytest.mark.parametrize(
    ("use", "options", "specs", "words"),
    [
        ("boxes.decode", {"stride": 8}, spec("y", "float32", -1, 8), r"must be \[-1, 4 \+ classes, rows, columns\]"),
        ("boxes.decode", {"stride": 8}, spec("y", "int64", -1, 8, 2, 2), "'y' is int64"),
        ("boxes.nms", {}, BOXES, "there is no tensor 'scores' here"),
        ("boxes.nms", {}, BOXES | spec("scores", "float32", -1, 8, 3), r"must be \[-1, 8, 4\]"),
        ("boxes.to_original", {}, BOXES, "images that image.decode made.*there are: none"),
        ("boxes.to_original", {"image": "z"}, BOXES | spec("@x", "float64", -1, 6), "there are: 'x'"),
        ("boxes.to_original", {}, spec("boxes", "float32", -1, 9, 3), r"must be \[-1, boxes, 4\]"),
    ],
)
def test_steps_that_do_not_fit_are_errors_of_the_load(
    use: str, options: dict[str, Any], specs: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidManifest, match=words):
        step(use, **options).preview(specs)


def test_nms_says_what_it_makes() -> None:
    made = step("boxes.nms", k=5).preview(BOXES | SCORES)
    assert {name: (found.dtype, found.shape) for name, found in made.items()} == {
        "boxes": ("float32", (-1, 5, 4)),
        "scores": ("float32", (-1, 5)),
        "classes": ("int64", (-1, 5)),
    }
