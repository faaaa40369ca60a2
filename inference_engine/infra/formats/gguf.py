"""Reads the head of a GGUF file and checks that the file is whole. Knows the format, not llama.cpp.

llama.cpp trusts much of what it reads; a damaged file is refused here with the place named, before it is loaded.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference_engine.domain.errors import ModelLoadFailed

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
# sizes outside these make llama.cpp abort the process instead of reporting an error
_SANE = {"block_count": 512, "context_length": 2**31 - 1}
_KEPT_ARRAY = 256  # longer arrays (vocabularies) are only counted

# ggml tensor types: id -> (elements per block, bytes per block); an unknown type is not checked
_TYPE_SIZES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class GgufHead:
    """A model file's metadata and tensor table.

    Long arrays are replaced by their length, under the key `NAME#length`, unless the reader was told to keep them.
    `tensors` are the dimensions of each tensor, the fastest first; `types` its number among the ggml types. A model
    split into several files has only those of the first file.
    """

    metadata: dict[str, Any]
    parameters: int
    size_bytes: int
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def of_architecture(self, key: str) -> Any:
        """The value of `ARCHITECTURE.key`, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def length(self, key: str) -> int:
        """How many items the array `key` has; 0 when there is none."""
        value = self.metadata.get(key)
        return len(value) if isinstance(value, list) else int(self.metadata.get(f"{key}#length", 0))


class _DamagedError(Exception):
    """The file breaks the format; the text says how."""


def read_head(path: Path, keep: frozenset[str] = frozenset()) -> GgufHead:
    """Read the metadata of `path` and hold the tensor table to the file's size. Arrays named in `keep` are read whole.

    Raises:
        ModelLoadFailed: not a GGUF file, of an unknown version, truncated or inconsistent.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, keep).head()
    except (_DamagedError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise ModelLoadFailed(
            f"{path} is not a usable GGUF model: {error}. Fetch or convert it again", param="artifact"
        ) from None
    except OSError as error:
        raise ModelLoadFailed(f"{path} cannot be read: {error}", param="artifact") from None


def _check_sizes(metadata: dict[str, Any]) -> None:
    architecture = metadata["general.architecture"]
    for key, most in _SANE.items():
        value = metadata.get(f"{architecture}.{key}")
        if isinstance(value, int) and not 1 <= value <= most:
            raise _DamagedError(f"{architecture}.{key} is {value}, it must lie between 1 and {most}")


class _Reader:
    """A cursor over the mapped file; every read is held to the file's end."""

    def __init__(self, data: mmap.mmap, keep: frozenset[str]) -> None:
        self._data = data
        self._keep = keep
        self._at = 0
        self._end = len(data)

    def head(self) -> GgufHead:
        if self._data[:4] != b"GGUF":
            raise _DamagedError(f"it starts with {bytes(self._data[:4])!r}, not with 'GGUF'")
        self._at = 4
        version = self._scalar("<I")
        if version not in (2, 3):
            raise _DamagedError(f"GGUF version {version} is not supported, only 2 and 3")
        tensors, entries = self._scalar("<Q"), self._scalar("<Q")
        if not 0 < tensors <= self._end or not 0 < entries <= self._end:
            raise _DamagedError(f"it declares {tensors} tensors and {entries} metadata entries in {self._end} bytes")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            self._entry(metadata)
        if not isinstance(metadata.get("general.architecture"), str):
            raise _DamagedError("its metadata does not name an architecture")
        _check_sizes(metadata)
        shapes, types = self._tensors(tensors, metadata)
        return GgufHead(metadata, sum(map(math.prod, shapes.values())), self._end, shapes, types)

    def _entry(self, metadata: dict[str, Any]) -> None:
        key = self._string()
        kind = self._scalar("<I")
        if kind == _ARRAY:
            self._array(key, metadata)
        else:
            metadata[key] = self._string() if kind == _STRING else self._scalar(self._format(kind, key))

    def _array(self, key: str, metadata: dict[str, Any]) -> None:
        kind, count = self._scalar("<I"), self._scalar("<Q")
        if count > self._end - self._at:
            raise _DamagedError(f"metadata {key!r} declares {count} items, more than the file has bytes")
        if kind != _STRING and count > _KEPT_ARRAY and key not in self._keep:
            self._skip(count * struct.calcsize(self._format(kind, key)), f"metadata {key!r}")
            metadata[f"{key}#length"] = count
            return
        if count > _KEPT_ARRAY and key not in self._keep:
            for _ in range(count):
                self._skip(self._scalar("<Q"), f"metadata {key!r}")
            metadata[f"{key}#length"] = count
            return
        read = self._string if kind == _STRING else lambda: self._scalar(self._format(kind, key))
        metadata[key] = [read() for _ in range(count)]

    def _tensors(self, count: int, metadata: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
        """Walk the tensor table; returns the tensors' dimensions and types."""
        table: list[tuple[str, int, int]] = []
        shapes: dict[str, tuple[int, ...]] = {}
        types: dict[str, int] = {}
        for _ in range(count):
            name = self._string()
            dimensions = self._scalar("<I")
            if dimensions > _MAX_DIMENSIONS:
                raise _DamagedError(f"tensor {name!r} has {dimensions} dimensions")
            shapes[name] = tuple([self._scalar("<Q") for _ in range(dimensions)])
            elements = math.prod(shapes[name])
            kind, offset = self._scalar("<I"), self._scalar("<Q")
            block, block_bytes = _TYPE_SIZES.get(kind, (1, 0))
            table.append((name, offset, -(-elements // block) * block_bytes))
            types[name] = kind
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise _DamagedError(f"general.alignment is {alignment!r}, not a power of two")
        start = -(-self._at // alignment) * alignment
        for name, offset, size in table:
            if start + offset + size > self._end:
                raise _DamagedError(
                    f"tensor {name!r} needs {start + offset + size} bytes but the file ends at {self._end}: "
                    "it is truncated"
                )
        return shapes, types

    def _format(self, kind: int, key: str) -> str:
        if kind not in _SCALARS:
            raise _DamagedError(f"metadata {key!r} is of the unknown type {kind}")
        return _SCALARS[kind]

    def _scalar(self, form: str) -> Any:
        at = self._at
        self._skip(struct.calcsize(form), "the header")
        return struct.unpack_from(form, self._data, at)[0]

    def _string(self) -> str:
        length = self._scalar("<Q")
        at = self._at
        self._skip(length, "a string")
        return self._data[at : at + length].decode("utf-8", "replace")

    def _skip(self, count: int, what: str) -> None:
        if count > self._end - self._at:
            raise _DamagedError(f"{what} ends outside the file at byte {self._at}: it is truncated or damaged")
        self._at += count
