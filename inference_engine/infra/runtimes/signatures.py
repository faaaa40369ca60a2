"""Brings the signature of a manifest and the one that a model's file tells together. Knows no library."""

from __future__ import annotations

from pathlib import Path

from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.domain.model import Signature, TensorSpec


def declared_over_found(declared: Signature | None, found: Signature, path: Path) -> Signature:
    """What clients see: the manifest's words where there are any, which must fit what the file at `path` tells.

    Raises:
        ModelLoadFailed: a name, dtype or shape differs; the message names the tensor.
    """
    if declared is None:
        return found
    _compare(declared, found, path)
    return Signature(declared.inputs, declared.outputs or found.outputs)


def _compare(declared: Signature, found: Signature, path: Path) -> None:
    for kind in ("inputs", "outputs"):
        given = {spec.name: spec for spec in getattr(declared, kind)}
        real = {spec.name: spec for spec in getattr(found, kind)}
        if not given and kind == "outputs":
            continue
        if given.keys() != real.keys():
            name = sorted(given.keys() ^ real.keys())[0]
            raise ModelLoadFailed(
                f"{path}: the signature's {kind} are {sorted(given)}, the model's are {sorted(real)}", param=name
            )
        for name, spec in given.items():
            _compare_tensor(spec, real[name], path)


def _compare_tensor(given: TensorSpec, real: TensorSpec, path: Path) -> None:
    fits = len(given.shape) == len(real.shape) and all(
        -1 in (a, b) or a == b for a, b in zip(given.shape, real.shape, strict=True)
    )
    if given.dtype != real.dtype or not fits:
        raise ModelLoadFailed(
            f"{path}: the signature says {given.name!r} is {given.dtype} {list(given.shape)}, "
            f"the model says {real.dtype} {list(real.shape)}",
            param=given.name,
        )
