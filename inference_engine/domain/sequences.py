"""What the inputs of a model that keeps sequences are made of: the client's tensors, controls, and kept states.

Knows signatures and values, nothing of who waits for whom.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from inference_engine.domain.errors import InvalidManifest, InvalidRequest
from inference_engine.domain.model import Manifest, Sequences, SequenceState, Signature, TensorSpec
from inference_engine.domain.requests import SequenceStep
from inference_engine.domain.tensors import ANY, Array

_PLAIN = {"start": "sequence_start", "end": "sequence_end", "id": "sequence_id"}
"""The controls of a Python class whose manifest names none: one value for each row."""


def client_signature(signature: Signature | None, sequences: Sequences | None) -> Signature | None:
    """The signature as clients see it: without controls and without the states that the server keeps."""
    if signature is None or sequences is None:
        return signature
    hidden = set(_names(sequences).values()) | {state.input for state in sequences.states}
    kept = {state.output for state in sequences.states if not state.visible}
    return Signature(
        tuple(spec for spec in signature.inputs if spec.name not in hidden),
        tuple(spec for spec in signature.outputs if spec.name not in kept),
    )


def _names(sequences: Sequences) -> dict[str, str]:
    controls = sequences.controls
    named = {"start": controls.start, "end": controls.end, "ready": controls.ready, "id": controls.id}
    return {control: name for control, name in named.items() if name}


class SequenceTensors:
    """Adds to a request what the model of a manifest wants beside it, and takes its states out of what it gives.

    Raises:
        InvalidManifest: the model has no such inputs or outputs.
    """

    def __init__(self, manifest: Manifest, sequences: Sequences, signature: Signature | None) -> None:
        self._sequences = sequences
        inputs = {spec.name: spec for spec in signature.inputs} if signature else {}
        outputs = {spec.name: spec for spec in signature.outputs} if signature else {}
        names = _names(sequences)
        if not names and manifest.runtime == "python":
            names = _PLAIN
        self._controls: list[tuple[str, TensorSpec]] = []
        for control, name in names.items():
            if name not in inputs and manifest.runtime != "python":
                raise _missing(manifest, f"controls.{control}", name, inputs)
            plain = TensorSpec(name, "bytes" if control == "id" else "bool", (ANY,))
            self._controls.append((control, inputs.get(name, plain)))
        self._states: list[tuple[SequenceState, Array]] = []
        batched = signature is not None and signature.batched
        for state in sequences.states:
            for name, there in ((state.input, inputs), (state.output, outputs)):
                if name not in there:
                    raise _missing(manifest, "states", name, there)
            self._states.append((state, _initial(manifest, state, inputs[state.input], batched=batched)))
        self._visible = frozenset(state.output for state in sequences.states if state.visible)

    @property
    def keeps_states(self) -> bool:
        """True when the server holds what a sequence knows, so that nothing of it is lost with an instance."""
        return bool(self._states)

    def initial_states(self) -> dict[str, Array]:
        """What the model is given of a sequence that begins."""
        return {state.input: value for state, value in self._states}

    def controls(self, step: SequenceStep, id: int | str, *, ready: bool = True) -> Iterator[tuple[str, Array]]:
        """The control tensors of one row. `id` is what the model knows the sequence by.

        Raises:
            InvalidRequest: the sequence's id does not fit the datatype that the model takes.
        """
        for control, spec in self._controls:
            value = {"start": step.start, "end": step.end, "ready": ready, "id": id}[control]
            yield spec.name, _filled(spec, value)

    def take_states(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """Remove the states from `outputs`, unless clients may see them; gives them by the input's name."""
        taken = {}
        for state, _ in self._states:
            taken[state.input] = outputs[state.output].copy()  # else it would keep the whole batch alive
            if state.output not in self._visible:
                del outputs[state.output]
        return taken


def _missing(manifest: Manifest, place: str, name: str, there: dict[str, TensorSpec]) -> InvalidManifest:
    return InvalidManifest(
        f"{manifest.ref}: execution.sequences.{place} names {name!r}; the model has {sorted(there)}",
        param=f"execution.sequences.{place}",
    )


def _filled(spec: TensorSpec, value: bool | int | str) -> Array:
    shape = tuple(1 if size == ANY else size for size in spec.shape)
    if spec.dtype == "bytes":
        return np.full(shape, str(value).encode(), object)
    if isinstance(value, str):
        raise InvalidRequest(f"sequence_id {value[:80]!r} is a text: this model takes numbers", param="sequence_id")
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise InvalidRequest(
            f"sequence_id {value} does not fit {spec.dtype}, which this model takes", param="sequence_id"
        )
    return np.full(shape, value, dtype)


def _initial(manifest: Manifest, state: SequenceState, spec: TensorSpec, *, batched: bool) -> Array:
    """The state of a sequence that begins, with a first dimension of 1 where the model has one for rows."""
    own = spec.shape[1:] if batched else spec.shape
    shape = own if state.shape is None else state.shape
    if any(size == ANY for size in shape) or len(shape) != len(own):
        raise InvalidManifest(
            f"{manifest.ref}: execution.sequences.states: {spec.name!r} is {list(own)}: give `shape`, the sizes it has "
            "at the beginning",
            param="execution.sequences.states",
        )
    values: Any = 0 if state.initial is None else state.initial
    try:
        if spec.dtype == "bytes":
            texts = np.full(shape, b"", object) if state.initial is None else np.char.encode(np.array(values, str))
            return np.asarray(texts, object).reshape((1, *shape) if batched else shape)
        return np.broadcast_to(np.array(values, spec.dtype), shape).reshape((1, *shape) if batched else shape).copy()
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidManifest(
            f"{manifest.ref}: execution.sequences.states: `initial` of {spec.name!r} is no {spec.dtype} tensor of "
            f"{list(shape)}: {error}",
            param="execution.sequences.states",
        ) from None
