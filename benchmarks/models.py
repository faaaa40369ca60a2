"""Writes the models that are measured. Small ones are made anew, the large one is kept in a cache folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.fixtures.python_models import python_model
from tests.fixtures.tiny_gguf import BENCHMARK_335M, tiny_gguf
from tests.fixtures.tiny_onnx import mlp_onnx

MLP_INPUTS = 256
TINY_INPUTS = 16
ECHO = '''
class Model:
    inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 16]}]
    outputs = [{"name": "x", "dtype": "float32", "shape": [-1, 16]}]

    def predict(self, inputs):
        return inputs
'''


def echo_models(root: Path) -> Path:
    """A folder with `echo`, which computes nothing, in the server process."""
    folder = python_model(root / "echo" / "1", ECHO)
    _manifest(folder, "python", "model.py:Model", executor="thread")
    return root


def mlp_file(folder: Path) -> Path:
    """6.4 MFLOP per row."""
    return mlp_onnx(folder / "mlp.onnx", inputs=MLP_INPUTS)


def tiny_file(folder: Path) -> Path:
    """Next to nothing to compute: what remains is the way to it and back."""
    return mlp_onnx(folder / "tiny.onnx", inputs=TINY_INPUTS, hidden=16)


def onnx_models(root: Path, files: dict[str, tuple[Path, str]]) -> Path:
    """A folder with ONNX models by name, each with its file and executor, one thread each."""
    for name, (file, executor) in files.items():
        folder = root / name / "1"
        folder.mkdir(parents=True)
        (folder / file.name).symlink_to(file) if False else (folder / file.name).hardlink_to(file)
        _manifest(folder, "onnx", file.name, executor=executor, threads=1)
    return root


def llm_models(root: Path, file: Path, context: int, parallel: int, threads: int) -> Path:
    """A folder with the language model `llm`."""
    folder = root / "llm" / "1"
    folder.mkdir(parents=True)
    (folder / file.name).symlink_to(file)
    options = {"context_length": context, "parallel": parallel}
    _manifest(folder, "llama_cpp", file.name, options=options, threads=threads)
    return root


def llm_file(small: bool) -> Path:
    """A Qwen3 with random weights, Q8_0: 335 million parameters, about 360 MB, made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()) / "inference-engine-benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "qwen3-335m-random-q8_0.gguf"
    if not file.exists():
        print("  making the language model, once (about a minute) ...", flush=True)
        draft = file.with_suffix(f".{os.getpid()}.part")
        try:
            tiny_gguf(draft, BENCHMARK_335M, q8=True).rename(file)
        finally:
            draft.unlink(missing_ok=True)
    return file


def _manifest(folder: Path, runtime: str, artifact: str, options: dict[str, Any] | None = None, **execution: Any) -> None:
    text = {
        "name": folder.parent.name,
        "version": folder.name,
        "runtime": runtime,
        "artifact": artifact,
        "options": options or {},
        "execution": execution | {"preload": True, "pin": True},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(text))
