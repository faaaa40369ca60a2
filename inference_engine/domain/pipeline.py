"""The explicit steps around a model: what a step promises, and a pipeline of them. Knows no step and no runtime.

    client -> preprocess[0] -> preprocess[1] -> model -> postprocess[0] -> postprocess[1] -> client

The client's view of a model is previewed from the model's own signature before anything runs: outputs forwards through
the postprocess steps, inputs backwards through the preprocess steps.

A preprocess step may also make notes: tensors whose names begin with `@`, which go around the model to the postprocess
steps and no further. Its preview adds their specifications to what it returns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import ClassVar, Literal, Protocol

import msgspec

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, InvalidRequest, RuntimeMissing
from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.domain.tensors import Tensors

Side = Literal["preprocess", "postprocess"]
Specs = Mapping[str, TensorSpec]
"""Tensor specifications by name, as `Tensors` are arrays by name."""

FLOATS = ("float16", "float32", "float64")
NOTE = "@"
"""How the names of notes begin."""
IMAGE = "image"
"""The dtype, between two preprocess steps only, of images: each uint8 [height, width, 3] and of a size of its own."""
CLIPS = "clips"
"""The dtype, between two preprocess steps only, of sound in float32, each clip of a length of its own (-1 there).

`clips@16000` where the samples of a second are known.
"""
SOUND = "sound"
"""As `CLIPS`, all clips of a batch of one length."""
IMPUTED, SCALED = "imputed", "scaled"
"""The dtypes, between two preprocess steps only, of columns whose missing values are filled, which are scaled too."""
_BEGINNINGS = {
    IMAGE: "image.decode",
    CLIPS: "audio.decode or audio.samples",
    SOUND: "audio.decode or audio.samples",
    IMPUTED: "tabular.impute",
    SCALED: "tabular.scale",
}
"""The step that makes a dtype which no client can send."""


class Step(Protocol):
    """One entry of a pipeline. Plain blocking numpy code that keeps nothing from one batch to the next.

    A preprocess step stands between the client and the model, a postprocess step between the model and the client.
    """

    side: ClassVar[Side]

    def preview(self, specs: Specs) -> Specs:
        """How this step changes the specifications, and the place to check that it fits. Called once, at load.

        preprocess: `specs` is what comes out of this step; return what must go into it (previews run backwards).
        postprocess: `specs` is what goes into this step; return what comes out.

        Raises:
            InvalidManifest: it does not fit; the message names the tensor. The pipeline adds the step's place.
        """

    def apply(self, tensors: Tensors) -> Tensors:
        """Compute one batch of rows, which may be several requests merged. Never writes into the arrays it gets.

        Raises:
            InvalidTensor: the client's values are at fault. Whatever else is raised becomes `InferenceFailed`.
        """


class PlacedStep(msgspec.Struct, frozen=True):
    """A step and where the manifest lists it: `place` is `pipeline.postprocess[1]`, `use` its name there."""

    place: str
    use: str
    step: Step

    def __str__(self) -> str:
        return f"{self.place} (use: {self.use})"


class Pipeline(msgspec.Struct, frozen=True):
    """The steps on both sides of a model, each side in the order in which tensors pass through it."""

    preprocess: tuple[PlacedStep, ...] = ()
    postprocess: tuple[PlacedStep, ...] = ()

    def preview(self, model: Signature) -> Signature:
        """What the client sends and gets when the model itself has the signature `model`.

        Raises:
            InvalidManifest: a step does not fit; the message names the step and the tensor. RuntimeMissing: a step's
                library is not installed.
        """
        _refuse_notes_of_the_model(model)
        before = _previewed(reversed(self.preprocess), model.inputs)
        notes, inputs = _parted(before)
        for spec in inputs:
            kind = spec.dtype.partition("@")[0]
            if kind in _BEGINNINGS:
                raise InvalidManifest(
                    f"pipeline.preprocess: the {kind} input {spec.name!r} comes from nowhere: put use: "
                    f"{_BEGINNINGS[kind]} before",
                    param="pipeline.preprocess",
                )
        _, outputs = _parted(_previewed(self.postprocess, model.outputs + notes))
        return Signature(inputs, outputs)

    def joined(self) -> Pipeline:
        """The same, with neighbours that are cheaper as one step made one: a step may offer `joined(following)`."""
        steps: list[PlacedStep] = []
        for placed in self.preprocess:
            join = getattr(steps[-1].step, "joined", None) if steps else None
            one: Step | None = join(placed.step) if join is not None else None
            if one is None:
                steps.append(placed)
            else:
                first = steps.pop()
                steps.append(PlacedStep(first.place, f"{first.use} and {placed.use}", one))
        return msgspec.structs.replace(self, preprocess=tuple(steps))

    def before(self, inputs: Tensors) -> Tensors:
        """From what the client sent to what the model takes, and notes. Raises `InvalidRequest`, `InferenceFailed`."""
        return _applied(self.preprocess, inputs)

    def after(self, outputs: Tensors) -> Tensors:
        """From what the model gave, and notes, to what the client gets. Raises `InvalidRequest`, `InferenceFailed`."""
        return part_notes(_applied(self.postprocess, outputs))[1]


def part_notes(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The notes among `tensors`, and the others."""
    notes = {name: array for name, array in tensors.items() if name.startswith(NOTE)}
    return notes, {name: array for name, array in tensors.items() if name not in notes} if notes else tensors


