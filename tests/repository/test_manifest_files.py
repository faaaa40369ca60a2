"""`model.yaml`, read strictly and written back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Execution, Manifest, PipelineSpec, Signature, TensorSpec
from inference_engine.infra.manifest_files import DTYPES, manifest_yaml, read_manifest

HEAD = "name: m\nversion: '1'\nruntime: onnx\nartifact: model.onnx\n"


def read(folder: Path, text: str, version: str = "1") -> Manifest:
    (folder / "model.onnx").touch()
    file = folder / "model.yaml"
    file.write_text(text)
    return read_manifest(file, "m", version)


@pytest.mark.parametrize("written", ["1", "1.10", "2024-01-01", '"1"', "v3"])
def test_a_version_is_what_was_written(tmp_path: Path, written: str) -> None:
    version = written.strip('"')
    assert read(tmp_path, HEAD.replace("'1'", written), version).version == version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "exection: {}\n", r"model.yaml:5: exection: unknown key: did you mean 'execution'\?"),
        (HEAD + "execution:\n  thread: 1\n", r":6: execution.thread: unknown key: did you mean 'threads'\?"),
        (HEAD + "execution: {threads: two}\n", r":5: execution.threads: Expected `int`, got `str`"),
        (HEAD + "execution: {executor: cloud}\n", r":5: execution.executor: Invalid enum value 'cloud'"),
        (HEAD + "execution: {max_batch_size: 0}\n", r"execution.max_batch_size: is 0, it must be at least 1"),
        (HEAD + "execution: {timeout_s: .nan}\n", r"execution.timeout_s: is nan"),
        (HEAD + "execution: {instances: 0}\n", r"execution.instances: is 0, it must be at least 1"),
        (HEAD + "execution: {instances: []}\n", r"execution.instances: is empty"),
        (HEAD + "execution: {instances: [{count: 0}]}\n", r"instances\[0\].count: is 0, it must be at least 1"),
        (HEAD + "execution: {instances: [{cuont: 1}]}\n", r"cuont: unknown key: did you mean 'count'"),
        (HEAD + "execution: {device: cpu, instances: [{count: 1}]}\n", r"execution.device: cannot stand beside groups"),
        (HEAD + "execution: {resources: {gpu: 0}}\n", r"execution.resources.gpu: is 0, it must be at least 1"),
        (HEAD + "execution: {resource_priority: 0}\n", r"execution.resource_priority: is 0"),
        (HEAD + "execution: {sequences: {max_idle_s: 0}}\n", r"sequences.max_idle_s: is 0, it must be above 0"),
        (HEAD + "execution: {sequences: {max_sequences: 9999}}\n", r"sequences.max_sequences: must be from 1 to 4096"),
        (HEAD + "execution: {sequences: {controls: {begin: B}}}\n", r"controls.begin: unknown key"),
        (HEAD + "execution: {cache: true, sequences: {}}\n", r"execution.cache: answers of a model that keeps"),
        (
            HEAD + "execution: {sequences: {}}\npipeline: {preprocess: [{use: cast}]}\n",
            r"execution.sequences: cannot stand beside a pipeline",
        ),
        ("name: m\n", r"model.yaml:1: Object missing required field `version`"),
        (HEAD.replace("name: m", "name: x"), r":1: name: is 'x' but the folder is called 'm'"),
        (HEAD.replace("'1'", "'2'"), r":2: version: is '2' but the folder is called '1'"),
        (HEAD.replace("name: m", "name: ../m"), r":1: name: .*not a valid name"),
        (HEAD.replace("model.onnx", "../up.onnx"), r":4: artifact: '../up.onnx' must be a path inside"),
        (HEAD.replace("model.onnx", "/etc/passwd"), r":4: artifact: '/etc/passwd' must be a path inside"),
        (
            HEAD.replace("model.onnx", "modle.onnx"),
            r":4: artifact: there is no 'modle.onnx'.* did you mean 'model.onnx'",
        ),
        (HEAD + "digests: {../x: 'sha256:1'}\n", r"digests\..*must be a path inside"),
        (HEAD + "digests: {model.onnx: 'md5:1'}\n", r"digests.model.onnx: must be 'sha256:'"),
        (
            HEAD + "signature:\n  inputs:\n  - {name: x, dtype: flaot32, shape: [-1]}\n",
            r":7: signature.inputs\[0\].dtype: 'flaot32' is not a dtype: did you mean 'float32'\?",
        ),
        (HEAD + "signature: {inputs: [{name: x, dtype: bool, shape: [-2]}]}\n", r"inputs\[0\].shape: \[-2\]"),
        (
            HEAD + "signature: {inputs: [{name: x, dtype: bool, shap: [1]}]}\n",
            r"inputs\[0\].shap: unknown key: did you mean 'shape'",
        ),
        (HEAD + "pipeline: {preprocess: [{size: 3}]}\n", r"pipeline.preprocess\[0\]: every step says what it uses"),
        ("- a\n", r"model.yaml:1: must hold `key: value` lines"),
        ("a: [\n", r"model.yaml:\d: "),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        read(tmp_path, text)


def test_a_python_artifact_names_a_class_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    text = HEAD.replace("onnx\n", "python\n", 1).replace("model.onnx", "model.py:Echo")
    assert read(tmp_path, text).artifact == "model.py:Echo"
    with pytest.raises(InvalidManifest, match="must be a path inside"):
        read(tmp_path, text.replace("model.py", "../model.py"))


def test_only_what_differs_from_the_defaults_is_written() -> None:
    manifest = Manifest(name="m", version="1", runtime="onnx", artifact="a.onnx", execution=Execution(threads=2))
    assert manifest_yaml(manifest) == (
        "name: m\nversion: '1'\nruntime: onnx\nartifact: a.onnx\nexecution: {threads: 2}\n"
    )


_WORD = st.text("abcé: #'", min_size=1, max_size=8)
_SPEC = st.builds(
    TensorSpec, name=_WORD, dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(-1, 9), max_size=3).map(tuple)
)
_MANIFEST = st.builds(
    Manifest,
    name=st.just("m"),
    version=st.sampled_from(["1", "1.10", "true", "2024-01-01"]),
    runtime=st.just("onnx"),
    artifact=st.just("model.onnx"),
    description=_WORD,
    signature=st.none()
    | st.builds(Signature, inputs=st.lists(_SPEC, max_size=2, unique_by=lambda s: s.name).map(tuple)),
    pipeline=st.builds(PipelineSpec, preprocess=st.just(({"use": "x", "size": [1, 2]},)) | st.just(())),
    execution=st.builds(Execution, threads=st.integers(0, 4), memory_limit_mb=st.none() | st.integers(1, 9)),
    options=st.dictionaries(_WORD, st.integers() | _WORD | st.none(), max_size=2),
    tags=st.lists(_WORD, max_size=2).map(tuple),
)


@given(_MANIFEST)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    folder = tmp_path_factory.getbasetemp() / "written"
    folder.mkdir(exist_ok=True)
    assert read(folder, manifest_yaml(manifest), manifest.version) == manifest
