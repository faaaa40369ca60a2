"""Preprocess steps for tables of numbers: `cast`, `scale`, `impute`. Knows numpy, not where the numbers come from."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import FLOATS, Side, Specs, choose, last_size, require_dtype
from inference_engine.domain.tensors import Array, Tensors

# fmt: off
Dtype = Literal["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
                "float16", "float32", "float64"]
# fmt: on
PerFeature = float | tuple[float, ...]
"""One number for all features, or a list with one number for each place of the last dimension."""


class Cast(msgspec.Struct, frozen=True):
    """The client sends `from`, the model gets `to`. A value that `to` cannot hold is refused, not bent.

    Rounding a float to a shorter float is not bending; cutting a fraction off, or 300 to uint8, is.
    """

    side: ClassVar[Side] = "preprocess"
    source: Dtype = msgspec.field(name="from")
    to: Dtype = "float32"
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        require_dtype(specs[name], (self.to,))
        return {**specs, name: msgspec.structs.replace(specs[name], dtype=self.source)}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        given = tensors[name]
        if given.size and not _fits(given, np.dtype(self.to)):
            raise InvalidTensor(f"input {name!r} holds values that the model's {self.to} cannot hold", param=name)
        return {**tensors, name: given.astype(self.to)}


class Scale(msgspec.Struct, frozen=True):
    """(x - mean) / std, in the input's own dtype."""

    side: ClassVar[Side] = "preprocess"
    mean: PerFeature = 0.0
    std: PerFeature = 1.0
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        spec = _per_feature("std", self.std, _per_feature("mean", self.mean, specs[name]))
        if not np.all(np.asarray(self.std, spec.dtype)):
            raise InvalidManifest(f"std holds a zero, by which tensor {name!r} cannot be divided")
        return {**specs, name: spec}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        given = tensors[name]
        scaled = (given - np.asarray(self.mean, given.dtype)) / np.asarray(self.std, given.dtype)
        return {**tensors, name: scaled}


class Impute(msgspec.Struct, frozen=True):
    """Puts `values` in the place of NaN."""

    side: ClassVar[Side] = "preprocess"
    values: PerFeature
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        return {**specs, name: _per_feature("values", self.values, specs[name])}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        given = tensors[name]
        return {**tensors, name: np.where(np.isnan(given), np.asarray(self.values, given.dtype), given)}


def _per_feature(option: str, values: PerFeature, spec: TensorSpec) -> TensorSpec:
    """`spec`, of floats, with its last dimension fixed if `values` is a list; raises when they do not fit."""
    require_dtype(spec, FLOATS)
    with np.errstate(over="ignore"):
        if not np.isfinite(np.asarray(values, spec.dtype)).all():
            raise InvalidManifest(f"{option} holds a number that is not finite in {spec.dtype}, tensor {spec.name!r}")
    if not isinstance(values, tuple):
        return spec
    if last_size(spec) not in (-1, len(values)):
        raise InvalidManifest(
            f"{option} has {len(values)} numbers, tensor {spec.name!r} has {spec.shape[-1]} features "
            f"(shape {list(spec.shape)})"
        )
    return msgspec.structs.replace(spec, shape=(*spec.shape[:-1], len(values)))


def _fits(given: Array, to: np.dtype[np.generic]) -> bool:
    """Whether every value keeps its meaning in `to`: whole numbers exactly, floats as finite as they were."""
    if to.kind == "f":
        with np.errstate(over="ignore"):
            return bool(np.isfinite(given.astype(to))[np.isfinite(given)].all())
    if to.kind == "b":
        return bool(((given == 0) | (given == 1)).all())
    least, most = int(np.iinfo(to.type).min), int(np.iinfo(to.type).max)  # type: ignore[type-var]  # only integers left
    if given.dtype.kind != "f":
        return int(given.min()) >= least and int(given.max()) <= most
    # Compared in float64, where a limit of int64 is not exact but the power of two right after it is.
    wide = given.astype(np.float64)
    inside = (wide >= float(least)) & (wide < float(most + 1))
    return bool((inside & (wide == np.trunc(wide))).all())
