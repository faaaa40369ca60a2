"""Computes a model's warm-up requests after it was loaded, before anybody else's. Knows no queue."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Manifest, Signature, TensorSpec, Warmup
from inference_engine.domain.ports import Executor
from inference_engine.domain.tensors import ANY, Array


async def warm_up(manifest: Manifest, signature: Signature | None, executor: Executor) -> None:
    """Compute each of `execution.warmup`, on every instance.

    Raises:
        InvalidManifest: the model has no signature, or a warm-up does not fit it. ModelError: the model fails on it.
    """
    for warmup in manifest.execution.warmup:
        if signature is None:
            raise InvalidManifest(
                f"{manifest.ref}: execution.warmup needs a signature: only models of tensors can be warmed up",
                param="execution.warmup",
            )
        inputs = {spec.name: _values(manifest, spec, warmup, batched=signature.batched) for spec in signature.inputs}
        rows = warmup.rows if signature.batched else 1
        copies = range(manifest.execution.instance_count)
        # several at once: each goes to the instance with the least to do
        await asyncio.gather(*(asyncio.ensure_future(executor.run([inputs], [rows])) for _ in copies))


def _values(manifest: Manifest, spec: TensorSpec, warmup: Warmup, *, batched: bool) -> Array:
    dtype = np.dtype(object) if spec.dtype == "bytes" else np.dtype(spec.dtype)
    wanted = (warmup.rows, *spec.shape[1:]) if batched else spec.shape
    if spec.name in warmup.inputs:
        return _given(manifest, spec, warmup, dtype, wanted)
    if spec.name in warmup.shapes:
        own = warmup.shapes[spec.name]
        wanted = (warmup.rows, *own) if batched else own
    shape = tuple(1 if size == ANY else size for size in wanted)
    return np.full(shape, b"", dtype) if spec.dtype == "bytes" else np.zeros(shape, dtype)


def _given(
    manifest: Manifest, spec: TensorSpec, warmup: Warmup, dtype: np.dtype[Any], wanted: tuple[int, ...]
) -> Array:
    values = warmup.inputs[spec.name]
    try:
        array = np.array(values, str if spec.dtype == "bytes" else dtype)
    except (TypeError, ValueError) as error:
        raise InvalidManifest(
            f"{manifest.ref}: execution.warmup.inputs.{spec.name} is no {spec.dtype} tensor: {error}",
            param="execution.warmup",
        ) from None
    if len(array.shape) != len(wanted) or any(a not in (ANY, b) for a, b in zip(wanted, array.shape, strict=True)):
        raise InvalidManifest(
            f"{manifest.ref}: execution.warmup.inputs.{spec.name} has the shape {list(array.shape)}, "
            f"the model takes {list(wanted)} (-1: any size)",
            param="execution.warmup",
        )
    return np.char.encode(array).astype(object) if spec.dtype == "bytes" else array
