"""Folders in Triton's layout become manifests, or an error that names the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_engine.domain.model import (
    EnsembleSpec,
    Execution,
    InstanceGroup,
    SequenceControls,
    Sequences,
    SequenceState,
    Stage,
    TensorSpec,
    Warmup,
)
from inference_engine.domain.sequences import client_signature
from inference_engine.infra.formats.prototext import PrototextError, parse_prototext
from inference_engine.infra.repository import FolderRepository
from tests.fixtures.tiny_onnx import identity_onnx

CONFIG = """
# a comment
name: "net"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output { name: "y", data_type: TYPE_FP32, dims: 2, label_filename: "labels.txt" }
dynamic_batching { max_queue_delay_microseconds: 1500 preferred_batch_size: [ 4, 8 ] }
instance_group [ { count: 2 kind: KIND_CPU } ]
version_policy: { all {} }
parameters { key: "intra_op_thread_count" value: { string_value: "3" } }
model_warmup { name: "w" batch_size: 4 inputs { key: "x" value: { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
optimization { graph { level: 1 } }
"""


TENSORS = """platform: "ensemble"
input { name: "in" data_type: TYPE_FP32 dims: 2 }
output { name: "out" data_type: TYPE_FP32 dims: 2 }
"""
STEPS = """ensemble_scheduling { max_inflight_requests: 4 step [
 { model_name: "first"
   model_version: -1
   input_map { key: "x" value: "in" } output_map { key: "y" value: "shared" }
   output_map { key: "z" value: "unused" } }, { model_name: "second" model_version: 3
   input_map { key: "x" value: "shared" } output_map { key: "y" value: "out" } } ] }
"""


def tree(root: Path, config: str = CONFIG, versions: tuple[str, ...] = ("1", "2", "10"), name: str = "net") -> Path:
    """A model in Triton's layout."""
    folder = root / name
    for version in versions:
        (folder / version).mkdir(parents=True)
        identity_onnx(folder / version / "model.onnx")
    (folder / "config.pbtxt").write_text(config)
    (folder / "labels.txt").write_text("cat\ndog\n")
    return folder


def broken(root: Path) -> str:
    found, problems = FolderRepository([root]).scan()
    assert not found
    return problems[0].message


def test_every_field_that_is_served(tmp_path: Path) -> None:
    tree(tmp_path)
    found, problems = FolderRepository([tmp_path]).scan()
    assert not problems
    assert [str(model.manifest.ref) for model in found] == ["net:1", "net:2", "net:10"]
    manifest = found[0].manifest
    assert (manifest.runtime, manifest.artifact) == ("onnx", "model.onnx")
    assert manifest.signature is not None
    assert manifest.signature.inputs == (TensorSpec("x", "float32", (-1, 2)),)
    assert manifest.signature.outputs == (TensorSpec("y", "float32", (-1, 2), ("cat", "dog")),)
    execution = manifest.execution
    assert (execution.max_batch_size, execution.max_delay_ms, execution.threads) == (8, 1.5, 3)
    assert (execution.instances, execution.device) == (2, "cpu")
    assert execution.warmup == (Warmup(4, {"x": (2,)}),)


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["2", "10"]),
        ("version_policy { specific { versions: [1, 10] } }", ["1", "10"]),
        ("version_policy: { all: {} }", ["1", "2", "10"]),
    ],
)
def test_version_policies(tmp_path: Path, policy: str, versions: list[str]) -> None:
    tree(tmp_path, 'backend: "onnxruntime"\n' + policy)
    found, _ = FolderRepository([tmp_path]).scan()
    assert [model.manifest.version for model in found] == versions


