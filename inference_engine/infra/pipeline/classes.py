"""Postprocess steps for classifiers: `softmax`, `sigmoid`, `top_k`, `argmax`, `threshold`, `labels.decode`.

The classes are the last dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import msgspec
import numpy as np

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import FLOATS, Side, Specs, choose, last_size, require_dtype
from inference_engine.domain.tensors import Array, Tensors

T = TypeVar("T")
_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_NUMBERS = (*FLOATS, *_WHOLE)


class Softmax(msgspec.Struct, frozen=True):
    """Makes probabilities of logits; computed at least in float32, given in the output's own dtype."""

    side: ClassVar[Side] = "postprocess"
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        spec = specs[choose(specs, self.output)]
        require_dtype(spec, FLOATS)
        last_size(spec)
        return specs

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        given = tensors[name]
        logits = given.astype(np.result_type(given, np.float32), copy=False)
        with np.errstate(invalid="ignore"):  # a row of nothing but -inf has no probabilities: NaN
            powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
            shares = powers / powers.sum(axis=-1, keepdims=True)
        return {**tensors, name: shares.astype(given.dtype, copy=False)}


class Sigmoid(msgspec.Struct, frozen=True):
    """1 / (1 + e^-x): makes a probability of each logit, for classes that do not exclude each other."""

    side: ClassVar[Side] = "postprocess"
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        require_dtype(specs[choose(specs, self.output)], FLOATS)
        return specs

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        given = tensors[name]
        wide = given.astype(np.result_type(given, np.float32), copy=False)
        return {**tensors, name: (0.5 * (1 + np.tanh(0.5 * wide))).astype(given.dtype, copy=False)}  # never overflows


class Argmax(msgspec.Struct, frozen=True):
    """The class with the highest value, int64, without the last dimension. Of equal values the first; of NaN too."""

    side: ClassVar[Side] = "postprocess"
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        require_dtype(specs[name], _NUMBERS)
        last_size(specs[name])
        return {**specs, name: TensorSpec(name, "int64", specs[name].shape[:-1])}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        return {**tensors, name: tensors[name].argmax(axis=-1)}


class LabelsDecode(msgspec.Struct, frozen=True, dict=True):
    """The names of classes as `labels`, in the place of an output of class numbers.

    `file` has one label in each line, the first for class 0.
    """

    side: ClassVar[Side] = "postprocess"
    file: Path
    keep: bool = False
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        spec = specs[name]
        if spec.dtype not in _WHOLE:
            remedy = ": put argmax before this step" if spec.dtype in FLOATS else ""
            raise InvalidManifest(f"tensor {name!r} is {spec.dtype}, class numbers are integers{remedy}")
        self._texts  # noqa: B018 - reads the file, so that a bad one is an error of the load
        others = {key: value for key, value in specs.items() if self.keep or key != name}
        return {**others, "labels": TensorSpec("labels", "bytes", spec.shape)}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        classes = tensors[name]
        if classes.size and not 0 <= classes.min() <= classes.max() < len(self._texts):
            raise InferenceFailed(f"output {name!r} holds classes that the labels' file does not name", param=name)
        others = {key: value for key, value in tensors.items() if self.keep or key != name}
        return {**others, "labels": self._texts[classes]}

    @cached_property
    def _texts(self) -> Array:
        return np.array(read_labels(self.file), dtype=object)


class TopK(msgspec.Struct, frozen=True, dict=True):
    """The `k` highest values of each row as `scores`, highest first, and their classes as `labels` (texts).

    `labels` is a file with one label in each line, the first for class 0; without it a label is the class's number.
    They take the place of the output, unless `keep`; other outputs called `labels` or `scores` are replaced.
    Of equal values the lower class comes first; NaN comes last.
    """

    side: ClassVar[Side] = "postprocess"
    k: Annotated[int, msgspec.Meta(ge=1)]
    labels: Path | None = None
    keep: bool = False
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        spec = specs[name]
        require_dtype(spec, FLOATS)
        classes = last_size(spec)
        known = -1 if self._texts is None else len(self._texts)
        if -1 not in (known, classes) and known != classes:
            raise InvalidManifest(f"labels has {known} lines, tensor {name!r} has {classes} classes")
        if 0 <= max(known, classes) < self.k:
            raise InvalidManifest(f"k is {self.k}, tensor {name!r} has {max(known, classes)} classes")
        shape = (*spec.shape[:-1], self.k)
        return {
            **self._others(specs, name),
            "labels": TensorSpec("labels", "bytes", shape),
            "scores": TensorSpec("scores", spec.dtype, shape),
        }

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        values = tensors[name]
        classes = values.shape[-1]
        if classes < self.k or (self._texts is not None and classes != len(self._texts)):
            raise InferenceFailed(f"output {name!r} has {classes} classes, which fits neither k nor labels", param=name)
        order = np.argsort(-values, axis=-1, kind="stable")[..., : self.k]
        return {
            **self._others(tensors, name),
            "labels": _numbers(order) if self._texts is None else self._texts[order],
            "scores": np.take_along_axis(values, order, axis=-1),
        }

    def _others(self, named: Mapping[str, T], name: str) -> dict[str, T]:
        return {key: value for key, value in named.items() if self.keep or key != name}

    @cached_property
    def _texts(self) -> Array | None:
        """The labels by class. `preview` asks first, so that a bad file is an error of the load."""
        if self.labels is None:
            return None
        return np.array(read_labels(self.labels), dtype=object)


class Threshold(msgspec.Struct, frozen=True):
    """True where the output is `at` or more. NaN is not."""

    side: ClassVar[Side] = "postprocess"
    at: float
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        spec = specs[name]
        require_dtype(spec, _NUMBERS)
        with np.errstate(over="ignore"):
            if not np.isfinite(np.asarray(self.at, spec.dtype if spec.dtype in FLOATS else np.float64)):
                raise InvalidManifest(f"at is {self.at}, which is not finite in {spec.dtype}, tensor {name!r}")
        return {**specs, name: msgspec.structs.replace(spec, dtype="bool")}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        return {**tensors, name: np.asarray(tensors[name] >= self.at)}


def _numbers(order: Array) -> Array:
    texts = np.empty(order.size, dtype=object)
    texts[:] = [b"%d" % index for index in order.ravel().tolist()]
    return texts.reshape(order.shape)


def read_labels(file: Path) -> list[bytes]:
    """One label from each line. Raises `InvalidManifest`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"labels: {file} cannot be read as UTF-8 text: {error}") from None
    lines = text.removesuffix("\n").split("\n")  # not splitlines, which also splits at U+2028 and others
    return [line.encode() for line in lines]
