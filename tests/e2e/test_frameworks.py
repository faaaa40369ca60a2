"""PyTorch and TensorFlow models on a live server, asked by Triton's client, the command line and the Python API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from inference_engine import Engine
from tests.conftest import ROOT, LiveServer
from tests.fixtures import tiny_tensorflow, tiny_torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs pip install 'inference-engine[torch]'")
needs_tensorflow = pytest.mark.skipif(
    not find_spec("tensorflow"), reason="needs pip install 'inference-engine[tensorflow]'"
)
WEIGHTS = """
name: weights
version: "1"
runtime: torch
artifact: model.safetensors
options: {class: "model.py:Net", init: {hidden: 8}}
signature:
  inputs: [{name: x, dtype: float32, shape: [-1, 4]}, {name: scale, dtype: float32, shape: [-1, 1]}]
  outputs: [{name: y, dtype: float32, shape: [-1, 3]}, {name: total, dtype: float32, shape: [-1]}]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`program` and `weights` of PyTorch, `saved` and `keras` of TensorFlow, and a hostile file of each."""
    root = tmp_path_factory.mktemp("models")
    if find_spec("torch"):
        _torch_models(root)
    if find_spec("tensorflow"):
        made = tmp_path_factory.mktemp("made")
        script = ROOT / "tests" / "fixtures" / "tiny_tensorflow.py"
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        subprocess.run([sys.executable, str(script), str(made)], check=True, timeout=120, env=environment)
        shutil.copytree(made / "saved", root / "saved" / "1")
        shutil.copytree(made / "hostile", root / "hostile-saved" / "1")
        shutil.copy(made / "model.keras", root / "keras.keras")
        shutil.copy(made / "expected.npz", root / "expected.npz")
    return root


def _torch_models(root: Path) -> None:
    import torch
    from safetensors.torch import save_file

    weights, program, hostile = (root / name / "1" for name in ("weights", "program", "hostile-torch"))
    for folder in (weights, program, hostile):
        folder.mkdir(parents=True)
    module = tiny_torch.net(weights)
    save_file(module.state_dict(), weights / "model.safetensors")
    (weights / "model.yaml").write_text(WEIGHTS)
    tiny_torch.save_program(module, program / "model.pt2")
    shutil.copy(weights / "model.py", hostile)
    torch.save({"w": tiny_torch.Touch(root / "marker")}, hostile / "model.pth")
    manifest = WEIGHTS.replace("name: weights", "name: hostile-torch").replace("model.safetensors", "model.pth")
    (hostile / "model.yaml").write_text(manifest)


@pytest.fixture(scope="module")
def live(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path_factory.mktemp("frameworks"), "--models", str(models))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(live: LiveServer) -> Iterator[triton.InferenceServerClient]:
    address = live.url.removeprefix("http://")
    with triton.InferenceServerClient(address, network_timeout=120, connection_timeout=120) as made:
        yield made


def given(name: str, array: np.ndarray[Any, Any], binary: bool) -> triton.InferInput:
    datatype = "BYTES" if array.dtype == object else "FP32"
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(np.ascontiguousarray(array), binary_data=binary)
    return made


@needs_torch
@pytest.mark.parametrize("binary", [False, True])
def test_pytorch_answers_as_pytorch_does(
    client: triton.InferenceServerClient, models: Path, tmp_path: Path, binary: bool
) -> None:
    import torch
    from safetensors.torch import load_file

    module = tiny_torch.net(tmp_path)
    module.load_state_dict(load_file(models / "weights" / "1" / "model.safetensors"))
    assert torch.is_tensor(next(module.parameters()))
    inputs = tiny_torch.sample(5)
    tensors = [given(name, array, binary) for name, array in inputs.items()]
    for name, outputs in (("weights", ("y", "total")), ("program", ("output_0", "output_1"))):
        answer = client.infer(name, tensors)
        for output, wanted in zip(outputs, tiny_torch.expected(module, inputs), strict=True):
            np.testing.assert_allclose(answer.as_numpy(output), wanted, rtol=1e-5, atol=1e-6)


@needs_torch
def test_the_command_line_and_python_answer_the_same(live: LiveServer, models: Path, tmp_path: Path) -> None:
    inputs = {name: array.tolist() for name, array in tiny_torch.sample(2).items()}
    with Engine(models=models, state_dir=tmp_path) as engine:
        wanted = engine.predict("weights", inputs)["total"]
    program = [sys.executable, "-m", "inference_engine", "predict", "weights", "--json"]
    command = [*program, "--server", live.url, "-i", json.dumps(inputs)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    answered = {output["name"]: output["data"] for output in json.loads(ended.stdout)["outputs"]}
    np.testing.assert_allclose(answered["total"], wanted, rtol=1e-5)


@needs_torch
def test_a_hostile_checkpoint_is_refused_and_the_server_lives(
    client: triton.InferenceServerClient, models: Path
) -> None:
    with pytest.raises(InferenceServerException, match="holds more than tensors"):
        client.infer("hostile-torch", [given(name, array, True) for name, array in tiny_torch.sample().items()])
    assert not (models / "marker").exists()
    assert client.is_server_ready()


@needs_tensorflow
@pytest.mark.parametrize("binary", [False, True])
def test_tensorflow_answers_as_tensorflow_does(
    client: triton.InferenceServerClient, models: Path, binary: bool
) -> None:
    expected, inputs = np.load(models / "expected.npz"), tiny_tensorflow.sample()
    answer = client.infer("saved", [given(name, array, binary) for name, array in inputs.items()])
    np.testing.assert_allclose(answer.as_numpy("y"), expected["y"], rtol=1e-5)
    sides = {"left": inputs["x"], "right": inputs["x"][:, :2]}
    answer = client.infer("keras", [given(name, array, binary) for name, array in sides.items()])
    np.testing.assert_allclose(answer.as_numpy("scores"), expected["scores"], rtol=1e-5, atol=1e-6)


@needs_tensorflow
def test_a_hostile_saved_model_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="WriteFile"):
        client.infer("hostile-saved", [given("x", tiny_tensorflow.sample()["x"], True)])
