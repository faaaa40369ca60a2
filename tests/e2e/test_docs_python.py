"""The Python in the manual does what the manual says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.model import Manifest
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


def told(runtime: PythonRuntime, request: Any) -> Recorder:
    sink = Recorder()
    runtime.generate(request, Delivered(), sink)
    return sink


def test_every_class_is_tried_here() -> None:
    assert set(CLASSES) == {"Doubler", "Greeter", "Assistant", "Searcher", "Listener"}


def test_the_classes(tmp_path: Path) -> None:
    doubler, _ = load(tmp_path / "1", "Doubler")
    assert doubler.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]
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
