"""Tensors between the wire of v2 and numpy: JSON lists and the binary extension, both ways. Knows no service.

Nothing is allocated for what a request only declares: counts are compared before arrays are made.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from msgspec import UNSET

from inference_engine.adapters.http.decoding import convert
from inference_engine.adapters.http.v2.wire import BF16_BITS, BFLOAT16, BY_CHAR, ELEMENTS, InferInput
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
        raise _wrong_count(tensor, len(data))
    try:
        if tensor.datatype == "BYTES":
            return _objects([text.encode() for text in data], shape)
        if tensor.datatype == "BF16":
            return _widened(_bf16_bits(np.fromiter(data, np.float32, len(data)))).reshape(shape)
        if tensor.datatype == "FP32" and len(data) >= _PACKED_FROM:
            return np.frombuffer(struct.pack(f"<{len(data)}f", *data), tensor.dtype).reshape(shape)
        return np.fromiter(data, tensor.dtype, len(data)).reshape(shape)
    except (TypeError, ValueError, struct.error):  # a list among scalars
        raise InvalidTensor(f"input {tensor.name!r} mixes lists and elements", param=tensor.name) from None
    except AttributeError:
        raise InvalidTensor(f"input {tensor.name!r} mixes lists and strings", param=tensor.name) from None
    except OverflowError as error:
        raise InvalidTensor(
            f"input {tensor.name!r} does not fit {tensor.datatype}: {error}", param=tensor.name
        ) from None


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


def _wrong_count(tensor: InferInput, count: int) -> InvalidTensor:
    return InvalidTensor(
        f"input {tensor.name!r} has {count} elements, its shape {list(tensor.shape)} needs {math.prod(tensor.shape)}",
        param=tensor.name,
    )


def from_binary(tensor: InferInput, raw: memoryview) -> Array:
    """An input whose elements came after the JSON. Numbers are a read-only view of `raw`, not a copy.

    Raises:
        InvalidTensor: the size is not that of shape and datatype.
    """
    datatype, shape = tensor.datatype, tensor.shape
    if datatype == "BYTES":
        items = list(_split_bytes(tensor, raw))
        if len(items) != math.prod(shape):
            raise _wrong_count(tensor, len(items))
        return _objects(items, shape)
    dtype = tensor.dtype
    needed = math.prod(shape) * dtype.itemsize
    if len(raw) != needed:
        raise InvalidTensor(
            f"input {tensor.name!r} has {len(raw)} bytes, {datatype} of shape {list(shape)} needs {needed}",
            param=tensor.name,
        )
    if datatype == "BOOL":
        return np.frombuffer(raw, np.uint8).astype(np.bool_).reshape(shape)
    if datatype == "BF16":
        return _widened(np.frombuffer(raw, dtype)).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def _widened(bits: Array) -> Array:
    """BF16 as float32, which holds each of its values exactly: that is how arrays carry it to a model."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _bf16_bits(array: Array) -> Array:
    """Finite float32 rounded to the nearest BF16, ties to even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(BF16_BITS)


def _split_bytes(tensor: InferInput, raw: memoryview) -> Iterable[bytes]:
    """Each element is its length as four little-endian bytes, then itself."""
    at = 0
    while at < len(raw):
        end = at + 4
        if end <= len(raw):
            end += int.from_bytes(raw[at:end], "little")
        if end > len(raw) or end < at + 4:
            raise InvalidTensor(
                f"input {tensor.name!r} ends inside an element: each is a four-byte length, then its bytes",
                param=tensor.name,
            )
        yield bytes(raw[at + 4 : end])
        at = end


def _objects(items: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def datatype_of(name: str, array: Array) -> str:
    """The v2 datatype of an output.

    Raises:
        InferenceFailed: v2 has no such datatype.
    """
    datatype = BY_CHAR.get(array.dtype.char)
    if datatype is None and array.dtype.name == BFLOAT16:
        return "BF16"
    if datatype is None:
        raise InferenceFailed(f"output {name!r} is {array.dtype.name}, which v2 has no datatype for", param=name)
    return datatype


def to_json(name: str, array: Array) -> Any:
    """What orjson writes as a flat list. NaN and infinities become null, as JSON has no words for them.

    Raises:
        InferenceFailed: bytes that are not UTF-8 text.
    """
    if array.dtype.kind not in "OSU":
        flat = array.ravel()
        if array.dtype.name == BFLOAT16:
            return flat.astype(np.float32)
        return flat if flat.dtype.isnative else flat.astype(flat.dtype.newbyteorder("="))
    try:
        return [item if isinstance(item, str) else bytes(item).decode() for item in array.ravel().tolist()]
    except (UnicodeDecodeError, TypeError):
        raise InferenceFailed(
            f"output {name!r} holds bytes that are no UTF-8 text: ask for it with the parameter binary_data: true",
            param=name,
        ) from None


def to_binary(array: Array) -> bytes:
    """An output as the binary extension writes it, little-endian, in row order."""
    if array.dtype.kind in "OSU":
        items = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
        return b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))
    if array.dtype.isnative and sys.byteorder == "little":
        return array.tobytes()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