def test_a_model_without_batching(tmp_path: Path) -> None:
    config = 'backend: "onnxruntime"\ninput { name: "x" data_type: TYPE_STRING dims: [-1, 2] }'
    tree(tmp_path, config, ("1",))
    manifest = FolderRepository([tmp_path]).scan()[0][0].manifest
    assert manifest.signature is not None
    assert manifest.signature.inputs == (TensorSpec("x", "bytes", (-1, 2)),)
    assert manifest.execution.max_batch_size == 1


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('name: "other"\nbackend: "onnxruntime"', "config.pbtxt:1: name is 'other'"),
        ('\nplatform: "tensorrt_plan"', "config.pbtxt:2: 'tensorrt_plan' is not served"),
        (
            'backend: "onnxruntime"\nsequence_batching { control_input { name: "S" control { kind: 9 } } }',
            ":2: control_input 'S': kind",
        ),
        (
            'backend: "onnxruntime"\nsequence_batching { control_input { name: "S"\n'
            "control { kind: CONTROL_SEQUENCE_START int32_false_true: [1, 0] } } }",
            ":3: control_input 'S': int32_false_true must be [ 0, 1 ]",
        ),
        (
            'backend: "onnxruntime"\nsequence_batching { control_input { name: "S"\n'
            "control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } } }",
            ":3: control_input 'S': data_type must be",
        ),
        ('backend: "onnxruntime"\nsequence_batching { state { input_name: "s" } }', ":2: state needs"),
        (
            'backend: "onnxruntime"\nsequence_batching { state { input_name: "s" output_name: "t" data_type: TYPE_FP32 '
            'dims: 2\ninitial_state { dims: 2 data_file: "none" } } }',
            ":3: data_file 'none' cannot be read",
        ),
        (
            'backend: "onnxruntime"\nsequence_batching { generative_sequence: true }',
            "generative_sequence is not served",
        ),
        ('platform: "ensemble"', "config.pbtxt:1: an ensemble needs ensemble_scheduling"),
        ('backend: "onnxruntime"\nensemble_scheduling { step [] }', ":2: ensemble_scheduling needs platform"),
        ('platform: "ensemble"\nensemble_scheduling { step [] }', ":2: an ensemble must list its input and output"),
        (f"{TENSORS}ensemble_scheduling {{ step [] }}", ":4: holds 0 stages"),
        (f"{TENSORS}dynamic_batching {{ }}\n{STEPS}", ":4: dynamic_batching is for models"),
        (
            TENSORS + STEPS.replace('value: "shared" } output_map', 'value: "lost" } output_map'),
            ":8: nobody makes 'lost'",
        ),
        (TENSORS + STEPS.replace('value: "out"', 'value: "shared"'), ":8: 'shared' is made twice"),
        (TENSORS + STEPS.replace('value: "in"', 'value: "out"'), ":5: stages wait for each other in a circle"),
        (
            TENSORS.replace("output", 'input { name: "no" data_type: TYPE_BOOL }\noutput') + STEPS,
            ":5: 'no' is no input",
        ),
        (TENSORS + STEPS.replace("-1", "-2"), ":6: model_version must be"),
        (TENSORS + STEPS.replace('"first"', '"../first"'), ":5: model '../first' is not a valid name"),
        (TENSORS + STEPS.replace("model_version", "surprise"), ":6: ensemble_scheduling.step.surprise"),
        (TENSORS + STEPS.replace('key: "x"', ""), ":7: input_map needs a key"),
        ('backend: "onnxruntime"\nsurprise: 1', ":2: surprise is not a field"),
        ('backend: "onnxruntime"\nmax_batch_size: -1', ":2: max_batch_size must be"),
        ('backend: "onnxruntime"\ninput {\n name: "x" data_type: TYPE_BF16 dims: 1 }', ":3: input 'x': data_type is"),
        ('backend: "onnxruntime"\ninput { name: "x" data_type: TYPE_FP32\nreshape { shape: [] } }', ":3: input 'x'"),
        (
            'backend: "onnxruntime"\noutput { name: "y" data_type: TYPE_FP32\nlabel_filename: "../x" }',
            ":3: label_filename",
        ),
        ('backend: "onnxruntime"\ninstance_group { kind: KIND_TPU }', ":2: instance_group.kind KIND_TPU"),
        (
            'backend: "onnxruntime"\ninstance_group [ { rate_limiter { resources { name: "R" count: 1 } } },\n'
            "{ count: 1 } ]",
            ":3: rate_limiter: every group",
        ),
        ('backend: "onnxruntime"\nparameters { key: "surprise" }', ":2: parameters: 'surprise'"),
        ('backend: "onnxruntime"\nversion_policy { specific { versions: 7 } }', ":2: version_policy names 7"),
        ('backend: "onnxruntime"\ndefault_model_filename: "net.onnx"', ":2: "),
        ('backend: "onnxruntime"\nmodel_transaction_policy { decoupled: true }', ":2: decoupled"),
        ('backend: "onnxruntime"\ninput {', ":2: the message that begins here is never closed"),
        ("backend: 'onnxruntime\n", ":1: "),
        ("backend onnxruntime", ":1: ':' is missing after 'backend'"),
        ("backend: onnxruntime", ":1: backend must be a text in quotes"),
        ("{" * 100, ":1: a field's name is expected"),
        ("a{" * 100, ":1: messages are nested"),
    ],
)
def test_what_is_refused(tmp_path: Path, config: str, says: str) -> None:
    tree(tmp_path, config, ("1",))
    assert says in broken(tmp_path)
    assert "config.pbtxt" in broken(tmp_path)


