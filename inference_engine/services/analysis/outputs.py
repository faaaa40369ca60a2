"""What the outputs of an image model mean: labels, boxes, a vector. Understands the names that the pipeline steps give.

`top_k` gives `labels` and `scores`; `boxes.nms`, `boxes.to_original` and `boxes.labels` give `boxes`, `scores` and
`labels` or `classes`. Every function takes the outputs for one image, each with a first dimension of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference_engine.domain.analysis import DEFAULT_LABELS, Box, Detection, Label
from inference_engine.domain.errors import InferenceFailed, UnsupportedTask
from inference_engine.domain.model import ModelRef, Signature
from inference_engine.domain.tensors import Array, Tensors

_LABELS = ("labels", "label")
_SCORES = ("scores", "score", "probabilities", "logits")
_BOXES = ("boxes",)
_CLASSES = ("labels", "classes")
_VECTORS = ("embedding", "embeddings", "image_embeds", "pooler_output")
_NO_CLASS = -1


def image_input(ref: ModelRef, signature: Signature | None) -> str:
    """The one input that takes image files. Raises `UnsupportedTask`."""
    specs = signature.inputs if signature else ()
    fitting = [spec for spec in specs if spec.dtype == "bytes" and len(spec.shape) == 1]
    if len(specs) != 1 or not fitting:
        takes = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs) or "nothing it tells of"
        raise UnsupportedTask(
            f"{ref} takes {takes}; images are sent as files, to one input of bytes [-1]: "
            "let the pipeline in its model.yaml begin with image.decode",
            param="model",
        )
    return fitting[0].name


def labels_of(
    ref: ModelRef, outputs: Tensors, signature: Signature | None, top_k: int | None, threshold: float | None
) -> tuple[Label, ...]:
    """The best labels of an image, best first. Scores are the model's own: probabilities after the step softmax.

    Raises:
        UnsupportedTask: the outputs are not those of a classifier.
    """
    rows = _rows(ref, outputs)
    labels, scores = _first(rows, _LABELS), _first(rows, _SCORES)
    if labels is not None and scores is not None and labels.shape == scores.shape:
        found = [Label(_text(name), score) for name, score in zip(labels.tolist(), _numbers(scores), strict=True)]
    else:
        found = _numbered(ref, rows, signature)
    found.sort(key=lambda label: label.score, reverse=True)
    return tuple([label for label in found if _enough(label.score, threshold)][: top_k or DEFAULT_LABELS])


def _numbered(ref: ModelRef, rows: Mapping[str, Array], signature: Signature | None) -> list[Label]:
    """The classes of a model that gives a number for each: named by the signature's labels, else by their place."""
    floats = {name: row for name, row in rows.items() if row.dtype.kind == "f" and row.ndim == 1}
    named = [name for name in _SCORES if name in floats] or list(floats)
    if not named or (len(floats) > 1 and named[0] not in _SCORES):
        raise UnsupportedTask(
            f"{ref} gives {_given(rows)}, a classifier gives labels and scores, or one output with a number for each "
            "class: see the step top_k",
            param="model",
        )
    scores = floats[named[0]]
    specs = {spec.name: spec for spec in signature.outputs} if signature else {}
    names = specs[named[0]].labels if named[0] in specs else ()
    return [
        Label(names[place] if place < len(names) else str(place), score) for place, score in enumerate(_numbers(scores))
    ]


def objects_of(ref: ModelRef, outputs: Tensors, top_k: int | None, threshold: float | None) -> tuple[Detection, ...]:
    """The objects in an image, best first, without the places that hold none.

    Raises:
        UnsupportedTask: the outputs are not those of a detector.
    """
    rows = _rows(ref, outputs)
    boxes, scores, classes = _first(rows, _BOXES), _first(rows, _SCORES), _first(rows, _CLASSES)
    if (
        boxes is None
        or scores is None
        or classes is None
        or boxes.shape != (len(scores), 4)
        or classes.shape != scores.shape
    ):
        raise UnsupportedTask(
            f"{ref} gives {_given(rows)}, a detector gives boxes [-1, n, 4], scores [-1, n], and labels or classes "
            "[-1, n]: see the steps boxes.nms, boxes.to_original and boxes.labels",
            param="model",
        )
    found = [
        Detection(_text(name), score, _box(box))
        for box, score, name in zip(boxes, _numbers(scores), classes.tolist(), strict=True)
        if _enough(score, threshold) and name not in (b"", "", _NO_CLASS)
    ]
    found.sort(key=lambda detection: detection.score, reverse=True)
    return tuple(found[:top_k])


def vector_of(ref: ModelRef, outputs: Tensors) -> Array:
    """The embedding of an image, float32 [dimensions].

    Raises:
        UnsupportedTask: the outputs are not those of such a model.
    """
    rows = {name: row for name, row in _rows(ref, outputs).items() if row.dtype.kind == "f"}
    found = _first(rows, _VECTORS)
    if found is None and len(rows) == 1:
        (found,) = rows.values()
    if found is None or found.ndim != 1 or not found.size:
        raise UnsupportedTask(
            f"{ref} gives {_given(rows)}, a model for embeddings gives one output of floats [-1, dimensions]",
            param="model",
        )
    return np.asarray(found, np.float32)


def _rows(ref: ModelRef, outputs: Tensors) -> dict[str, Array]:
    for name, array in outputs.items():
        if array.shape[:1] != (1,):
            raise InferenceFailed(
                f"{ref} gave the output {name!r} with shape {list(array.shape)} for one image: "
                "its first dimension must be that of the images",
                param=name,
            )
    return {name: np.atleast_1d(array[0]) for name, array in outputs.items()}


def _first(rows: Mapping[str, Array], names: tuple[str, ...]) -> Array | None:
    return next((rows[name] for name in names if name in rows), None)


def _given(rows: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {row.dtype} {[-1, *row.shape]}" for name, row in rows.items()) or "nothing of use"


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _enough(score: float, threshold: float | None) -> bool:
    return threshold is None or score >= threshold


def _numbers(row: Array) -> list[float]:
    """Plain numbers with the digits that tell them apart in their own dtype: 0.97 of a float32, not 0.970000029."""
    return [float(str(number)) for number in row]


def _box(sides: Array) -> Box:
    x0, y0, x1, y1 = _numbers(sides)
    return x0, y0, x1, y1
