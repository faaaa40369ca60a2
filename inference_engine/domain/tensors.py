"""Named arrays and the checks that hold them to a signature. Knows numpy and nothing of any wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_engine.domain.errors import InferenceFailed, InvalidTensor
from inference_engine.domain.model import Signature, TensorSpec

Array = NDArray[Any]
Tensors = Mapping[str, Array]
"""Input or output tensors by name. Strings are object arrays of `bytes`."""


def dtype_name(array: Array) -> str:
    """The signature's word for an array's dtype: `bytes` for object and string arrays, else numpy's name."""
    return "bytes" if array.dtype.kind in "OSU" else array.dtype.name


def check_inputs(tensors: Tensors, signature: Signature) -> None:
    """Hold `tensors` to `signature`; the error names the tensor, what came and what is expected.

    Raises:
        InvalidTensor: a tensor is missing, unknown, or of a wrong dtype or shape, or batch sizes differ.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    if tensors.keys() != specs.keys():
        _name_difference(tensors, specs)
    rows: int | None = None
    for name, spec in specs.items():
        array = tensors[name]
        check_tensor(array, spec)
        if signature.batched:
            if rows is None:
                rows = array.shape[0]
            elif rows != array.shape[0]:
                raise InvalidTensor(
                    f"input {name!r} has {array.shape[0]} rows but the inputs before it have {rows}: "
                    "give every input the same first dimension",
                    param=name,
                )
    if rows == 0:
        raise InvalidTensor("the batch is empty: send at least one row", param=next(iter(specs)))


def check_tensor(array: Array, spec: TensorSpec) -> None:
    """Hold one array to its specification.

    Raises:
        InvalidTensor: dtype or shape differ.
    """
    if dtype_name(array) != spec.dtype:
        raise InvalidTensor(
            f"input {spec.name!r} is {dtype_name(array)}, the model takes {spec.dtype}", param=spec.name
        )
    if len(array.shape) != len(spec.shape) or any(
        want not in (-1, have) for have, want in zip(array.shape, spec.shape, strict=False)
    ):
        raise InvalidTensor(
            f"input {spec.name!r} has shape {list(array.shape)}, the model takes {list(spec.shape)} (-1: any size)",
            param=spec.name,
        )


def _name_difference(tensors: Tensors, specs: Mapping[str, TensorSpec]) -> None:
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
