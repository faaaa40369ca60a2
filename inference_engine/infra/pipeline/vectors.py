"""Postprocess steps for embeddings: `pool`, `normalize`."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import FLOATS, Side, Specs, choose, last_size, require_dtype
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.pipeline.lengths import find_note, valid_places


class Pool(msgspec.Struct, frozen=True):
    """[-1, places, values] to [-1, values]: over the places that are not padding, by the lengths of the input `of`.

    `first` takes the first place (the token [CLS] of BERT), `last` the last that is not padding.
    """

    side: ClassVar[Side] = "postprocess"
    method: Literal["mean", "max", "first", "last"] = "mean"
    of: str | None = None
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        spec = specs[name]
        require_dtype(spec, FLOATS)
        if len(spec.shape) != 3:
            raise InvalidManifest(f"tensor {name!r} has shape {list(spec.shape)}, it must be [-1, places, values]")
        find_note(list(specs), self.of)
        return {**specs, name: TensorSpec(name, spec.dtype, (spec.shape[0], spec.shape[2]))}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        given = tensors[name]
        rows, places, _ = given.shape
        note = find_note(list(tensors), self.of)
        sizes = valid_places(None if note is None else tensors[note], rows, places)
        if self.method == "first":
            found = given[:, 0]
        elif self.method == "last":
            found = given[np.arange(rows), np.maximum(sizes, 1) - 1]
        else:
            counts = (np.arange(places) < sizes[:, None])[..., None]
            wide = given.astype(np.result_type(given, np.float32), copy=False)
            if self.method == "mean":
                found = np.where(counts, wide, 0).sum(axis=1) / np.maximum(sizes, 1)[:, None]
            else:
                found = np.where(counts, wide, -np.inf).max(axis=1, initial=-np.inf)
        return {**tensors, name: np.ascontiguousarray(found, given.dtype)}


class Normalize(msgspec.Struct, frozen=True):
    """Vectors of length 1, along the last dimension. A vector of zeros stays one."""

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
        wide = given.astype(np.result_type(given, np.float32), copy=False)
        lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
        return {**tensors, name: (wide / np.where(lengths > 0, lengths, 1)).astype(given.dtype, copy=False)}
