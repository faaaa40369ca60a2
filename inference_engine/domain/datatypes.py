"""The datatypes of the Open Inference Protocol and their elements as raw bytes, both ways. Knows numpy and no wire.

Raw elements are little-endian and in row order; each element of BYTES is its length in four bytes, then itself.
BF16, which numpy has no type for, is widened to float32, which loses nothing.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from inference_engine.domain.errors import InferenceFailed, InvalidTensor
from inference_engine.domain.tensors import Array

NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
} | {
    f"{kind}INT{bits}".removeprefix("S"): np.dtype(f"<{code}{bits // 8}")
    for kind, code in (("U", "u"), ("S", "i"))
    for bits in (8, 16, 32, 64)
}
"""The numpy dtype of each datatype; binary data is little-endian."""

BF16 = "BF16"

DATATYPES: dict[str, str] = {("bytes" if name == "BYTES" else dtype.name): name for name, dtype in NUMPY.items()}
"""The datatype of each dtype name of the domain."""

_BY_KIND = {(dtype.kind, dtype.itemsize): name for name, dtype in NUMPY.items()}
BY_CHAR: dict[str, str] = dict.fromkeys("OSU", "BYTES") | {
    char: _BY_KIND[np.dtype(char).kind, np.dtype(char).itemsize]
    for char in "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
    if (np.dtype(char).kind, np.dtype(char).itemsize) in _BY_KIND
}
"""The datatype by numpy's character: `dtype.name` takes more than a microsecond."""


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview | bytes) -> Array:
    """An input from its raw elements. Numbers are a read-only view of `raw`, not a copy.

    Raises:
        InvalidTensor: the size is not that of shape and datatype, or there is no such datatype.
    """
    if datatype == "BYTES":
        items = list(_split_bytes(name, raw))
        if len(items) != math.prod(shape):
            raise wrong_count(name, len(items), shape)
        return objects(items, shape)
    if datatype == BF16:
        return _widened(_numbers(name, datatype, np.dtype("<u2"), shape, raw))
    dtype = NUMPY.get(datatype)
    if dtype is None:
        raise InvalidTensor(
            f"input {name!r} has the datatype {datatype[:40]!r}, supported are: {', '.join((*NUMPY, BF16))}", param=name
        )
    if datatype == "BOOL":
        return _numbers(name, datatype, np.dtype(np.uint8), shape, raw).astype(np.bool_)
    return _numbers(name, datatype, dtype, shape, raw)


def _numbers(name: str, datatype: str, dtype: np.dtype[Any], shape: tuple[int, ...], raw: memoryview | bytes) -> Array:
    needed = math.prod(shape) * dtype.itemsize
    if len(raw) != needed:
        raise InvalidTensor(
            f"input {name!r} has {len(raw)} bytes, {datatype} of shape {list(shape)} needs {needed}", param=name
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _widened(halves: Array) -> Array:
    """BF16 is the upper half of a float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def wrong_count(name: str, count: int, shape: tuple[int, ...]) -> InvalidTensor:
    return InvalidTensor(
        f"input {name!r} has {count} elements, its shape {list(shape)} needs {math.prod(shape)}", param=name
    )


def _split_bytes(name: str, raw: memoryview | bytes) -> Iterable[bytes]:
    at = 0
    while at < len(raw):
        end = at + 4
        if end <= len(raw):
            end += int.from_bytes(raw[at:end], "little")
        if end > len(raw) or end < at + 4:
            raise InvalidTensor(
                f"input {name!r} ends inside an element: each is a four-byte length, then its bytes", param=name
            )
        yield bytes(raw[at + 4 : end])
        at = end


def objects(items: list[bytes], shape: tuple[int, ...]) -> Array:
    """An object array of `bytes`."""
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def datatype_of(name: str, array: Array) -> str:
    """The datatype of an output.

    Raises:
        InferenceFailed: the protocol has no such datatype.
    """
    datatype = BY_CHAR.get(array.dtype.char)
    if datatype is None:
        raise InferenceFailed(f"output {name!r} is {array.dtype.name}, which v2 has no datatype for", param=name)
    return datatype


def to_raw(array: Array) -> bytes:
    """An output's raw elements."""
    if array.dtype.kind in "OSU":
        items = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
        return b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))
    if array.dtype.isnative and sys.byteorder == "little":
        return array.tobytes()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
