"""Named arrays and the checks that hold them to a signature. Knows numpy and nothing of any wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_engine.domain.errors import InferenceFailed, InvalidTensor
from inference_engine.domain.model import Signature, TensorSpec

Array = NDArray[Any]
Tensors = Mapping[str, Array]
"""Input or output tensors by name. Strings are object arrays of `bytes`."""


ANY = -1
"""A dimension of any size in a signature's shape."""


def dtype_name(array: Array) -> str:
    """The signature's word for an array's dtype: `bytes` for object and string arrays, else numpy's name."""
    return "bytes" if array.dtype.kind in "OSU" else array.dtype.name


class _Expected(NamedTuple):
    """What one input must be. `tail` is the shape after a free first dimension where all of it is fixed, else None."""

    spec: TensorSpec
    dtype: np.dtype[Any] | None
    tail: tuple[int, ...] | None

    @classmethod
    def of(cls, spec: TensorSpec) -> _Expected:
        dtype = None if spec.dtype == "bytes" else np.dtype(spec.dtype)
        tail = spec.shape[1:] if spec.shape[:1] == (ANY,) and ANY not in spec.shape[1:] else None
        return cls(spec, dtype, tail)

    def takes(self, array: Array) -> bool:
        return array.dtype.kind in "OSU" if self.dtype is None else array.dtype == self.dtype

    def fits(self, shape: tuple[int, ...]) -> bool:
        wanted = self.spec.shape
        return len(shape) == len(wanted) and all(
            size in (ANY, given) for size, given in zip(wanted, shape, strict=True)
        )


def _fits(wanted: int, given: int) -> bool:
    return wanted in (ANY, given)


class InputCheck:
    """Holds requests to one signature. Made once per loaded model, because it is on the way of every request."""

    __slots__ = ("_batched", "_specs", "leaves_shapes_open")

    def __init__(self, signature: Signature) -> None:
        self._batched = signature.batched
        self.leaves_shapes_open = any(ANY in spec.shape[1:] for spec in signature.inputs)
        self._specs = {spec.name: _Expected.of(spec) for spec in signature.inputs}

    def rows(self, tensors: Tensors) -> int:
        """The batch size of `tensors`, 1 for models without a batch dimension.

        Raises:
            InvalidTensor: a tensor is missing, unknown, of a wrong dtype or shape, or batch sizes differ; the error
                names the tensor, what came and what is expected.
        """
        specs = self._specs
        if tensors.keys() != specs.keys():
            _name_difference(tensors, specs)
        rows = -1
        for name, expected in specs.items():
            array = tensors[name]
            if array.dtype is not expected.dtype and not expected.takes(array):
                raise InvalidTensor(
                    f"input {name!r} is {dtype_name(array)}, the model takes {expected.spec.dtype}", param=name
                )
            shape = array.shape
            if (shape[1:] != expected.tail or not shape) and not expected.fits(shape):
                wanted = list(expected.spec.shape)
                raise InvalidTensor(
                    f"input {name!r} has shape {list(shape)}, the model takes {wanted} (-1: any size)", param=name
                )
            if self._batched and shape[0] != rows:
                rows = _same_rows(name, shape[0], rows)
        return rows if self._batched else 1


def _same_rows(name: str, rows: int, before: int) -> int:
    if before not in (-1, rows):
        raise InvalidTensor(
            f"input {name!r} has {rows} rows but the inputs before it have {before}: "
            "give every input the same first dimension",
            param=name,
        )
    if rows == 0:
        raise InvalidTensor(f"input {name!r} is empty: send at least one row", param=name)
    return rows


def _name_difference(tensors: Tensors, specs: Mapping[str, object]) -> None:
    for name in specs:
        if name not in tensors:
            raise InvalidTensor(f"input {name!r} is missing; the model takes {sorted(specs)}", param=name)
    for name in tensors:
        if name not in specs:
            raise InvalidTensor(f"input {name!r} is unknown; the model takes {sorted(specs)}", param=name)


def concatenate(parts: Sequence[Tensors]) -> dict[str, Array]:
    """Merge requests along the first dimension. One part is returned as it is, without a copy."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(batch: Tensors, rows: Sequence[int]) -> list[dict[str, Array]]:
    """Undo `concatenate` on outputs: views of `batch`, `rows[i]` rows for request i.

    A request of one row that is alone gets all there is: models without a dimension for rows count as one row.

    Raises:
        InferenceFailed: an output does not have `sum(rows)` rows, so it cannot be given back to its requests.
    """
    total = sum(rows)
    if total == 1:
        return [dict(batch)]
    for name, array in batch.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise InferenceFailed(
                f"output {name!r} has shape {list(array.shape)} for a batch of {total} rows: set max_batch_size: 1 "
                "in the manifest if the model does not keep one output row for each input row",
                param=name,
            )
    if len(rows) == 1:
        return [dict(batch)]
    parts: list[dict[str, Array]] = [{} for _ in rows]
    for name, array in batch.items():
        start = 0
        for part, count in zip(parts, rows, strict=True):
            part[name] = array[start : start + count]
            start += count
    return parts
