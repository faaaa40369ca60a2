"""The examples in the manual are read by the program they describe."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from inference_engine.core.settings import Settings
from inference_engine.domain.model import Execution, Manifest, SequenceControls, Sequences, SequenceState
from inference_engine.infra.manifest_files import read_manifest
from inference_engine.infra.runtimes.lightgbm import LightgbmOptions
from inference_engine.infra.runtimes.llama_cpp.options import (
    DraftOptions,
    LlamaCppOptions,
    NgramOptions,
    SamplingDefaults,
)
from inference_engine.infra.runtimes.mlflow import MlflowOptions
from inference_engine.infra.runtimes.onnx.options import OnnxOptions, OnnxSession
from inference_engine.infra.runtimes.onnx.session import PROVIDERS
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.sklearn.runtime import SklearnOptions
from inference_engine.infra.runtimes.tensorflow.runtime import TensorflowOptions
from inference_engine.infra.runtimes.torch.options import TorchOptions
from inference_engine.infra.runtimes.xgboost import XgboostOptions
from tests.fixtures.trained import HEAVY, QUICK

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("language", ["yaml", "toml"])
def test_the_configuration_files_are_valid_and_say_the_same(tmp_path: Path, language: str) -> None:
    (text,) = blocks("configuration.md", language)
    file = tmp_path / f"inference-engine.{language}"
    file.write_text(text)
    settings, origins = Settings.load({}, {}, tmp_path)
    assert (settings.max_body_mb, settings.log_format, origins.file) == (16.0, "json", file)


def test_the_manifests_are_valid_and_the_long_one_holds_every_field(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    short, long = blocks("models.md", "yaml")
    (tmp_path / "model.yaml").write_text(short)
    assert read_manifest(tmp_path / "model.yaml", "iris", "1").execution == Execution()
    (tmp_path / "model.yaml").write_text(long)
    read_manifest(tmp_path / "model.yaml", "mlp", "1")
    for field in (*Manifest.__struct_fields__, *Execution.__struct_fields__):
        assert re.search(rf"\b{field}:", long), f"{field} is missing in the example"
        assert f"`{field}`" in (DOCS / "models.md").read_text(), f"{field} is missing in the tables"


def test_the_manifests_of_the_scheduling_page_are_valid(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.py").touch()
    page = (DOCS / "scheduling.md").read_text()
    for block in blocks("scheduling.md", "yaml"):
        (tmp_path / "model.yaml").write_text(block)
        read_manifest(tmp_path / "model.yaml", re.findall(r"name: (.*)", block)[0], "1")
    for kind in (Sequences, SequenceControls, SequenceState):
        for field in kind.__struct_fields__:
            assert re.search(rf"\b{field}\b", page), field
    for field in ("max_idle_s", "max_sequences"):
        assert re.search(rf"`{field}` \|.*default {getattr(Sequences(), field):g} \|", page), field


def test_the_language_models_of_the_manual_are_valid_and_every_option_is_there(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    for block in blocks("language-models.md", "yaml"):
        (tmp_path / "model.yaml").write_text(block)
        manifest = read_manifest(tmp_path / "model.yaml", re.findall(r"name: (.*)", block)[0], "1")
        decode_options(manifest.options, LlamaCppOptions, "llama_cpp")
    page = (DOCS / "language-models.md").read_text()
    for kind in (LlamaCppOptions, SamplingDefaults):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in page, f"{field} is missing in language-models.md"
    for field in ("n_batch", "gpu_layers", "flash_attention", "mmap", "cache_ram_mib", "normalize", "keep_cache"):
        (written,) = re.findall(rf"^\| `{field}` \|.*\| `(.*)` \|$", page, re.MULTILINE)
        assert written == str(getattr(LlamaCppOptions(), field)).lower(), field
    draft, ngram = DraftOptions("x"), NgramOptions()
    assert f"(default {draft.max_tokens} and {draft.min_tokens})" in page
    assert f"`min_probability` (default {draft.min_probability})" in page
    assert f"`match` tokens (default {ngram.match})" in page
    assert f"`max_tokens` (default {ngram.max_tokens})" in page


@pytest.mark.parametrize(("page", "options"), [("torch", TorchOptions), ("tensorflow", TensorflowOptions)])
def test_the_framework_pages_hold_every_option(tmp_path: Path, page: str, options: type[msgspec.Struct]) -> None:
    for artifact in ("model.safetensors", "saved"):
        (tmp_path / artifact).touch()
    for block in blocks(f"runtimes/{page}.md", "yaml"):
        (tmp_path / "model.yaml").write_text(block)
        manifest = read_manifest(tmp_path / "model.yaml", re.findall(r"name: (.*)", block)[0], "1")
        decode_options(manifest.options, options, page)
    text = (DOCS / "runtimes" / f"{page}.md").read_text()
    for field in options.__struct_encode_fields__:
        assert f"| `{field}` |" in text, field


def test_the_options_of_onnx_and_their_defaults_are_there(tmp_path: Path) -> None:
    page = (DOCS / "runtimes" / "onnx.md").read_text()
    for kind in (OnnxOptions(), OnnxSession()):
        for field in kind.__struct_fields__:
            (written,) = re.findall(rf"^\| `{field}` \|.*\| (.*) \|$", page, re.MULTILINE)
            value = getattr(kind, field)
            plain = isinstance(value, bool | int | str)
            assert written == (f"`{str(value).lower()}`" if plain else "none"), field
    for device in PROVIDERS:
        assert f"`{device}`" in page, device
    (block,) = blocks("runtimes/onnx.md", "yaml")
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.yaml").write_text(block)
    decode_options(read_manifest(tmp_path / "model.yaml", "flowers", "1").options, OnnxOptions, "onnx")


def test_the_index_has_every_runtime_and_the_tolerances_of_the_tests() -> None:
    page = (DOCS / "runtimes" / "README.md").read_text()
    packaged = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    for runtime in (*packaged["entry-points"]["inference_engine.runtimes"], "auto"):
        (line,) = re.findall(rf"^\|.*? \[`{runtime}`\]\((.*?)\)(.*)$", page, re.MULTILINE)
        assert (DOCS / "runtimes" / line[0].partition("#")[0]).is_file(), runtime
        extra = re.findall(r"inference-engine\[(\w+)\]", line[1])
        assert all(name in packaged["optional-dependencies"] for name in extra), runtime
    for name, model in (QUICK | HEAVY).items():
        assert re.search(rf"^\| `{name}` \| .* \| {model.rtol:.0e} \|$", page, re.MULTILINE), name


def test_the_defaults_in_the_tables_are_true() -> None:
    page = (DOCS / "models.md").read_text()
    for field in Execution.__struct_fields__:
        (written,) = re.findall(rf"^\| `{field}` \|.*\| (.*) \|$", page, re.MULTILINE)
        value = getattr(Execution(), field)
        if value in (None, (), {}):
            expected = "none"
        elif isinstance(value, bool):
            expected = str(value).lower()
        else:
            expected = value if isinstance(value, str) else f"{value:g}"
        assert written.strip("`") == expected, field


def test_the_tabular_models_of_the_manual_are_valid_and_every_option_is_there(tmp_path: Path) -> None:
    page = (DOCS / "runtimes" / "tabular.md").read_text()
    kinds = {"sklearn": SklearnOptions, "xgboost": XgboostOptions, "lightgbm": LightgbmOptions, "mlflow": MlflowOptions}
    for block in blocks("runtimes/tabular.md", "yaml"):
        (tmp_path / re.findall(r"artifact: (.*)", block)[0]).touch()
        (tmp_path / "model.yaml").write_text(block)
        manifest = read_manifest(tmp_path / "model.yaml", re.findall(r"name: (.*)", block)[0], "1")
        kind = kinds.pop(manifest.runtime)
        decode_options(manifest.options, kind, manifest.runtime)
        for field in kind.__struct_fields__:
            assert f"`{field}`" in page, f"{field} is missing in tabular.md"
    assert not kinds


def test_the_runtime_of_the_manual_is_the_example(tmp_path: Path) -> None:
    example = DOCS.parent / "examples" / "runtime_package"
    assert blocks("writing-a-runtime.md", "toml") == [(example / "pyproject.toml").read_text()]
    assert blocks("writing-a-runtime.md", "python") == [(example / "nearest_row.py").read_text()]
    (block,) = blocks("writing-a-runtime.md", "yaml")
    (tmp_path / "rows.csv").touch()
    (tmp_path / "model.yaml").write_text(block)
    assert read_manifest(tmp_path / "model.yaml", "nearest", "1").runtime == "nearest_row"
