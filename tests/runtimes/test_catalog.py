"""The catalogue of runtimes, from the entry points this project declares."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from inference_engine.domain.errors import InvalidManifest, RuntimeMissing
from inference_engine.infra.runtimes.catalog import GROUP, EntryPointCatalog

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture
def catalog() -> EntryPointCatalog:
    return EntryPointCatalog(EntryPoint(name, value, GROUP) for name, value in PROJECT["entry-points"][GROUP].items())


def test_every_declared_runtime_can_be_made_and_described(catalog: EntryPointCatalog) -> None:
    assert {"llama_cpp", "onnx", "python"} <= set(catalog.names())
    for name in ("llama_cpp", "onnx", "python"):
        runtime = catalog.create(name)
        assert callable(runtime.load)
        info = catalog.describe(name)
        assert info.available
        assert bool(info.version) == (name != "python")


def test_an_unknown_runtime_lists_those_there_are(catalog: EntryPointCatalog) -> None:
    for ask in (catalog.create, catalog.describe):
        with pytest.raises(InvalidManifest, match=r"'onx' is unknown; known here: .*onnx"):
            ask("onx")


def test_a_missing_library_is_described_and_named() -> None:
    catalog = EntryPointCatalog([EntryPoint("strange", "strange_package.runtime:Runtime", GROUP)])
    info = catalog.describe("strange")
    assert not info.available
    assert info.remedy == "pip install strange_package"
    with pytest.raises(RuntimeMissing, match="strange_package"):
        catalog.create("strange")


def test_making_and_describing_runtimes_loads_no_machine_learning_library() -> None:
    code = """
import sys
import inference_engine.infra.runtimes.catalog as c
from importlib.metadata import EntryPoint
points = [EntryPoint(n, f"inference_engine.infra.runtimes.{n}:{k}", c.GROUP)
          for n, k in (("llama_cpp", "LlamaCppRuntime"), ("onnx", "OnnxRuntime"), ("python", "PythonRuntime"),
                       ("transformers", "TransformersRuntime"), ("vllm", "VllmRuntime"))]
catalog = c.EntryPointCatalog(points)
for name in catalog.names():
    catalog.describe(name)
    catalog.create(name)
print([name for name in ("xllamacpp", "onnxruntime", "torch", "transformers", "vllm") if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"
