"""Tensors to frames and back: inline when small, through shared memory when large."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runner.arena import Arena
from inference_engine.infra.runner.frames import WireTensor

SHARED_FROM_BYTES = 64 * 1024


def pack(parts: Sequence[Tensors], arena: Arena) -> tuple[list[WireTensor], list[int]]:
    """Merge `parts` along the first dimension into wire tensors; also the arena blocks that were taken."""
    blocks: list[int] = []
    packed = [_pack_one(name, [part[name] for part in parts], arena, blocks) for name in parts[0]]
    return packed, blocks


def _pack_one(name: str, arrays: list[Array], arena: Arena, blocks: list[int]) -> WireTensor:
    first = arrays[0]
    shape = first.shape if len(arrays) == 1 else (sum(array.shape[0] for array in arrays), *first.shape[1:])
    if first.dtype.kind == "O":
        return WireTensor(name, "O", shape, items=[item for array in arrays for item in array.ravel().tolist()])
    size = sum(array.nbytes for array in arrays)
    offset = arena.allocate(size) if size >= SHARED_FROM_BYTES else None
    if offset is None:
        data = np.ascontiguousarray(first).data if len(arrays) == 1 else np.concatenate(arrays).data
        return WireTensor(name, first.dtype.str, shape, data=data.cast("B") if size else b"")
    blocks.append(offset)
    target = np.ndarray(shape, first.dtype, arena.view, offset)
    if len(arrays) == 1:
        target[...] = first
    else:
        np.concatenate(arrays, out=target)
    return WireTensor(name, first.dtype.str, shape, offset=offset)


def unpack(tensors: Sequence[WireTensor], arena: Arena) -> dict[str, Array]:
    """Arrays over the frame's bytes or over the other side's arena; nothing is copied."""
    return {tensor.name: _unpack_one(tensor, arena) for tensor in tensors}


def _unpack_one(tensor: WireTensor, arena: Arena) -> Array:
    if tensor.items is not None:
        array = np.empty(len(tensor.items), dtype=object)
        array[:] = tensor.items
        return array.reshape(tensor.shape)
    dtype = np.dtype(tensor.dtype)
    if tensor.offset < 0:
        return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    size = math.prod(tensor.shape) * dtype.itemsize
    if tensor.offset + size > arena.view.nbytes:
        raise ValueError(f"tensor {tensor.name!r} lies outside the shared memory")
    return np.ndarray(tensor.shape, dtype, arena.view, tensor.offset)
