"""Named arrays and the checks that hold them to a signature. Knows numpy and nothing of any wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_engine.domain.errors import InferenceFailed, InvalidTensor
from inference_engine.domain.model import Signature

Array = NDArray[Any]
Tensors = Mapping[str, Array]
"""Input or output tensors by name. Strings are object arrays of `bytes`."""


ANY = -1
"""A dimension of any size in a signature's shape."""


def dtype_name(array: Array) -> str:
    """The signature's word for an array's dtype: `bytes` for object and string arrays, else numpy's name."""
    return "bytes" if array.dtype.kind in "OSU" else array.dtype.name


class InputCheck:
    """Holds requests to one signature. Made once per loaded model, because it is on the way of every request."""

    __slots__ = ("_batched", "_specs")

    def __init__(self, signature: Signature) -> None:
        self._batched = signature.batched
        self._specs = {
            spec.name: (
                spec,
                None if spec.dtype == "bytes" else np.dtype(spec.dtype),
                len(spec.shape),
                [(axis, size) for axis, size in enumerate(spec.shape) if size != ANY],
            )
            for spec in signature.inputs
        }

    def rows(self, tensors: Tensors) -> int:
        """The batch size of `tensors`, 1 for models without a batch dimension.

        Raises:
            InvalidTensor: a tensor is missing, unknown, of a wrong dtype or shape, or batch sizes differ; the error
                names the tensor, what came and what is expected.
        """
        if tensors.keys() != self._specs.keys():
            _name_difference(tensors, self._specs)
        rows = -1
        for name, (spec, dtype, rank, fixed) in self._specs.items():
            array = tensors[name]
            if array.dtype != dtype and (dtype is not None or array.dtype.kind not in "OSU"):
                raise InvalidTensor(f"input {name!r} is {dtype_name(array)}, the model takes {spec.dtype}", param=name)
            shape = array.shape
            if len(shape) != rank or any(shape[axis] != size for axis, size in fixed):
                raise InvalidTensor(
                    f"input {name!r} has shape {list(shape)}, the model takes {list(spec.shape)} (-1: any size)",
                    param=name,
                )
            if self._batched:
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

    Raises:
        InferenceFailed: an output does not have `sum(rows)` rows, so it cannot be given back to its requests.
    """
    total = sum(rows)
    for name, array in batch.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise InferenceFailed(
                f"output {name!r} has shape {list(array.shape)} for a batch of {total} rows: set max_batch_size: 1 "
                "in the manifest if the model does not keep one output row for each input row",
                param=name,
            )
    if len(rows) == 1:
        return [dict(batch)]
    parts: list[dict[str, Array]] = []
    start = 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in batch.items()})
        start += count
    return parts