def choose(names: Collection[str], wanted: str | None) -> str:
    """The tensor a step works on: `wanted`, or the only one there is. For specifications and for tensors alike.

    Notes are not chosen unless they are `wanted`.

    Raises:
        InvalidManifest: there is no such tensor, or several to choose from.
    """
    if wanted is None:
        names = [name for name in names if not name.startswith(NOTE)]
        if len(names) == 1:
            return names[0]
    there = ", ".join(map(repr, names)) or "none"
    if wanted is None:
        raise InvalidManifest(f"say which tensor it is for; there are: {there}")
    if wanted not in names:
        raise InvalidManifest(f"there is no tensor {wanted!r} here; there are: {there}")
    return wanted


def require_dtype(spec: TensorSpec, dtypes: Collection[str]) -> None:
    """Raises `InvalidManifest` when `spec` is of none of the `dtypes`."""
    if spec.dtype not in dtypes:
        raise InvalidManifest(f"tensor {spec.name!r} is {spec.dtype}, it must be {' or '.join(dtypes)}")


def last_size(spec: TensorSpec) -> int:
    """The size of the last dimension (features, classes), -1 if it is free.

    Raises:
        InvalidManifest: the batch is the only dimension, or there is none.
    """
    if spec.shape in ((), (-1,)):
        raise InvalidManifest(
            f"tensor {spec.name!r} has shape {list(spec.shape)}, it needs a dimension of values after the batch"
        )
    return spec.shape[-1]


def _refuse_notes_of_the_model(model: Signature) -> None:
    for spec in model.inputs + model.outputs:
        if spec.name.startswith(NOTE):
            raise InvalidManifest(
                f"a model with a pipeline cannot have a tensor {spec.name!r}: names with {NOTE} in front are for notes",
                param="pipeline",
            )


def _parted(specs: tuple[TensorSpec, ...]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The notes among `specs`, and the others."""
    notes = tuple(spec for spec in specs if spec.name.startswith(NOTE))
    return notes, tuple(spec for spec in specs if spec not in notes)


def _previewed(steps: Iterable[PlacedStep], specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    named: Specs = {spec.name: spec for spec in specs}
    for placed in steps:
        try:
            named = placed.step.preview(named)
        except InvalidManifest as error:
            raise InvalidManifest(f"{placed}: {error.message}", param=placed.place) from None
        except RuntimeMissing:
            raise
        except Exception as error:  # the border to foreign code: anything may come
            raise InvalidManifest(f"{placed}: {type(error).__name__}: {error}", param=placed.place) from error
    return tuple(msgspec.structs.replace(spec, name=name) for name, spec in named.items())


def _applied(steps: tuple[PlacedStep, ...], tensors: Tensors) -> Tensors:
    for placed in steps:
        try:
            tensors = placed.step.apply(tensors)
        except InvalidRequest:
            raise
        except Exception as error:  # the border to foreign code: anything may come
            raise InferenceFailed(f"{placed}: {type(error).__name__}: {error}", param=placed.place) from error
    return tensors
