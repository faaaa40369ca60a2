"""`sequence_batching` of a model in Triton's layout, read as our `execution.sequences`. Knows no other field."""

from __future__ import annotations

from typing import Any

import numpy as np

from inference_engine.domain.model import SequenceControls, Sequences, SequenceState, Signature, TensorSpec
from inference_engine.infra.formats.prototext import Message
from inference_engine.infra.triton.fields import DTYPES, Fields

_CONTROLS = {
    "CONTROL_SEQUENCE_START": "start",
    "CONTROL_SEQUENCE_END": "end",
    "CONTROL_SEQUENCE_READY": "ready",
    "CONTROL_SEQUENCE_CORRID": "id",
}
_FALSE_TRUE = {"int32_false_true": "int32", "fp32_false_true": "float32", "bool_false_true": "bool"}


def read_sequences(config: Fields, batching: Message, values: dict[str, Any], *, batched: bool) -> None:
    """Add to the manifest's `values` what `batching` says: the sequences, and the tensors they bring to the signature.

    Raises:
        InvalidManifest: with the line of what is wrong or not served.
    """
    config.known(
        batching,
        "sequence_batching",
        *("max_sequence_idle_microseconds", "control_input", "state", "direct", "oldest"),
        *("iterative_sequence", "generative_sequence"),
    )
    for flag in ("iterative_sequence", "generative_sequence"):
        if config.flag(batching, flag):
            raise config.fail(batching.line, f"sequence_batching: {flag} is not served")
    reader = _Reader(config, values.get("signature"), batched=batched)
    strategy = reader.strategy(batching)
    for entry in config.messages(batching, "control_input"):
        reader.control(entry)
    states = tuple(reader.state(state) for state in config.messages(batching, "state"))
    idle_s = (config.number(batching, "max_sequence_idle_microseconds") or 1_000_000) / 1e6
    controls = SequenceControls(**reader.controls)
    values["execution"]["sequences"] = Sequences(max_idle_s=idle_s, controls=controls, states=states, **strategy)
    if reader.signature is not None:
        values["signature"] = Signature(
            (*reader.signature.inputs, *reader.inputs), (*reader.signature.outputs, *reader.outputs)
        )


class _Reader:
    """Gathers `controls` by kind, and the `inputs` and `outputs` that controls and states bring."""

    def __init__(self, config: Fields, signature: Signature | None, *, batched: bool) -> None:
        self._config = config
        self._batched = batched
        self.signature = signature
        self.controls: dict[str, str] = {}
        self.inputs: list[TensorSpec] = []
        self.outputs: list[TensorSpec] = []

    def strategy(self, batching: Message) -> dict[str, Any]:
        """Without either, Triton takes `direct`."""
        for oldest in self._config.messages(batching, "oldest"):
            self._config.known(
                oldest,
                "oldest",
                *("max_candidate_sequences", "preferred_batch_size", "max_queue_delay_microseconds"),
                "preserve_ordering",
            )
            return {"max_sequences": self._config.number(oldest, "max_candidate_sequences") or 1}
        for direct in self._config.messages(batching, "direct"):
            self._config.known(direct, "direct", "max_queue_delay_microseconds", "minimum_slot_utilization")
        return {"strategy": "direct"} if self._batched else {"max_sequences": 1}

    def control(self, entry: Message) -> None:
        self._config.known(entry, "control_input", "name", "control")
        name = self._config.text(entry, "name")
        kinds = self._config.messages(entry, "control")
        if not name or len(kinds) != 1:
            raise self._config.fail(entry.line, "control_input has a name and one control")
        control = kinds[0]
        kind = self._config.one(control, "kind")
        word = _CONTROLS.get(str(kind.value) if kind else "CONTROL_SEQUENCE_START")
        if word is None:
            raise self._config.fail(control.line, f"control_input {name!r}: kind is not one of {', '.join(_CONTROLS)}")
        if word in self.controls:
            raise self._config.fail(control.line, f"control_input {name!r}: there is another one of this kind")
        self.controls[word] = name
        shape = (-1, 1) if self._batched else (1,)
        self.inputs.append(TensorSpec(name, self._control_dtype(control, name, word), shape))

    def _control_dtype(self, control: Message, name: str, word: str) -> str:
        if word == "id":
            kind = self._config.one(control, "data_type")
            if kind is None or DTYPES.get(str(kind.value)) not in ("uint64", "int64", "uint32", "int32", "bytes"):
                raise self._config.fail(
                    control.line,
                    f"control_input {name!r}: data_type must be TYPE_UINT64, INT64, UINT32, INT32 or STRING",
                )
            return DTYPES[str(kind.value)]
        for field in control.fields:
            if field.name in _FALSE_TRUE:
                values = [str(one.value).lower() for one in control.fields if one.name == field.name]
                if values not in (["0", "1"], ["0.0", "1.0"], ["false", "true"]):
                    raise self._config.fail(field.line, f"control_input {name!r}: {field.name} must be [ 0, 1 ]")
                return _FALSE_TRUE[field.name]
        raise self._config.fail(control.line, f"control_input {name!r} needs one of {', '.join(_FALSE_TRUE)}")

    def state(self, state: Message) -> SequenceState:
        self._config.known(
            state,
            "state",
            *("input_name", "output_name", "data_type", "dims", "initial_state"),
            *("use_same_buffer_for_input_output", "use_growable_memory"),
        )
        source, target = self._config.text(state, "input_name"), self._config.text(state, "output_name")
        kind = self._config.one(state, "data_type")
        dtype = DTYPES.get(str(kind.value)) if kind else None
        if not source or not target or dtype is None:
            raise self._config.fail(
                state.line, f"state needs input_name, output_name and one data_type of {', '.join(DTYPES)}"
            )
        dims = self._config.dims(state, f"state {source!r}")
        shape = (-1, *dims) if self._batched else dims
        self.inputs.append(TensorSpec(source, dtype, shape))
        signature = self.signature
        visible = signature is not None and any(spec.name == target for spec in signature.outputs)
        if not visible:
            self.outputs.append(TensorSpec(target, dtype, shape))
        initial, own = self._initial(state, source, dtype)
        return SequenceState(source, target, initial, own if own is not None else dims, visible)

    def _initial(self, state: Message, name: str, dtype: str) -> tuple[list[Any] | None, tuple[int, ...] | None]:
        """Values and sizes of a state at the beginning; None where they are zeros, or those of the state."""
        for initial in self._config.messages(state, "initial_state"):
            self._config.known(initial, "initial_state", "data_type", "dims", "zero_data", "data_file", "name")
            dims = self._config.dims(initial, f"state {name!r}: initial_state")
            file = self._config.text(initial, "data_file")
            if not file:
                return None, dims
            line = next(field.line for field in initial.fields if field.name == "data_file")
            if "/" in file or "\\" in file or file.startswith(".") or dtype == "bytes":
                raise self._config.fail(
                    line, f"data_file {file!r} must be a file of numbers in the folder initial_state"
                )
            try:
                raw = (self._config.folder / "initial_state" / file).read_bytes()
                return np.frombuffer(raw, dtype).reshape(dims).tolist(), dims
            except (OSError, ValueError) as error:
                raise self._config.fail(
                    line, f"data_file {file!r} cannot be read as {dtype} {list(dims)}: {error}"
                ) from None
        return None, None
