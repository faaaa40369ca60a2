"""The Python in the manual does what the manual says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import Chat, Message, Tool, Transcribe
from inference_engine.domain.results import Delivered
from inference_engine.domain.text_tensors import EMBEDDING, TEXT, text_tensor
from inference_engine.infra.runtimes.python import PythonRuntime
from tests.conftest import ROOT
from tests.fixtures.python_models import python_model
from tests.runtimes.conftest import Recorder

DOCS = ROOT / "docs"
CLASSES = {
    re.findall(r"^class (\w+)", block, re.MULTILINE)[0]: block
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "python-models.md").read_text(), re.DOTALL)
}


def load(folder: Path, name: str) -> tuple[PythonRuntime, Loaded]:
    python_model(folder, CLASSES[name])
    runtime = PythonRuntime()
    return runtime, runtime.load(Manifest("m", "1", "python", f"model.py:{name}"), folder)


class Responses:
    cancelled = False

    def __init__(self) -> None:
        self.responses: list[Any] = []

    def send(self, outputs: Any) -> None:
        self.responses.append(outputs)


def test_the_class_that_keeps_sequences(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (DOCS / "scheduling.md").read_text(), re.DOTALL)
    python_model(tmp_path, source)
    runtime = PythonRuntime()
    runtime.load(Manifest("m", "1", "python", "model.py:Total"), tmp_path)

    def batch(number: int, *, start: bool, end: bool) -> Any:
        place = {"sequence_start": np.array([start] * 2), "sequence_end": np.array([end] * 2)}
        ids = np.array([b"7", b"eight"], object)
        return runtime.run({"x": np.array([number, 10 * number]), "sequence_id": ids, **place})["total"].tolist()

    assert batch(1, start=True, end=False) == [1, 10]
    assert batch(2, start=False, end=True) == [3, 30]


def test_the_class_for_triton(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (DOCS / "triton-layout.md").read_text(), re.DOTALL)
    python_model(tmp_path, source)
    runtime = PythonRuntime()
    signature = Signature((TensorSpec("x", "float32", (-1, 2)),), (TensorSpec("y", "float32", (-1, 2)),))
    runtime.load(Manifest("m", "1", "python", "model.py:TritonPythonModel", signature=signature), tmp_path)
    assert runtime.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]


def told(runtime: PythonRuntime, request: Any) -> Recorder:
    sink = Recorder()
    runtime.generate(request, Delivered(), sink)
    return sink


def test_every_class_is_tried_here() -> None:
    assert set(CLASSES) == {"Doubler", "Countdown", "Greeter", "Assistant", "Searcher", "Listener"}


def test_the_classes(tmp_path: Path) -> None:
    doubler, _ = load(tmp_path / "1", "Doubler")
    assert doubler.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]
    countdown, loaded = load(tmp_path / "6", "Countdown")
    sink = Responses()
    countdown.run_stream({"from": np.array([3], np.int32)}, sink)
    assert ([outputs["number"].tolist() for outputs in sink.responses], loaded.concurrency) == ([[3], [2], [1]], 4)
    greeter, loaded = load(tmp_path / "2", "Greeter")
    assert (told(greeter, Chat((Message("user", "you"),))).text, loaded.concurrency) == ("Hello, you", 8)
    assistant, _ = load(tmp_path / "3", "Assistant")
    asked = Chat((Message("user", "why?"),), tools=(Tool("search"),))
    assert told(assistant, asked).done.reason == "tool_calls"
    searcher, loaded = load(tmp_path / "4", "Searcher")
    assert loaded.kinds == ("embed", "rerank")
    assert searcher.run({TEXT: text_tensor(["a b"])})[EMBEDDING].tolist() == [[3, 1]]
    listener, _ = load(tmp_path / "5", "Listener")
    assert told(listener, Transcribe(b"RIFF")).text == "Let us begin."


@pytest.mark.parametrize("page", ["python-api.md", "images.md", "video.md"])
def test_the_programs(tmp_path: Path, page: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.strip().splitlines()) >= 2
