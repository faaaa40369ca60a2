"""What the runtimes of tabular models share: tensors as rows of features, labels and numbers as outputs.

Knows numpy and signatures, and none of the libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference_engine.domain.errors import InvalidTensor, ModelLoadFailed
from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.domain.tensors import Array, Tensors, dtype_name

INPUT, LABEL, PROBABILITIES, DECISION, PREDICTION = "input", "label", "probabilities", "decision", "prediction"
_PROBE_ROWS = 2


def rows_input(features: int, dtype: str) -> tuple[TensorSpec, ...]:
    """One tensor of rows with all features."""
    return (TensorSpec(INPUT, dtype, (-1, features)),)


def outgoing(found: Any) -> Array:
    """A library's output as the engine's: texts as bytes, sparse matrices dense, no views of Python objects."""
    array: Array = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
    if array.dtype.kind in "OSU":
        flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
        made = np.empty(len(flat), dtype=object)
        made[:] = flat
        return made.reshape(array.shape)
    return array


def text(name: str, array: Array) -> Array:
    """A tensor of bytes as Python strings.

    Raises:
        InvalidTensor: they are not UTF-8.
    """
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidTensor(f"input {name!r} holds bytes that are not UTF-8 text: {error}", param=name) from None
    made = np.empty(len(flat), dtype=object)
    made[:] = flat
    return made.reshape(array.shape)


def probe(
    inputs: Sequence[TensorSpec], run: Callable[[Tensors], Tensors], samples: Mapping[str, Any] | None = None
) -> tuple[TensorSpec, ...]:
    """The outputs' names, dtypes and shapes, found by computing two rows of zeros (or of `samples`, by input name).

    Raises what `run` raises.
    """
    batch: dict[str, Array] = {}
    for spec in inputs:
        shape = (_PROBE_ROWS, *(max(size, 1) for size in spec.shape[1:]))
        value = (samples or {}).get(spec.name, b"" if spec.dtype == "bytes" else 0)
        batch[spec.name] = np.full(shape, value, dtype=object if spec.dtype == "bytes" else spec.dtype)
    return tuple(TensorSpec(name, dtype_name(array), (-1, *array.shape[1:])) for name, array in run(batch).items())


def agreed(declared: Signature | None, found: Signature, path: Path, dtypes: Sequence[str] = ()) -> Signature:
    """What is declared in the manifest, held to what the file shows; `dtypes` may stand for each other.

    Raises:
        ModelLoadFailed: names or sizes differ; the message names the tensor.
    """
    if declared is None:
        return found
    _compare("inputs", declared.inputs, found.inputs, path, dtypes)
    if declared.outputs and found.outputs:
        _compare("outputs", declared.outputs, found.outputs, path, ())
    return Signature(declared.inputs, declared.outputs or found.outputs)


def _compare(
    kind: str, given: Sequence[TensorSpec], real: Sequence[TensorSpec], path: Path, dtypes: Sequence[str]
) -> None:
    found = {spec.name: spec for spec in real}
    if {spec.name for spec in given} != found.keys():
        odd = sorted({spec.name for spec in given} ^ found.keys())[0]
        raise ModelLoadFailed(
            f"{path}: the signature's {kind} are {[spec.name for spec in given]}, the model's are {list(found)}",
            param=odd,
        )
    for spec in given:
        other = found[spec.name]
        same_type = spec.dtype == other.dtype or {spec.dtype, other.dtype} <= set(dtypes)
        sizes = zip(spec.shape, other.shape, strict=False)
        if not same_type or len(spec.shape) != len(other.shape) or any(a != b and -1 not in (a, b) for a, b in sizes):
            raise ModelLoadFailed(
                f"{path}: the signature says {spec.name!r} is {spec.dtype} {list(spec.shape)}, "
                f"the model says {other.dtype} {list(other.shape)}",
                param=spec.name,
            )
