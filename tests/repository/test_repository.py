"""What the repository finds in folders, and how it names what it cannot use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import ModelRepository
from inference_engine.infra.repository import FolderRepository, file_digest
from tests.fixtures.tiny_bert import tiny_bert
from tests.fixtures.tiny_gguf import tiny_gguf

IRIS = """\
name: iris
version: "1"
runtime: onnx
artifact: model.onnx
"""


def put(folder: Path, *names: str, manifest: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"weights " + name.encode())
    if manifest is not None:
        (folder / "model.yaml").write_text(manifest)
    return folder


def scan(*roots: Path) -> tuple[dict[str, Manifest], list[str]]:
    repository: ModelRepository = FolderRepository(roots)
    models, broken = repository.scan()
    return {str(model.manifest.ref): model.manifest for model in models}, [item.message for item in broken]


def test_a_manifest_is_read(tmp_path: Path) -> None:
    folder = put(tmp_path / "iris" / "1", "model.onnx", manifest=IRIS)
    models, broken = FolderRepository([tmp_path]).scan()
    assert broken == []
    (model,) = models
    assert (str(model.manifest.ref), model.folder, model.assumed) == ("iris:1", folder, False)
    assert model.size_bytes == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    ("file", "expected", "runtime"),
    [
        ("chat/3/weights.gguf", "chat:3", "llama_cpp"),
        ("table/v2/model.onnx", "table:v2", "onnx"),
        ("chat/weights.gguf", "chat:1", "llama_cpp"),
        ("Qwen3-0.6B-Q8_0.gguf", "Qwen3-0.6B-Q8_0:1", "llama_cpp"),
        ("My model (v1)..final.GGUF", "My-model-v1-.final:1", "llama_cpp"),
        ("net.onnx", "net:1", "onnx"),
    ],
)
def test_a_lone_file_is_adopted_where_it_stands(tmp_path: Path, file: str, expected: str, runtime: str) -> None:
    put(tmp_path, file)
    models, broken = FolderRepository([tmp_path]).scan()
    assert broken == []
    (model,) = models
    assert str(model.manifest.ref) == expected
    assert (model.manifest.runtime, model.assumed) == (runtime, True)
    assert (model.folder / model.manifest.artifact).is_file()
    assert model.size_bytes > 0


def test_a_sharded_gguf_is_one_model_named_without_its_numbers(tmp_path: Path) -> None:
    put(tmp_path, "big-00001-of-00002.gguf", "big-00002-of-00002.gguf")
    models, broken = scan(tmp_path)
    assert (list(models), broken) == (["big:1"], [])
    assert models["big:1"].artifact == "big-00001-of-00002.gguf"
    (tmp_path / "big-00002-of-00002.gguf").unlink()
    models, broken = scan(tmp_path)
    assert models == {}
    assert "big-00002-of-00002.gguf is missing" in broken[0]


def test_a_vision_projector_is_no_model_of_its_own(tmp_path: Path) -> None:
    put(tmp_path / "see" / "1", "model.gguf", "mmproj-model-f16.gguf")
    models, broken = scan(tmp_path)
    assert models["see:1"].artifact == "model.gguf"
    assert broken == []


def test_several_files_need_a_manifest(tmp_path: Path) -> None:
    put(tmp_path / "two" / "1", "a.gguf", "b.gguf")
    models, (message,) = scan(tmp_path)
    assert models == {}
    assert "several model files (a.gguf, b.gguf)" in message
    assert str(tmp_path / "two" / "1") in message


def test_what_looks_like_a_model_but_cannot_be_adopted_is_reported_and_the_rest_is_ignored(tmp_path: Path) -> None:
    put(tmp_path / "hf", "config.json", "model.safetensors", "onnx/model.onnx")
    put(tmp_path / "notes" / "2024", "readme.txt")
    put(tmp_path / ".cache" / "1", "x.gguf")
    put(tmp_path / "torch" / "1", "model.pt")
    models, broken = scan(tmp_path)
    assert models == {}
    assert len(broken) == 2
    assert "hf/config.json" in broken[0]
    assert "model.pt, which cannot be adopted" in broken[1]


def test_programs_keras_files_and_saved_models_are_adopted(tmp_path: Path) -> None:
    put(tmp_path / "program" / "2", "anything.pt2")
    put(tmp_path, "loose.keras")
    put(tmp_path / "by-name", "saved_model.pb", "variables/variables.index")
    put(tmp_path / "by-version" / "3", "saved_model.pb", "variables/variables.index")
    put(tmp_path / "inside" / "1" / "model.savedmodel", "saved_model.pb")
    models, broken = scan(tmp_path)
    assert broken == []
    assert {name: (model.runtime, model.artifact) for name, model in models.items()} == {
        "program:2": ("torch", "anything.pt2"),
        "loose:1": ("tensorflow", "loose.keras"),
        "by-name:1": ("tensorflow", "."),
        "by-version:3": ("tensorflow", "."),
        "inside:1": ("tensorflow", "model.savedmodel"),
    }


def hugging_face(folder: Path, architecture: str, weights: str = "model.safetensors", **config: object) -> None:
    put(folder, weights, "onnx/model.onnx")
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "architectures": [architecture], **config}))


@pytest.mark.parametrize(
    ("architecture", "config", "task"),
    [
        ("LlamaForCausalLM", {}, "text-generation"),
        ("BertModel", {}, "feature-extraction"),
        ("BertForSequenceClassification", {"id2label": {"0": "a", "1": "b"}}, "text-classification"),
        ("BertForSequenceClassification", {"id2label": {"0": "score"}}, "text-ranking"),
        ("LlavaForConditionalGeneration", {"vision_config": {}}, "image-text-to-text"),
        ("Wav2Vec2ForCTC", {}, "automatic-speech-recognition"),
    ],
)
def test_a_hugging_face_folder_is_adopted_for_what_it_is(
    tmp_path: Path, architecture: str, config: dict[str, object], task: str
) -> None:
    hugging_face(tmp_path / "by-name", architecture, **config)
    hugging_face(tmp_path / "by-version" / "3", architecture, **config)
    models, broken = scan(tmp_path)
    assert broken == []
    assert sorted(models) == ["by-name:1", "by-version:3"]
    for model in models.values():
        assert (model.runtime, model.artifact, model.task) == ("transformers", ".", task)


def test_a_hugging_face_folder_that_does_not_say_enough_is_reported(tmp_path: Path) -> None:
    hugging_face(tmp_path / "a", "StrangeForPainting")
    hugging_face(tmp_path / "b", "LlamaForCausalLM", "pytorch_model.bin")
    models, broken = scan(tmp_path)
    assert models == {}
    assert "set task in model.yaml" in broken[0]
    assert "options.trust: [pickle]" in broken[1]


def test_a_misplaced_manifest_is_told_where_to_go(tmp_path: Path) -> None:
    put(tmp_path / "iris", "model.onnx", manifest=IRIS)
    assert "iris/1/model.yaml" in scan(tmp_path)[1][0]
    assert "two levels above" in scan(tmp_path / "iris")[1][0]


def test_one_bad_folder_hides_no_other(tmp_path: Path) -> None:
    put(tmp_path / "bad" / "1", manifest="name: [")
    put(tmp_path / "iris" / "1", "model.onnx", manifest=IRIS)
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "nowhere")
    models, broken = scan(tmp_path, tmp_path / "absent")
    assert list(models) == ["iris:1"]
    assert len(broken) == 2
    assert "bad/1/model.yaml:" in broken[0]
    assert "absent: the models folder cannot be read" in broken[1]


def test_the_first_root_wins_and_the_other_is_named(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for root in (ours, theirs):
        put(root / "iris" / "1", "model.onnx", manifest=IRIS)
    models, broken = FolderRepository([ours, theirs]).scan()
    assert [model.folder for model in models] == [ours / "iris" / "1"]
    assert broken[0].folder == theirs / "iris" / "1"
    assert "iris:1 is already served from" in broken[0].message


def test_symbolic_links_placed_by_the_operator_are_followed(tmp_path: Path) -> None:
    store = put(tmp_path / "store", "blob")
    folder = put(tmp_path / "models" / "chat" / "1")
    (folder / "model.gguf").symlink_to(store / "blob")
    assert list(scan(tmp_path / "models")[0]) == ["chat:1"]


def test_models_are_listed_in_order(tmp_path: Path) -> None:
    put(tmp_path, "b.gguf", "a/10/x.onnx", "a/2/x.onnx", "a/beta/x.onnx")
    assert list(scan(tmp_path)[0]) == ["a:beta", "a:2", "a:10", "b:1"]


def test_verify_compares_digests_and_reads_a_file_once(tmp_path: Path) -> None:
    folder = put(tmp_path / "iris" / "1", "model.onnx", manifest=IRIS)
    artifact = folder / "model.onnx"
    (folder / "model.yaml").write_text(IRIS + f"digests: {{model.onnx: '{file_digest(artifact)}'}}\n")
    repository = FolderRepository([tmp_path])
    (model,) = repository.scan()[0]
    repository.verify(model)

    stat = artifact.stat()
    artifact.write_bytes(b"changed weights!!!")
    assert artifact.stat().st_size == stat.st_size
    os.utime(artifact, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    repository.verify(model)  # same size and time: the digest is remembered
    os.utime(artifact, ns=(0, 1))
    with pytest.raises(ModelLoadFailed, match=r"model\.onnx is damaged or was changed: its digest is sha256:"):
        repository.verify(model)
    artifact.unlink()
    with pytest.raises(ModelLoadFailed, match="is missing"):
        repository.verify(model)


def test_a_projector_beside_a_lone_model_is_used_with_it(tmp_path: Path) -> None:
    put(tmp_path / "see" / "1", "model.gguf", "mmproj-model-f16.gguf")
    put(tmp_path / "blind" / "1", "model.gguf", "mmproj-a.gguf", "mmproj-b.gguf")
    found, broken = FolderRepository((tmp_path,)).scan()
    assert broken == []
    assert [(model.manifest.name, model.manifest.task, model.manifest.options) for model in found] == [
        ("blind", "text-generation", {}),
        ("see", "image-text-to-text", {"mmproj": "mmproj-model-f16.gguf"}),
    ]


def test_a_lone_encoder_is_no_text_generator(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "vectors.gguf")
    tiny_gguf(tmp_path / "writer.gguf")
    found, _ = FolderRepository((tmp_path,)).scan()
    assert [(model.manifest.name, model.manifest.task) for model in found] == [
        ("vectors", ""),
        ("writer", "text-generation"),
    ]


@pytest.mark.parametrize(
    ("file", "content", "runtime"),
    [
        ("model.skops", b"PK", "sklearn"),
        ("model.ubj", b"{L\0\0\0\0\0\0\0\x07learner{", "xgboost"),
        ("model.json", b'{"learner":{"attributes":{}', "xgboost"),
        ("model.txt", b"tree\nversion=v4\nnum_class=1\n", "lightgbm"),
        ("notes.json", b'{"title": "notes"}', None),
        ("notes.txt", b"trees and versions", None),
    ],
)
def test_a_tabular_model_is_known_by_its_first_bytes(
    tmp_path: Path, file: str, content: bytes, runtime: str | None
) -> None:
    put(tmp_path / "table" / "1", file)
    (tmp_path / "table" / "1" / file).write_bytes(content)
    found, broken = scan(tmp_path)
    assert broken == []
    assert {name: manifest.runtime for name, manifest in found.items()} == ({"table:1": runtime} if runtime else {})
