"""A server of each test module's own, with models that can be harmed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, LiveServer

BUILTIN = ROOT / "inference_engine" / "infra" / "builtin_models"

SLOW = '''
import time
import pathlib

class Slow:
    """Streams numbers slowly and writes down how far it got; predicts as slowly as it is told."""

    inputs = [{"name": "seconds", "dtype": "float32", "shape": [-1, 1]}]
    outputs = [{"name": "seconds", "dtype": "float32", "shape": [-1, 1]}]
    concurrency = 2

    def load(self, folder, options):
        self.trace = pathlib.Path(folder) / "trace"

    def predict(self, inputs):
        time.sleep(float(inputs["seconds"].sum()))
        return {"seconds": inputs["seconds"]}

    def stream(self, messages, sampling):
        for number in range(100_000):
            self.trace.write_text(str(number))
            time.sleep(0.005)
            yield f"{number} "
'''
SLOW_MANIFEST = """
name: slow
version: "1"
runtime: python
artifact: model.py:Slow
execution: {queue_limit: 2, max_batch_size: 1, timeout_s: 20}
"""


def lay_out(models: Path) -> None:
    """A repository with two versions of guide, the slow model, and damaged files."""
    for version in ("1", "2"):
        shutil.copytree(BUILTIN / "guide" / "1", models / "guide" / version)
        manifest = models / "guide" / version / "model.yaml"
        manifest.write_text(manifest.read_text().replace('version: "1"', f'version: "{version}"'))
    slow = models / "slow" / "1"
    slow.mkdir(parents=True)
    (slow / "model.py").write_text(SLOW)
    (slow / "model.yaml").write_text(SLOW_MANIFEST)
    gguf = (BUILTIN / "guide" / "1" / "guide.gguf").read_bytes()
    onnx = (BUILTIN / "iris" / "1" / "model.onnx").read_bytes()
    damaged = {
        "cut-gguf": ("model.gguf", gguf[: len(gguf) // 2]),
        "noise-gguf": ("model.gguf", b"GGUF" + bytes(range(256)) * 64),
        "cut-onnx": ("model.onnx", onnx[: len(onnx) // 2]),
        "noise-onnx": ("model.onnx", bytes(range(256)) * 64),
    }
    for name, (file, content) in damaged.items():
        folder = models / name / "1"
        folder.mkdir(parents=True)
        (folder / file).write_bytes(content)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose runners may be killed."""
    folder = tmp_path_factory.mktemp("fragile")
    lay_out(folder / "models")
    live = LiveServer(folder, "--models", str(folder / "models"))
    live.start()
    yield live
    assert live.stop() == 0
