"""Manifests of ensembles and of models of steps alone: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_engine.domain.ensembles import EnsembleProblem, graph_of
from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import EnsembleSpec, Manifest, PipelineSpec, Signature, Stage, TensorSpec
from inference_engine.infra.manifest_files import manifest_yaml, read_manifest
from inference_engine.infra.pipeline.runtime import create_runtime
from inference_engine.infra.runtimes.catalog import EntryPointCatalog

GOOD = """name: both
version: "1"
runtime: ensemble
signature:
  inputs:  [{name: in, dtype: float32, shape: [-1, 2]}]
  outputs: [{name: out, dtype: float32, shape: [-1, 2]}]
ensemble:
  stages:
    - {model: second, inputs: {x: middle}, outputs: {y: out}}
    - {model: "first:2", inputs: {x: in}, outputs: {y: middle}}
"""


def read(folder: Path, text: str) -> Manifest:
    file = folder / "model.yaml"
    file.write_text(text)
    return read_manifest(file, "both", "1")


def test_an_ensemble_is_read_and_written(tmp_path: Path) -> None:
    manifest = read(tmp_path, GOOD)
    assert manifest.artifact == ""
    assert manifest.ensemble is not None
    assert manifest.ensemble.stages[1] == Stage("first:2", {"x": "in"}, {"y": "middle"})
    assert graph_of(manifest.ensemble, manifest.signature).order == (1, 0)
    assert read(tmp_path, manifest_yaml(manifest)) == manifest


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "runtime: ensemble",
            "runtime: onnx\nartifact: model.yaml",
            ":3: runtime: `runtime: ensemble` and the section",
        ),
        ("runtime: ensemble", "runtime: ensemble\nartifact: x", ":4: artifact: a model with runtime: ensemble has no"),
        ("runtime: ensemble", "runtime: onnx", ":1: artifact: is missing"),
        ("runtime: ensemble", "runtime: ensemble\nexecution: {instances: 2}", ":4: execution.instances: is for models"),
        (
            "runtime: ensemble",
            "runtime: ensemble\nexecution: {cache: true}",
            ":4: execution.cache: answers are kept by",
        ),
        ("runtime: ensemble", "runtime: ensemble\noptions: {a: 1}", ":4: options: an ensemble has no options"),
        (
            "runtime: ensemble",
            "runtime: ensemble\npipeline: {preprocess: [{use: cast}]}",
            ":4: pipeline: an ensemble has",
        ),
        ("runtime: ensemble", "runtime: ensemble\nconversation: {system: hi}", ":4: conversation: an ensemble takes"),
        ("model: second", "modell: second", ":9: ensemble.stages[0].modell: unknown key: did you mean 'model'?"),
        ("model: second", "model: 7", ":9: ensemble.stages[0].model: Expected `str`"),
        ("model: second", "model: ../etc", ":9: ensemble.stages[0].model: model '../etc' is not a valid name"),
        ("model: second", "model: second@fine", ":9: ensemble.stages[0].model: model 'second@fine' is not"),
        ("{y: middle}", "{y: out}", ":10: ensemble.stages[1].outputs.y: 'out' is made twice: stages[0] (second)"),
        ("{x: in}", "{x: inn}", ":10: ensemble.stages[1].inputs.x: nobody makes 'inn': no stage does, and signature"),
        ("name: in,", "name: middle,", ":10: ensemble.stages[1].inputs.x: nobody makes 'in'"),
        ("{x: middle}", "{x: midle}", ":9: ensemble.stages[0].inputs.x: nobody makes 'midle'"),
        ("{x: middle}", "{}", ":9: ensemble.stages[0].inputs: is empty"),
        ("{x: middle}", "{x: ''}", ":9: ensemble.stages[0].inputs: 'x': '' has an empty name"),
        ("{y: out}", "{y: out, z: more}", ":9: ensemble.stages[0].outputs.z: nobody takes 'more'"),
        ("name: out", "name: else", ":6: signature.outputs[0].name: no stage makes 'else'"),
        (
            "inputs:  [",
            "inputs:  [{name: middle, dtype: bool, shape: [1]}, ",
            ":5: signature.inputs[0].name: 'middle' is no input of the stages: stages[1] (first:2) makes it",
        ),
        (
            "{x: in}",
            "{x: in, w: out}",
            ":9: ensemble.stages[0].inputs: stages wait for each other in a circle: stages[0] (second) takes 'middle' "
            "from stages[1] (first:2), stages[1] (first:2) takes 'out' from stages[0] (second)",
        ),
        (GOOD[GOOD.index("ensemble:\n") :], "ensemble: {stages: []}", ": ensemble.stages: holds 0 stages"),
        (GOOD[GOOD.index("ensemble:\n") :], "ensemble: 7", ":7: ensemble: Expected `object | null`"),
    ],
)
def test_what_is_refused(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if problem.startswith(":1: artifact"):
        text = text[: text.index("ensemble:\n")]
    with pytest.raises(InvalidManifest) as caught:
        read(tmp_path, text)
    assert problem in caught.value.message


def test_far_too_many_stages(tmp_path: Path) -> None:
    stages = [{"model": "m", "inputs": {"x": "in"}, "outputs": {"y": f"o{index}"}} for index in range(300)]
    text = yaml.safe_dump({"name": "both", "version": "1", "runtime": "ensemble", "ensemble": {"stages": stages}})
    with pytest.raises(InvalidManifest, match="holds 300 stages, it must be 1 to 256"):
        read(tmp_path, text)


_NAMES = st.sampled_from("abcdef")
_MAPS = st.dictionaries(_NAMES, _NAMES, max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(Stage, st.sampled_from(["m", "m:1", ""]), _MAPS, _MAPS), max_size=6))
def test_any_graph_is_ordered_or_refused(stages: list[Stage]) -> None:
    try:
        graph = graph_of(EnsembleSpec(tuple(stages)), None)
    except EnsembleProblem:
        return
    there = set(graph.inputs)
    for index in graph.order:
        assert set(stages[index].inputs.values()) <= there
        there |= set(stages[index].outputs.values())
    assert set(graph.outputs) <= there
    assert sorted(graph.order) == list(range(len(stages)))


# -- models of steps alone ---------------------------------------------------------------------------------------------


def steps_alone(**fields: object) -> Manifest:
    return Manifest(name="steps", version="1", runtime="identity", **fields)  # type: ignore[arg-type]


def test_identity_with_and_without_steps(tmp_path: Path) -> None:
    tensors = [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]
    steps = PipelineSpec(preprocess=({"use": "cast", "from": "int64"},), postprocess=({"use": "softmax"},))
    manifest = steps_alone(options={"tensors": tensors}, pipeline=steps)
    runtime = create_runtime(manifest)
    assert runtime.load(manifest, tmp_path).signature == Signature(
        (TensorSpec("x", "int64", (-1, 2)),), (TensorSpec("x", "float32", (-1, 2)),)
    )
    np.testing.assert_allclose(runtime.run({"x": np.array([[1, 1]])})["x"], [[0.5, 0.5]])
    spec = (TensorSpec("x", "int64", (-1,)),)
    manifest = steps_alone(signature=Signature(spec))
    runtime = create_runtime(manifest)
    assert runtime.load(manifest, tmp_path).signature == Signature(spec, spec)
    assert runtime.run({"x": np.array([7])})["x"].tolist() == [7]
    runtime.close()
    assert EntryPointCatalog().describe("identity").available


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "options.tensors is missing"),
        ({"options": {"tensor": []}}, "options.tensor is not an option of the identity runtime"),
        ({"options": {"tensors": [{"name": "x", "dtype": "float31", "shape": []}]}}, "'float31' is none of"),
        ({"options": {"tensors": [{"name": "x", "dtype": "bool", "shape": [-2]}]}}, "sizes are 0 or more"),
        ({"options": {"tensors": [{"name": "", "dtype": "bool", "shape": [1]}]}}, "is empty or given twice"),
        (
            {"signature": Signature((TensorSpec("x", "bool", (1,)),), (TensorSpec("y", "bool", (1,)),))},
            "gives what it gets",
        ),
    ],
)
def test_what_identity_refuses(tmp_path: Path, fields: dict[str, object], problem: str) -> None:
    manifest = steps_alone(**fields)
    with pytest.raises(InvalidManifest, match=problem):
        create_runtime(manifest).load(manifest, tmp_path)
