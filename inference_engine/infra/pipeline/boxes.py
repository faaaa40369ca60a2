"""Postprocess steps for detectors: `boxes.decode`, `boxes.nms`, `boxes.to_original`, `boxes.labels`.

Boxes are floats x0, y0, x1, y1 in pixels: of the image the model saw, and after `boxes.to_original` of the client's.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import FLOATS, NOTE, Side, Specs, choose, require_dtype
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.pipeline.classes import read_labels

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NOTHING = -1
"""The class of a place that holds no box."""
_FARTHEST = 6.0  # e^6 cells: beyond any image


class Decode(msgspec.Struct, frozen=True):
    """Makes `boxes` and `scores` of a detector's map [-1, 4 + classes, rows, columns], in the place of the output.

    Channels 0 to 3 hold, for each cell of `stride` pixels, the logarithms of the distances from its middle to the left,
    upper, right and lower side, in cells; the others the logits of the classes.
    """

    side: ClassVar[Side] = "postprocess"
    stride: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        spec = specs[name]
        require_dtype(spec, FLOATS)
        if len(spec.shape) != 4 or -1 in spec.shape[1:] or spec.shape[1] < 5:
            raise InvalidManifest(
                f"tensor {name!r} has shape {list(spec.shape)}, it must be [-1, 4 + classes, rows, columns]"
            )
        rows, channels, high, wide = spec.shape
        others = {key: value for key, value in specs.items() if key != name}
        boxes = TensorSpec("boxes", "float32", (rows, high * wide, 4))
        scores = TensorSpec("scores", "float32", (rows, high * wide, channels - 4))
        return {**others, "boxes": boxes, "scores": scores}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        given = tensors[name].astype(np.float32, copy=False)
        count, channels, high, wide = given.shape
        flat = given.reshape(count, channels, high * wide).transpose(0, 2, 1)
        down, across = np.divmod(np.arange(high * wide), wide)
        middles = (np.stack([across, down], axis=1).astype(np.float32) + 0.5) * self.stride
        sides = np.exp(np.clip(flat[..., :4], -_FARTHEST, _FARTHEST)) * np.float32(self.stride)
        boxes = np.concatenate([middles - sides[..., :2], middles + sides[..., 2:]], axis=-1)
        others = {key: value for key, value in tensors.items() if key != name}
        return {**others, "boxes": boxes, "scores": _sigmoid(flat[..., 4:])}


class Suppress(msgspec.Struct, frozen=True):
    """Non-maximum suppression: of boxes of one class that share more than `iou`, the best alone stays.

    Takes boxes [-1, n, 4] and scores [-1, n, classes]; gives the best `k` of each image, best first: boxes [-1, k, 4],
    scores [-1, k] and classes int64 [-1, k]; where there are fewer, boxes and scores are 0 and classes -1. Of equal
    scores the first box, then the lower class, comes first.
    """

    side: ClassVar[Side] = "postprocess"
    k: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    at: Share = 0.3
    iou: Share = 0.5
    candidates: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    boxes: str = "boxes"
    scores: str = "scores"

    def preview(self, specs: Specs) -> Specs:
        boxes, scores = specs[choose(specs, self.boxes)], specs[choose(specs, self.scores)]
        for spec in (boxes, scores):
            require_dtype(spec, FLOATS)
            if len(spec.shape) != 3:
                raise InvalidManifest(f"tensor {spec.name!r} has shape {list(spec.shape)}, it must be [-1, boxes, ...]")
        if boxes.shape[2] != 4 or (-1 not in (boxes.shape[1], scores.shape[1]) and boxes.shape[1] != scores.shape[1]):
            raise InvalidManifest(
                f"tensor {boxes.name!r} has shape {list(boxes.shape)}, it must be [-1, {scores.shape[1]}, 4]"
            )
        rows = boxes.shape[0]
        return {
            **specs,
            self.boxes: TensorSpec(self.boxes, boxes.dtype, (rows, self.k, 4)),
            self.scores: TensorSpec(self.scores, scores.dtype, (rows, self.k)),
            "classes": TensorSpec("classes", "int64", (rows, self.k)),
        }

    def apply(self, tensors: Tensors) -> Tensors:
        boxes, scores = tensors[self.boxes], tensors[self.scores]
        rows = len(boxes)
        found = np.zeros((rows, self.k, 4), boxes.dtype)
        best = np.zeros((rows, self.k), scores.dtype)
        classes = np.full((rows, self.k), NOTHING, np.int64)
        for row in range(rows):
            where, kinds = self._kept(boxes[row], scores[row])
            found[row, : len(where)] = boxes[row, where]
            best[row, : len(where)] = scores[row, where, kinds]
            classes[row, : len(where)] = kinds
        return {**tensors, self.boxes: found, self.scores: best, "classes": classes}

    def _kept(self, boxes: Array, scores: Array) -> tuple[Array, Array]:
        """Which boxes of one image stay, and as which classes, best first."""
        where, kinds = np.nonzero(scores >= self.at)
        order = np.argsort(-scores[where, kinds], kind="stable")[: self.candidates]
        where, kinds = where[order], kinds[order]
        boxes = boxes.astype(np.float64, copy=False)  # areas of float16 boxes overflow
        kept: list[int] = []
        open_ = np.ones(len(where), dtype=bool)
        for place in range(len(where)):
            if not open_[place]:
                continue
            kept.append(place)
            if len(kept) == self.k:
                break
            rivals = open_ & (kinds == kinds[place])
            open_[rivals] = shared(boxes[where[place]], boxes[where[rivals]]) <= self.iou
        return where[kept], kinds[kept]


class ToOriginal(msgspec.Struct, frozen=True):
    """Boxes in pixels of the upright image the client sent, cut at its edges: undoes resize, crop and letterbox.

    A box of zeros stays as it is. `image` names the input whose images they are.
    """

    side: ClassVar[Side] = "postprocess"
    boxes: str = "boxes"
    image: str | None = None

    def preview(self, specs: Specs) -> Specs:
        spec = specs[choose(specs, self.boxes)]
        require_dtype(spec, FLOATS)
        if len(spec.shape) != 3 or spec.shape[2] != 4:
            raise InvalidManifest(f"tensor {spec.name!r} has shape {list(spec.shape)}, it must be [-1, boxes, 4]")
        self._note(specs)
        return specs

    def apply(self, tensors: Tensors) -> Tensors:
        boxes = tensors[self.boxes]
        note = tensors[self._note(tensors)][:, None, :]
        scale, shift, size = (np.tile(note[..., at : at + 2], 2) for at in (0, 2, 4))
        found = np.clip((boxes - shift) / scale, 0, size).astype(boxes.dtype)
        empty = ~boxes.any(axis=-1, keepdims=True)
        return {**tensors, self.boxes: np.where(empty, boxes, found)}

    def _note(self, names: Specs | Tensors) -> str:
        there = [name for name in names if name.startswith(NOTE) and ":" not in name]  # others are of padded inputs
        wanted = there[0] if self.image is None and len(there) == 1 else f"{NOTE}{self.image}"
        if wanted not in there:
            inputs = ", ".join(repr(name.removeprefix(NOTE)) for name in there) or "none"
            raise InvalidManifest(
                "boxes can only be mapped back to images that image.decode made, say which with image; "
                f"there are: {inputs}"
            )
        return wanted


class Labels(msgspec.Struct, frozen=True, dict=True):
    """The classes' names as `labels`, in the place of the class numbers; -1 is an empty text.

    `file` has one label in each line, the first for class 0.
    """

    side: ClassVar[Side] = "postprocess"
    file: Path
    keep: bool = False
    output: str = "classes"

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        require_dtype(specs[name], ("int64", "int32"))
        self._texts  # noqa: B018 - reads the file, so that a bad one is an error of the load
        others = {key: value for key, value in specs.items() if self.keep or key != name}
        return {**others, "labels": TensorSpec("labels", "bytes", specs[name].shape)}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        classes = tensors[name]
        if classes.size and not NOTHING <= classes.min() <= classes.max() < len(self._texts) - 1:
            raise InferenceFailed(f"output {name!r} holds classes that the labels' file does not name", param=name)
        others = {key: value for key, value in tensors.items() if self.keep or key != name}
        return {**others, "labels": self._texts[classes]}

    @cached_property
    def _texts(self) -> Array:
        """The labels by class, and an empty one at the end, which is where -1 points."""
        return np.array([*read_labels(self.file), b""], dtype=object)


def shared(one: Array, others: Array) -> Array:
    """The IoU of a box [4] with each of `others` [n, 4]; 0 where both are empty."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    area = np.clip(one[2:] - one[:2], 0, None).prod() + np.clip(others[:, 2:] - others[:, :2], 0, None).prod(axis=1)
    union = area - both
    found: Array = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return found


def _sigmoid(logits: Array) -> Array:
    found: Array = 0.5 * (1 + np.tanh(0.5 * logits))  # never overflows
    return found
