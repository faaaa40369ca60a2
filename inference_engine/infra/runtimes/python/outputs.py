"""What a user's class gives back for a batch, made arrays and checked."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.tensors import Array, Tensors, dtype_name


def predicted(result: Any, batch: Tensors, declared: dict[str, TensorSpec]) -> dict[str, Array]:
    """The arrays of `predict`; an output that may be a view of an input is copied."""
    if not isinstance(result, dict):
        raise InferenceFailed(f"predict must return a dict of arrays, it returned {type(result).__name__}")
    if declared and result.keys() != declared.keys():
        raise InferenceFailed(f"predict returned {sorted(map(str, result))}, the signature says {sorted(declared)}")
    outputs = {}
    for name, value in result.items():
        spec = declared.get(name)
        fits = spec is not None and type(value) is np.ndarray and _is_as_declared(value, spec)
        outputs[name] = _own(value if fits else _output(name, value, spec), batch)
    return outputs


def numbers(value: Any, method: str, shape: tuple[int, ...]) -> Array:
    """What `embed` or `rerank` returned as float32; -1 in `shape` is any size but 0."""
    try:
        array: Array = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InferenceFailed(f"{method} must return numbers of shape {list(shape)}: {error}") from None
    sizes = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(size != wanted and (wanted != -1 or not size) for size, wanted in sizes):
        raise InferenceFailed(f"{method} returned numbers of shape {list(array.shape)}, expected {list(shape)}")
    if not np.isfinite(array).all():
        raise InferenceFailed(f"{method} returned numbers that are not finite")
    return array


@cache
def _dtype(name: str) -> np.dtype[Any] | None:
    """numpy's dtype object for a signature's word; none for `bytes`, which may be held in several ways."""
    return None if name == "bytes" else np.dtype(name)


def _is_as_declared(array: Array, spec: TensorSpec) -> bool:
    return array.dtype is _dtype(spec.dtype) and array.ndim == len(spec.shape)


def _output(name: Any, value: Any, spec: TensorSpec | None) -> Array:
    if not isinstance(name, str):
        raise InferenceFailed(f"predict returned an output named {name!r}: names must be strings")
    try:
        if isinstance(value, np.ndarray) or spec is None or spec.dtype == "bytes":
            array = np.asarray(value)
        else:
            array = np.asarray(value, dtype=spec.dtype)
    except (TypeError, ValueError) as error:
        raise InferenceFailed(f"output {name!r} cannot be made an array: {error}", param=name) from None
    if array.dtype.kind in "OSU":
        array = _as_bytes(name, array)
    if spec is not None and (dtype_name(array) != spec.dtype or array.ndim != len(spec.shape)):
        raise InferenceFailed(
            f"output {name!r} is {dtype_name(array)} {list(array.shape)}, the signature says {spec.dtype} "
            f"{list(spec.shape)}: convert it in predict or correct the signature",
            param=name,
        )
    return array


def _as_bytes(name: str, array: Array) -> Array:
    flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    if not all(isinstance(item, bytes) for item in flat):
        raise InferenceFailed(f"output {name!r} holds objects that are neither text nor bytes", param=name)
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)


def _own(array: Array, inputs: Tensors) -> Array:
    """`array`, copied when it may be a view of an input: inputs are gone after the call."""
    for given in inputs.values():
        if array is given or (array.base is not None and np.may_share_memory(array, given)):
            return array.copy()
    return array
