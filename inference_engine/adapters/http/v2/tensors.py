"""Tensors between the wire of v2 and numpy: JSON lists and the binary extension, both ways. Knows no service.

Nothing is allocated for what a request only declares: counts are compared before arrays are made.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from msgspec import UNSET

from inference_engine.adapters.http.decoding import convert
from inference_engine.adapters.http.v2.wire import ELEMENTS, InferInput
from inference_engine.domain import datatypes
from inference_engine.domain.errors import InferenceFailed, InvalidTensor
from inference_engine.domain.tensors import Array

BINARY_SIZE = "binary_data_size"
_PACKED_FROM = 64  # elements from which on struct reads a list of floats faster than numpy does


def from_json(tensor: InferInput) -> Array:
    """An input whose elements are in the JSON, flat or nested.

    Raises:
        InvalidTensor: the element count is not that of the shape, the nesting differs, or a value is out of range.
    """
    shape, data = tensor.shape, tensor.data
    if data is UNSET:
        raise InvalidTensor(
            f"input {tensor.name!r} has neither data nor the parameter binary_data_size", param=tensor.name
        )
    if data and type(data[0]) is list:
        data = _flattened(tensor, data)
    if len(data) != math.prod(shape):
        raise datatypes.wrong_count(tensor.name, len(data), shape)
    try:
        if tensor.datatype == "BYTES":
            return datatypes.objects([text.encode() for text in data], shape)
        if tensor.datatype == datatypes.BF16:
            return _rounded(np.fromiter(data, np.float32, len(data))).reshape(shape)
        if tensor.datatype == "FP32" and len(data) >= _PACKED_FROM:
            return np.frombuffer(_packer(len(data))(*data), tensor.dtype).reshape(shape)
        return np.fromiter(data, tensor.dtype, len(data)).reshape(shape)
    except (TypeError, ValueError, struct.error):  # a list among scalars
        raise InvalidTensor(f"input {tensor.name!r} mixes lists and elements", param=tensor.name) from None
    except AttributeError:
        raise InvalidTensor(f"input {tensor.name!r} mixes lists and strings", param=tensor.name) from None
    except OverflowError as error:
        raise InvalidTensor(
            f"input {tensor.name!r} does not fit {tensor.datatype}: {error}", param=tensor.name
        ) from None


@lru_cache(maxsize=256)
def _packer(count: int) -> Callable[..., bytes]:
    """Packs that many floats. Remembered: reading the format takes as long as packing a hundred."""
    return struct.Struct(f"<{count}f").pack


def _flattened(tensor: InferInput, data: list[Any]) -> list[Any]:
    """Undo nesting that follows the shape exactly."""
    for size in tensor.shape[1:]:
        for part in data:
            if type(part) is not list or len(part) != size:
                raise InvalidTensor(
                    f"input {tensor.name!r} is nested differently from its shape {list(tensor.shape)}: "
                    "send a flat list, or lists nested as the shape says",
                    param=tensor.name,
                )
        data = list(chain.from_iterable(data))
    element: Any = ELEMENTS[tensor.datatype]
    checked: list[Any] = convert(data, list[element], f"input {tensor.name!r} data")
    return checked


def from_binary(tensor: InferInput, raw: memoryview) -> Array:
    """An input whose elements came after the JSON. Raises what `datatypes.from_raw` raises."""
    return datatypes.from_raw(tensor.name, tensor.datatype, tensor.shape, raw)


def _rounded(array: Array) -> Array:
    """Finite float32 rounded to the nearest value of BF16, ties to even, still as float32."""
    bits = array.view(np.uint32)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).view(np.float32)


def to_json(name: str, array: Array) -> Any:
    """What orjson writes as a flat list. NaN and infinities become null, as JSON has no words for them.

    Raises:
        InferenceFailed: bytes that are not UTF-8 text.
    """
    if array.dtype.kind not in "OSU":
        flat = array.ravel()
        if array.dtype.char not in datatypes.BY_CHAR and array.dtype.name == datatypes.BFLOAT16:
            return flat.astype(np.float32)
        return flat if flat.dtype.isnative else flat.astype(flat.dtype.newbyteorder("="))
    try:
        return [item if isinstance(item, str) else bytes(item).decode() for item in array.ravel().tolist()]
    except (UnicodeDecodeError, TypeError):
        raise InferenceFailed(
            f"output {name!r} holds bytes that are no UTF-8 text: ask for it with the parameter binary_data: true",
            param=name,
        ) from None
