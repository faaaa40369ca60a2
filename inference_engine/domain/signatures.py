"""Whether two descriptions of the same tensors agree: what a manifest declares, and what is found. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.domain.tensors import ANY


def shapes_fit(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a tensor can be of both shapes, where -1 is any size."""
    return len(one) == len(other) and all(ANY in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))


def agreed(declared: Signature, found: Signature, how: str) -> Signature:
    """The declared signature, with what it leaves open filled in from what was found.

    `how` says in messages what the found one comes from: `with the pipeline`.

    Raises:
        InvalidManifest: they differ; the message names the tensor and both sides.
    """
    inputs = _agreed_side("inputs", declared.inputs, found.inputs, how)
    if not declared.outputs:
        return Signature(inputs, found.outputs)
    return Signature(inputs, _agreed_side("outputs", declared.outputs, found.outputs, how))


def _agreed_side(
    side: str, declared: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...], how: str
) -> tuple[TensorSpec, ...]:
    said = {spec.name: spec for spec in declared}
    made = {spec.name: spec for spec in found}
    if said.keys() != made.keys():
        raise InvalidManifest(
            f"signature.{side} are {sorted(said)}, {how} they are {sorted(made)}", param=f"signature.{side}"
        )
    return tuple(_agreed_tensor(side, spec, made[spec.name], how) for spec in declared)


def _agreed_tensor(side: str, said: TensorSpec, made: TensorSpec, how: str) -> TensorSpec:
    if said.dtype != made.dtype or not shapes_fit(said.shape, made.shape):
        raise InvalidManifest(
            f"signature.{side} says {said.name!r} is {said.dtype} {list(said.shape)}, {how} it is "
            f"{made.dtype} {list(made.shape)}",
            param=f"signature.{side}",
        )
    shape = tuple(map(max, said.shape, made.shape))
    return TensorSpec(said.name, said.dtype, shape, said.labels or made.labels)