def test_a_python_model_of_ours_and_of_triton(tmp_path: Path) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "net" / "config.pbtxt").write_text(
        'backend: "python"\nparameters { key: "a" value { string_value: "b" } }'
    )
    (folder / "model.py").write_text("class Model:\n    def predict(self, inputs): return inputs\n")
    manifest = FolderRepository([tmp_path]).scan()[0][0].manifest
    assert (manifest.runtime, manifest.artifact, manifest.options) == ("python", "model.py:Model", {"a": "b"})
    (folder / "model.py").write_text("class Helper:\n    pass\n\nclass TritonPythonModel:\n    pass\n")
    manifest = FolderRepository([tmp_path]).scan()[0][0].manifest
    assert manifest.artifact == "model.py:TritonPythonModel"
    assert manifest.options == {"parameters": {"a": "b"}}
    (tmp_path / "net" / "config.pbtxt").write_text(
        'backend: "python"\nmodel_transaction_policy { decoupled: true }\n'
        'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "env.tar.gz" } }'
    )
    assert ":3: parameters: EXECUTION_ENV_PATH" in broken(tmp_path)


SEQUENCES = """
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "seen" data_type: TYPE_INT32 dims: [ 2 ] } ]
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  STRATEGY
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
  state [
    { input_name: "a" output_name: "b" data_type: TYPE_FP32 dims: [ -1 ]
      initial_state { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true name: "zeros" } },
    { input_name: "c" output_name: "seen" data_type: TYPE_INT32 dims: [ 2 ] }
  ]
}
"""


@pytest.mark.parametrize(
    ("strategy", "name", "count"),
    [("", "direct", 64), ("direct { }", "direct", 64), ("oldest { max_candidate_sequences: 7 }", "oldest", 7)],
)
def test_sequences_with_controls_and_states(tmp_path: Path, strategy: str, name: str, count: int) -> None:
    tree(tmp_path, SEQUENCES.replace("STRATEGY", strategy), ("1",))
    found, problems = FolderRepository([tmp_path]).scan()
    assert not problems
    manifest = found[0].manifest
    assert manifest.execution.sequences == Sequences(
        max_idle_s=5.0,
        max_sequences=count,
        strategy=name,  # type: ignore[arg-type]  # a text from the parameters
        controls=SequenceControls("START", "END", "READY", "CORRID"),
        states=(SequenceState("a", "b", None, (3,)), SequenceState("c", "seen", None, (2,), visible=True)),
    )
    assert manifest.signature is not None
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.signature.inputs] == [
        ("x", "float32", (-1, 1)),
        ("START", "int32", (-1, 1)),
        ("READY", "float32", (-1, 1)),
        ("END", "bool", (-1, 1)),
        ("CORRID", "uint64", (-1, 1)),
        ("a", "float32", (-1, -1)),
        ("c", "int32", (-1, 2)),
    ]
    assert [spec.name for spec in manifest.signature.outputs] == ["y", "seen", "b"]
    seen = client_signature(manifest.signature, manifest.execution.sequences)
    assert seen is not None
    assert [spec.name for spec in seen.inputs] == ["x"]
    assert [spec.name for spec in seen.outputs] == ["y", "seen"]


