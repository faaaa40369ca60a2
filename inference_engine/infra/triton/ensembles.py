"""`ensemble_scheduling` of a `config.pbtxt` as an ensemble's stages. Knows its fields, not the rest of the file."""

from __future__ import annotations

from typing import NamedTuple

from inference_engine.domain.ensembles import EnsembleProblem, graph_of
from inference_engine.domain.model import EnsembleSpec, Signature, Stage
from inference_engine.infra.formats.prototext import Message
from inference_engine.infra.triton.fields import Fields

_LATEST = -1


class _Step(NamedTuple):
    stage: Stage
    line: int


def read_ensemble(fields: Fields, scheduling: Message, signature: Signature | None) -> EnsembleSpec:
    """The steps as stages. Outputs that nobody takes are left out: Triton lets them be.

    Raises:
        InvalidManifest: with the line of the step.
    """
    fields.known(scheduling, "ensemble_scheduling", "step", "max_inflight_requests")
    if signature is None or not signature.outputs:
        raise fields.fail(scheduling.line, "an ensemble must list its input and output")
    steps = [_Step(_stage(fields, step), step.line) for step in fields.messages(scheduling, "step")]
    wanted = {name for step in steps for name in step.stage.inputs.values()}
    wanted |= {spec.name for spec in signature.outputs}
    steps = [_without(step, wanted) for step in steps]
    spec = EnsembleSpec(tuple(step.stage for step in steps if step.stage.outputs))
    lines = [step.line for step in steps if step.stage.outputs]
    try:
        graph_of(spec, signature)
    except EnsembleProblem as problem:
        index = problem.keys[2] if problem.keys[:2] == ("ensemble", "stages") and len(problem.keys) > 2 else None
        raise fields.fail(lines[int(index)] if index is not None else scheduling.line, problem.text) from None
    return spec


def _without(step: _Step, wanted: set[str]) -> _Step:
    stage = step.stage
    outputs = {tensor: name for tensor, name in stage.outputs.items() if name in wanted}
    return _Step(Stage(stage.model, stage.inputs, outputs), step.line)


def _stage(fields: Fields, step: Message) -> Stage:
    fields.known(
        step, "ensemble_scheduling.step", "model_name", "model_version", "input_map", "output_map", "model_namespace"
    )
    if namespace := fields.text(step, "model_namespace"):
        raise fields.fail(step.line, f"model_namespace {namespace!r} is not served: all models are in one repository")
    name = fields.text(step, "model_name")
    if not name:
        raise fields.fail(step.line, "ensemble_scheduling.step.model_name is missing")
    version = fields.one(step, "model_version")
    if version is None or version.value == _LATEST:
        target = name
    elif type(version.value) is int and version.value > 0:
        target = f"{name}:{version.value}"
    else:
        raise fields.fail(version.line, f"model_version must be -1 for the latest, or a version, not {version.value}")
    return Stage(target, _map(fields, step, "input_map"), _map(fields, step, "output_map"))


def _map(fields: Fields, step: Message, side: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in fields.messages(step, side):
        fields.known(entry, side, "key", "value")
        key, value = fields.text(entry, "key"), fields.text(entry, "value")
        if not key or not value:
            raise fields.fail(entry.line, f"{side} needs a key, the model's tensor, and a value, the ensemble's name")
        if key in found:
            raise fields.fail(entry.line, f"{side} gives {key!r} twice")
        found[key] = value
    return found
