"""docs/pipelines.md and the pages beside it are true: manifests fit, tables name every option, programs run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import yaml

from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.infra.manifest_files import read_manifest
from inference_engine.infra.pipeline.catalog import GROUP
from inference_engine.infra.pipeline.fitted import Column, Encoding, Scaling, decode_fitted, read_fitted
from inference_engine.infra.pipeline.runtime import create_runtime
from tests.fixtures.tiny_onnx import mlp_onnx
from tests.fixtures.tiny_steps import tiny_tokenizer
from tests.pipeline.conftest import CATALOG, PROJECT, Start, step

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "pipelines.md").read_text()


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)


def block(language: str, containing: str = "") -> str:
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text]
    return str(found)


def test_the_first_manifest_loads_as_its_signature_says(tmp_path: Path) -> None:
    mlp_onnx(tmp_path / "model.onnx", inputs=4, hidden=8, outputs=3)
    (tmp_path / "labels.txt").write_text("cat\ndog\nfish\n")
    (tmp_path / "model.yaml").write_text(block("yaml", "name: pets"))
    manifest = read_manifest(tmp_path / "model.yaml", "pets", "1")
    runtime = create_runtime(manifest, steps=CATALOG)
    assert runtime.load(manifest, tmp_path).signature == manifest.signature
    outputs = runtime.run({"x": np.array([[np.nan, 3.0, 4.0, 1.0]])})
    assert set(outputs["labels"][0]) < {b"cat", b"dog", b"fish"}
    assert outputs["scores"][0, 0] >= outputs["scores"][0, 1] > 0


def test_the_second_manifest_is_read_and_its_steps_are_known(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.yaml").write_text(block("yaml", "name: spam"))
    pipeline = CATALOG.build(read_manifest(tmp_path / "model.yaml", "spam", "1").pipeline, tmp_path)
    assert [placed.use for placed in pipeline.postprocess] == ["threshold", "softmax", "top_k"]


def test_the_manifests_of_the_page_on_images_are_read_and_fit_their_models(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    found = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(found) == 2
    (tmp_path / "model.onnx").touch()
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    pixels = [(-1, 3, 224, 224), (-1, 3, 320, 320)]
    outputs = [TensorSpec("y", "float32", (-1, 2)), TensorSpec("map", "float32", (-1, 6, 40, 40))]
    made = [("labels", "scores"), ("boxes", "scores", "labels")]
    for block_, shape, output, names in zip(found, pixels, outputs, made, strict=True):
        (tmp_path / "model.yaml").write_text(block_)
        manifest = read_manifest(tmp_path / "model.yaml", re.findall(r"name: (\S+)", block_)[0], "1")
        client = CATALOG.build(manifest.pipeline, tmp_path).preview(
            Signature((TensorSpec("pixels", "float32", shape),), (output,))
        )
        assert client.inputs == (TensorSpec("pixels", "bytes", (-1,)),)
        assert tuple(spec.name for spec in client.outputs) == names


TOKENS = (TensorSpec("input_ids", "int64", (-1, -1)), TensorSpec("attention_mask", "int64", (-1, -1)))
FITTED = (
    {"name": "age", "impute": 38.0, "scale": {"mean": 40.2, "std": 12.1}},
    {"name": "income"},
    {"name": "city", "dtype": "bytes", "encode": {"kind": "one_hot", "categories": ["Oslo", "Paris", "Rome"]}},
)
MODELS = {  # what the manifests of the other pages say of their models, and what clients then see
    "whistles": ((TensorSpec("sound", "float32", (-1, 1, 64, 101)),), (-1, 3), ["sound"], ["labels", "scores"]),
    "letters": ((TensorSpec("sound", "float32", (-1, -1)),), (-1, -1, 32), ["sound"], ["texts", "scores"]),
    "sentences": ((*TOKENS, TensorSpec("token_type_ids", "int64", (-1, -1))), (-1, -1, 384), ["text"], ["embedding"]),
    "relevance": (TOKENS, (-1, 2), ["query", "passage"], ["labels"]),
    "churn": ((TensorSpec("input", "float32", (-1, 5)),), (-1, 2), ["age", "income", "city"], ["stays", "leaves"]),
}


@pytest.mark.parametrize(
    ("page", "name"),
    [("audio", "whistles"), ("audio", "letters"), ("texts", "sentences"), ("texts", "relevance"), ("tables", "churn")],
)
def test_the_manifests_of_the_other_pages_fit_their_models(tmp_path: Path, page: str, name: str) -> None:
    (block_,) = (text for text in _blocks(page, "yaml") if f"name: {name}\n" in text)
    inputs, output, takes, gives = MODELS[name]
    (tmp_path / "model.onnx").touch()
    labels = {"whistles": "dog\ncat\nman\n", "letters": "<s>\n</s>\n<unk>\n|\n" + "x\n" * 28}.get(name, "no\nyes\n")
    (tmp_path / "labels.txt").write_text(labels)
    (tmp_path / "fitted.json").write_text(json.dumps({"format": "inference-engine-fitted-1", "columns": FITTED}))
    tiny_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "model.yaml").write_text(block_)
    manifest = read_manifest(tmp_path / "model.yaml", name, "1")
    made = CATALOG.build(manifest.pipeline, tmp_path)
    client = made.preview(Signature(inputs, (TensorSpec("y", "float32", output),)))
    assert [given.name for given in client.inputs] == takes
    assert [given.name for given in client.outputs] == gives


def test_the_steps_named_for_known_models_have_these_options() -> None:
    text = (DOCS / "audio.md").read_text()
    for options in re.findall(r"`audio.log_mel` with `([^`]*)`", text):
        step("audio.log_mel", **{"rate": 16_000, **yaml.safe_load("{" + options + "}")})


def test_the_page_on_tables_has_every_field_and_its_file_is_read(tmp_path: Path) -> None:
    text = (DOCS / "tables.md").read_text()
    (example,) = _blocks("tables", "json")
    assert decode_fitted(example.encode()).width == 1 + 1 + 1 + 3
    for kind in (Column, Scaling, Encoding):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in text, field
    (program,) = _blocks("tables", "python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['age', 'income', 'city']")
    assert read_fitted(tmp_path / "fitted.json").width == 4


@pytest.mark.parametrize("name", CATALOG.names())
def test_every_step_and_every_option_is_in_the_tables(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
    kind = EntryPoint(name, PROJECT["entry-points"][GROUP][name], GROUP).load()
    for option in kind.__struct_encode_fields__:
        assert f"`{option}`" in row, option


async def test_the_step_of_one_s_own_runs_in_both_executors(
    tmp_path: Path, kind: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed as pip does it: a module, and beside it the metadata that names the entry point."""
    packages, model = tmp_path / "packages", tmp_path / "model"
    metadata = packages / "example-1.0.dist-info"
    for folder in (metadata, model):
        folder.mkdir(parents=True)
    (packages / "clip_step.py").write_text(block("python"))
    ((name, value),) = tomllib.loads(block("toml"))["project"]["entry-points"][GROUP].items()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]))

    await _clips(kind, model, block("yaml", "use: example.clip"), start)
    sys.modules.pop("clip_step", None)


async def test_the_step_in_the_models_own_folder_runs_in_both_executors(
    tmp_path: Path, kind: str, start: Start
) -> None:
    (tmp_path / "clip_step.py").write_text(block("python"))
    await _clips(kind, tmp_path, block("yaml", 'use: "clip_step.py:Clip"'), start)


async def _clips(kind: str, model: Path, manifest_text: str, start: Start) -> None:
    mlp_onnx(model / "model.onnx", inputs=4, hidden=8, outputs=3)
    (model / "model.yaml").write_text(manifest_text)
    manifest = read_manifest(model / "model.yaml", "clipped", "1")
    executor, loaded = await start(kind, manifest, model)
    assert loaded.signature is not None
    assert loaded.signature.inputs[0].dtype == "float32"
    x = np.array([[-5, 0.5, 5, 1]], np.float32)
    result = await executor.run([{"x": x}, {"x": np.clip(x, 0, 1)}], [1, 1])
    np.testing.assert_allclose(result.outputs[0]["y"], result.outputs[1]["y"], rtol=1e-5)