@pytest.mark.parametrize(
    ("groups", "instances", "device"),
    [
        ("{ gpus: [0, 1] count: 2 }", (InstanceGroup(2, "cuda:0"), InstanceGroup(2, "cuda:1")), "auto"),
        ("{ kind: KIND_CPU count: 2 }, { gpus: 1 }", (InstanceGroup(2, "cpu"), InstanceGroup(1, "cuda:1")), "auto"),
        ("{ count: 2 }, { count: 1 }", 3, "auto"),
        ("{ kind: KIND_GPU count: 2 }", 2, "cuda"),
    ],
)
def test_groups_of_instances(tmp_path: Path, groups: str, instances: object, device: str) -> None:
    tree(tmp_path, f'backend: "onnxruntime"\ninstance_group [ {groups} ]', ("1",))
    execution = FolderRepository([tmp_path]).scan()[0][0].manifest.execution
    assert (execution.instances, execution.device) == (instances, device)


def test_what_instances_share(tmp_path: Path) -> None:
    limits = 'rate_limiter { resources [ { name: "R1" global: true count: 2 }, { name: "R2" count: 1 } ] priority: 3 }'
    tree(tmp_path, f'backend: "onnxruntime"\ninstance_group [ {{ count: 2 {limits} }} ]', ("1",))
    execution = FolderRepository([tmp_path]).scan()[0][0].manifest.execution
    assert (execution.resources, execution.resource_priority) == ({"R1": 2, "R2": 1}, 3)


def test_a_broken_folder_hides_no_other(tmp_path: Path) -> None:
    tree(tmp_path, "surprise: 1", ("1",), "bad")
    tree(tmp_path)
    found, problems = FolderRepository([tmp_path]).scan()
    assert len(found) == 3
    assert [problem.folder.name for problem in problems] == ["bad"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'a: "x\n\x41\101\"" "y"', 'x\nAA"y'),
        ("a: 0x10", 16),
        ("a: 010", 8),
        ("a: -3", -3),
        ("a: 1.5f", 1.5),
        ("a: -inf", float("-inf")),
        ("a: [ TRUE ];", "TRUE"),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parse_prototext(text).fields[0].value == value


@pytest.mark.parametrize("text", ["a: 09", "a: [1 2]", "a:", "a: }", r'a: "\UFFFFFFFF"', "a: §", "1: 2"])
def test_texts_that_are_wrong(text: str) -> None:
    with pytest.raises(PrototextError):
        parse_prototext(text)


def test_an_ensemble(tmp_path: Path) -> None:
    tuned = 'max_batch_size: 4\nresponse_cache { enable: true }\nparameters { key: "a" value { string_value: "b" } }\n'
    tree(tmp_path, TENSORS + tuned + STEPS, ("1",))
    found, problems = FolderRepository([tmp_path]).scan()
    assert not problems
    manifest = found[0].manifest
    assert (manifest.runtime, manifest.artifact, manifest.options) == ("ensemble", "", {})
    assert manifest.execution == Execution(max_batch_size=4)
    assert manifest.signature is not None
    assert manifest.signature.inputs == (TensorSpec("in", "float32", (-1, 2)),)
    assert manifest.ensemble == EnsembleSpec(
        (Stage("first", {"x": "in"}, {"y": "shared"}), Stage("second:3", {"x": "shared"}, {"y": "out"}))
    )
