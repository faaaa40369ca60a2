"""Steps that name and join tensors: `rename`, `inputs.rename`, `inputs.expand`, `columns.join`, `columns.split`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, TypeVar

import msgspec
import numpy as np

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import NOTE, Side, Specs, choose, last_size
from inference_engine.domain.tensors import ANY, Tensors
from inference_engine.infra.pipeline.numbers import Dtype

T = TypeVar("T")
Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=10_000)]


class Rename(msgspec.Struct, frozen=True):
    """Outputs get other names: `names` has the new one by the old one."""

    side: ClassVar[Side] = "postprocess"
    names: Annotated[dict[str, str], msgspec.Meta(min_length=1)]

    def preview(self, specs: Specs) -> Specs:
        _check_names(specs, self.names)
        return _renamed(specs, self.names)

    def apply(self, tensors: Tensors) -> Tensors:
        return _renamed(tensors, self.names)


class RenameInputs(msgspec.Struct, frozen=True):
    """The client's names for inputs, in the place of the model's: `names` has the model's by the client's."""

    side: ClassVar[Side] = "preprocess"
    names: Annotated[dict[str, str], msgspec.Meta(min_length=1)]

    def preview(self, specs: Specs) -> Specs:
        back = {new: old for old, new in self.names.items()}
        if len(back) != len(self.names):
            raise InvalidManifest(f"two of {sorted(self.names)} would get the same name")
        _check_names(specs, back)
        return _renamed(specs, back)

    def apply(self, tensors: Tensors) -> Tensors:
        return _renamed(tensors, self.names)


class Expand(msgspec.Struct, frozen=True):
    """Gives an input one more dimension, of size 1, in the place `at`: 1 is right after the rows."""

    side: ClassVar[Side] = "preprocess"
    at: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        shape = list(specs[name].shape)
        if self.at >= len(shape) or shape[self.at] not in (1, ANY):
            raise InvalidManifest(f"tensor {name!r} has shape {shape}, dimension {self.at} must be there and be 1")
        del shape[self.at]
        return {**specs, name: msgspec.structs.replace(specs[name], shape=tuple(shape))}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        return {**tensors, name: np.expand_dims(tensors[name], self.at)}


class Join(msgspec.Struct, frozen=True):
    """The client sends one tensor [-1] for each of `columns`; the model gets them as one [-1, columns]."""

    side: ClassVar[Side] = "preprocess"
    columns: Names
    input: str
    dtype: Dtype = "float32"

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        spec = specs[name]
        if spec.dtype != self.dtype:
            raise InvalidManifest(f"tensor {name!r} is {spec.dtype}, the columns are {self.dtype}: give dtype")
        if len(spec.shape) != 2 or spec.shape[1] not in (ANY, len(self.columns)):
            raise InvalidManifest(
                f"tensor {name!r} has shape {list(spec.shape)}, {len(self.columns)} columns make "
                f"[-1, {len(self.columns)}]"
            )
        others = {key: value for key, value in specs.items() if key != name}
        check_new(self.columns, others)
        rows = spec.shape[0]
        return {**others, **{column: TensorSpec(column, self.dtype, (rows,)) for column in self.columns}}

    def apply(self, tensors: Tensors) -> Tensors:
        others = {key: value for key, value in tensors.items() if key not in self.columns}
        return {**others, self.input: np.stack([tensors[column] for column in self.columns], axis=1)}


class Split(msgspec.Struct, frozen=True):
    """An output [-1, n] becomes n outputs [-1] with these `names`, in its place; `keep` leaves it too."""

    side: ClassVar[Side] = "postprocess"
    names: Names
    keep: bool = False
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        spec = specs[name]
        size = last_size(spec)
        if len(spec.shape) != 2 or size not in (ANY, len(self.names)):
            raise InvalidManifest(
                f"tensor {name!r} has shape {list(spec.shape)}, {len(self.names)} names are for [-1, {len(self.names)}]"
            )
        others = {key: value for key, value in specs.items() if self.keep or key != name}
        check_new(self.names, others)
        return {**others, **{one: TensorSpec(one, spec.dtype, spec.shape[:1]) for one in self.names}}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        given = tensors[name]
        if given.shape[-1] != len(self.names):
            raise InferenceFailed(f"output {name!r} has {given.shape[-1]} columns, {len(self.names)} are named")
        others = {key: value for key, value in tensors.items() if self.keep or key != name}
        return {**others, **{one: np.ascontiguousarray(given[:, at]) for at, one in enumerate(self.names)}}


def check_new(names: tuple[str, ...], others: Mapping[str, object]) -> None:
    """Raises `InvalidManifest` for names that are empty, those of notes, used twice, or of other tensors."""
    seen: set[str] = set()
    for name in names:
        if not name or name.startswith(NOTE):
            raise InvalidManifest(f"{name!r} cannot be a tensor's name")
        if name in seen or name in others:
            raise InvalidManifest(f"there would be two tensors {name!r}")
        seen.add(name)


def _check_names(specs: Specs, names: Mapping[str, str]) -> None:
    for old in names:
        choose([name for name in specs if not name.startswith(NOTE)], old)
    check_new(tuple(names.values()), {key: value for key, value in specs.items() if key not in names})


def _renamed(named: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    return {names.get(name, name): value for name, value in named.items()}
