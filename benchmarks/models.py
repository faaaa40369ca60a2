"""Writes the models that are measured. Small ones are made anew, the large one is kept in a cache folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.fixtures.python_models import python_model
from tests.fixtures.tiny_gguf import BENCHMARK_335M, tiny_gguf
from tests.fixtures.tiny_onnx import cnn_onnx, mlp_onnx

MLP_INPUTS = 256
TINY_INPUTS = 16
ECHO_INPUTS = 16
IMAGE_SHAPE = (1, 3, 296, 296)
"""An image of float32 numbers, 1.05 MB."""
VISION_SIZE = 224
VISION_MEAN = (0.485, 0.456, 0.406)
VISION_STD = (0.229, 0.224, 0.225)
_VISION_CLASSES = 1000
_TINY_HIDDEN = 16
_EYE = """
name: eye
version: "1"
runtime: ensemble
ensemble:
  stages:
    - {model: prepare, inputs: {image: image}, outputs: {image: pixels}}
    - {model: cnn, inputs: {pixels: pixels}, outputs: {logits: logits}}
    - {model: labels, inputs: {logits: logits}, outputs: {labels: labels, scores: scores}}
execution: {preload: true, pin: true}
"""
_ECHO = f"""
class Model:
    inputs = [{{"name": "x", "dtype": "float32", "shape": [-1, {ECHO_INPUTS}]}}]
    outputs = [{{"name": "x", "dtype": "float32", "shape": [-1, {ECHO_INPUTS}]}}]

    def predict(self, inputs):
        return inputs
"""
_MEANS = """
class Model:
    inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 3, -1, -1]}]
    outputs = [{"name": "y", "dtype": "float32", "shape": [-1, 3]}]

    def predict(self, inputs):
        return {"y": inputs["x"].mean(axis=(2, 3))}
"""


def add_echo(root: Path, name: str, executor: str) -> None:
    """A model that gives back what it gets."""
    folder = python_model(root / name / "1", _ECHO)
    _manifest(folder, "python", "model.py:Model", executor=executor)


def add_means(root: Path, name: str, executor: str) -> None:
    """A model that gives the mean of each channel of an image: quick, and has to read all of it."""
    folder = python_model(root / name / "1", _MEANS)
    _manifest(folder, "python", "model.py:Model", executor=executor)


def add_mlp(root: Path, name: str, executor: str, *, tiny: bool = False) -> Path:
    """An ONNX model of 6.4 MFLOP per row, one thread; a `tiny` one computes next to nothing. Returns its file."""
    file = root / name / "1" / f"{name}.onnx"
    file.parent.mkdir(parents=True)
    if tiny:
        mlp_onnx(file, inputs=TINY_INPUTS, hidden=_TINY_HIDDEN)
    else:
        mlp_onnx(file, inputs=MLP_INPUTS)
    _manifest(file.parent, "onnx", file.name, executor=executor, threads=1)
    return file


def add_vision(folder: Path, executor: str, instances: int) -> None:
    """`folder/models` with the ensemble `eye` of `prepare`, `cnn` and `labels`, and `folder/image.jpg` of 640 x 480.

    The CNN has about 97 MFLOP for each image and random weights; `instances` are those of `prepare` and `cnn`. Their
    batches are small, as neither gains by larger ones: so both instances share what waits.
    """
    models = folder / "models"
    homes = {name: models / name / "1" for name in ("prepare", "cnn", "labels", "eye")}
    for home in homes.values():
        home.mkdir(parents=True)
    work: dict[str, Any] = {"executor": executor, "instances": instances, "threads": 1}
    cnn_onnx(homes["cnn"] / "model.onnx", size=VISION_SIZE, classes=_VISION_CLASSES)
    _manifest(homes["cnn"], "onnx", "model.onnx", max_batch_size=2, **work)
    image = {"name": "image", "dtype": "float32", "shape": [-1, 3, VISION_SIZE, VISION_SIZE]}
    steps = [
        {"use": "image.decode"},
        {"use": "image.resize", "width": VISION_SIZE, "height": VISION_SIZE},
        {"use": "image.normalize", "mean": list(VISION_MEAN), "std": list(VISION_STD)},
    ]
    _steps(homes["prepare"], image, {"preprocess": steps}, max_batch_size=1, **work)
    (homes["labels"] / "labels.txt").write_text("".join(f"class-{index}\n" for index in range(_VISION_CLASSES)))
    logits = {"name": "logits", "dtype": "float32", "shape": [-1, _VISION_CLASSES]}
    best = [{"use": "softmax"}, {"use": "top_k", "k": 5, "labels": "labels.txt"}]
    _steps(homes["labels"], logits, {"postprocess": best}, executor="thread")
    (homes["eye"] / "model.yaml").write_text(_EYE)
    noise = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(folder / "image.jpg", quality=90)


def llm_root(context: int, parallel: int, n_batch: int, threads: int) -> tuple[Path, Path]:
    """A folder with the model `llm`, and its file."""
    root, file = _large_llm()
    options = {"context_length": context, "parallel": parallel, "n_batch": n_batch}
    _manifest(file.parent, "llama_cpp", file.name, options, threads=threads)
    return root, file


def auto_root(context: int, threads: int) -> tuple[Path, Path]:
    """A folder with the models `latency` and `throughput`, where `runtime: auto` aims at that; and their one file."""
    _, file = _large_llm()
    root = file.parents[2].with_name(file.parents[2].name + "-auto")
    for aim in ("latency", "throughput"):
        folder = root / aim / "1"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
        options = {"aim": aim, "context_length": context}
        _manifest(folder, "auto", file.name, options, threads=threads, preload=False)
    return root, file


def _large_llm() -> tuple[Path, Path]:
    """A folder for `llm`, and its file: a Qwen3 of 335 million random weights in Q8_0, about 360 MB.

    It is made once and kept in the user's cache folder.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()) / "inference-engine-benchmarks"
    file = root / "llm" / "1" / "qwen3-335m-random-q8_0.gguf"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        draft = file.with_suffix(f".{os.getpid()}.part")
        try:
            tiny_gguf(draft, BENCHMARK_335M, q8=True).rename(file)
        finally:
            draft.unlink(missing_ok=True)
    return root, file


def _steps(folder: Path, tensor: dict[str, Any], pipeline: dict[str, Any], **execution: Any) -> None:
    """A model of steps alone."""
    text = {
        "name": folder.parent.name,
        "version": folder.name,
        "runtime": "identity",
        "options": {"tensors": [tensor]},
        "pipeline": pipeline,
        "execution": execution,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(text))


def _manifest(
    folder: Path, runtime: str, artifact: str, options: dict[str, Any] | None = None, **execution: Any
) -> None:
    text = {
        "name": folder.parent.name,
        "version": folder.name,
        "runtime": runtime,
        "artifact": artifact,
        "options": options or {},
        "execution": {"preload": True, "pin": True} | execution,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(text))
