"""Ensembles on a real server, with runners and threads behind their stages, driven by Triton's official clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from inference_engine import AsyncEngine
from inference_engine.infra.repository import FolderRepository
from tests.conftest import ROOT, LiveServer, free_port
from tests.e2e.test_images import drawn
from tests.fixtures.ensembles import DIAMOND, SHAPES, add_diamond, add_eye, add_triton_diamond, write_model

GIVEN = np.array([[1, 2], [3, 4], [-5, 0.5]], np.float32)
RESULT = (2 * GIVEN + 1) * 3 - (2 * GIVEN + 1 - 5)
FILES = {
    "circle": drawn("circle", (200, 200), (40, 40, 160, 160)),
    "square": drawn("square", (90, 64), (20, 6, 70, 56), "JPEG"),
    "triangle": drawn("triangle", (640, 480), (150, 60, 500, 400), "WEBP"),
}
SLOW = """
import time
class Slow:
    inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]
    outputs = [{"name": "y", "dtype": "float32", "shape": [-1, 2]}]
    def load(self, folder, options): pass
    def predict(self, inputs):
        time.sleep(float(inputs["x"].max()))
        return {"y": inputs["x"]}
"""
SLOW_MANIFEST = """
name: slow
version: "1"
runtime: python
artifact: model.py:Slow
"""
SLOWED = """
name: slowed
version: "1"
runtime: ensemble
ensemble:
  stages:
    - {model: first, inputs: {x: given}, outputs: {y: more}}
    - {model: slow, inputs: {x: more}, outputs: {y: result}}
"""
SLOW_FIRST = """
name: slow-first
version: "1"
runtime: ensemble
ensemble:
  stages:
    - {model: slow, inputs: {x: given}, outputs: {y: more}}
    - {model: first, inputs: {x: more}, outputs: {y: result}}
"""
BROKEN = {
    "circle": DIAMOND.replace("given", "result").replace("diamond", "circle"),
    "twice": DIAMOND.replace("y: right}", "y: left}").replace("diamond", "twice"),
    "stranger": DIAMOND.replace("model: left", "model: nobody").replace("diamond", "stranger"),
    "misfit": SLOWED.replace("model: slow, inputs: {x", "model: cnn, inputs: {pixels")
    .replace("{y: result}", "{logits: result}")
    .replace("slowed", "misfit"),
    "loop-a": "name: loop-a\nversion: '1'\nruntime: ensemble\n"
    "ensemble: {stages: [{model: loop-b, inputs: {i: i}, outputs: {o: o}}]}",
    "loop-b": "name: loop-b\nversion: '1'\nruntime: ensemble\n"
    "ensemble: {stages: [{model: loop-a, inputs: {i: i}, outputs: {o: o}}]}",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, str]]:
    folder = tmp_path_factory.mktemp("ensembles")
    models = folder / "models"
    add_eye(models)
    add_diamond(models)
    slow = write_model(models, "slow", SLOW_MANIFEST)
    (slow / "model.py").write_text(SLOW)
    write_model(models, "slowed", SLOWED)
    write_model(models, "slow-first", SLOW_FIRST)
    for name, manifest in BROKEN.items():
        write_model(models, name, manifest)
    port = free_port()
    live = LiveServer(folder, "--models", str(models), "--grpc-port", str(port))
    live.start()
    yield live, f"127.0.0.1:{port}"
    assert live.stop() == 0
    assert "unexpected error" not in live.log.read_text()


@pytest.fixture
def client(served: tuple[LiveServer, str]) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served[0].url.removeprefix("http://"), concurrency=16) as made:
        yield made


@pytest.fixture
def grpc_client(served: tuple[LiveServer, str]) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(served[1]) as made:
        yield made


def numbers(kind: Any, name: str = "given", value: np.ndarray[Any, Any] = GIVEN) -> Any:
    made = kind.InferInput(name, list(value.shape), "FP32")
    made.set_data_from_numpy(value)
    return made


def files(kind: Any, *names: str) -> Any:
    array = np.empty(len(names), dtype=object)
    array[:] = [FILES[name] for name in names]
    made = kind.InferInput("image", [len(names)], "BYTES")
    made.set_data_from_numpy(array)
    return made


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_decode_and_cnn_and_labels(
    client: triton.InferenceServerClient, grpc_client: triton_grpc.InferenceServerClient, wire: str
) -> None:
    library, used = (triton, client) if wire == "http" else (triton_grpc, grpc_client)
    answer = used.infer("eye", [files(library, *FILES)])
    assert answer.as_numpy("labels")[:, 0].tolist() == [name.encode() for name in FILES]
    np.testing.assert_allclose(answer.as_numpy("scores").sum(axis=1), 1, rtol=1e-4)
    whole = triton.InferInput("pixels", [3], "BYTES")
    whole.set_data_from_numpy(np.array(list(FILES.values()), object))
    np.testing.assert_allclose(answer.as_numpy("scores"), client.infer("shapes", [whole]).as_numpy("scores"), atol=1e-6)


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_a_diamond(
    client: triton.InferenceServerClient, grpc_client: triton_grpc.InferenceServerClient, wire: str
) -> None:
    library, used = (triton, client) if wire == "http" else (triton_grpc, grpc_client)
    assert np.array_equal(used.infer("diamond", [numbers(library)]).as_numpy("result"), RESULT)


def test_it_looks_like_any_other_model(
    served: tuple[LiveServer, str], client: triton.InferenceServerClient, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    client.load_model("diamond")
    assert client.is_model_ready("diamond")
    assert client.is_model_ready("join")
    assert grpc_client.is_model_ready("diamond", "1")
    metadata = client.get_model_metadata("diamond")
    assert (metadata["platform"], metadata["inputs"]) == (
        "ensemble",
        [{"name": "given", "datatype": "FP32", "shape": [-1, 2]}],
    )
    config = client.get_model_config("eye")
    step = {"model_name": "cnn", "model_version": 1, "input_map": {"pixels": "pixels"}}
    assert config["ensemble_scheduling"]["step"][1] == {**step, "output_map": {"logits": "logits"}}
    assert (config["platform"], "instance_group" in config) == ("ensemble", False)
    found = grpc_client.get_model_config("eye").config
    assert found.ensemble_scheduling.step[1].model_version == 1
    assert dict(found.ensemble_scheduling.step[0].input_map) == {"image": "image"}
    model = served[0].model("diamond")
    assert (model["runtime"], model["state"], model["pid"]) == ("ensemble", "ready", None)
    assert model["details"] == {"stages": ["join:1", "first:1", "left:1", "right:1"]}
    url = f"{served[0].url}/v2/models/diamond/infer"
    body = {"inputs": [{"name": "given", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    answer = httpx.post(url, json=body)
    assert answer.headers["x-model-version"] == "1"
    assert answer.json()["model_version"] == "1"
    shown = subprocess.run(
        [sys.executable, "-m", "inference_engine", "show", "eye", "--server", served[0].url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "prepare" in shown.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "inference_engine", "list", "--json", "--server", served[0].url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "diamond" in {model["name"] for model in json.loads(listed.stdout)["models"]}


def test_statistics(client: triton.InferenceServerClient) -> None:
    def count(name: str) -> dict[str, Any]:
        found: dict[str, Any] = client.get_inference_statistics(name, "1")["model_stats"][0]
        return found

    client.infer("diamond", [numbers(triton)])
    before = {name: count(name) for name in ("diamond", "first", "left", "join")}
    for _ in range(10):
        client.infer("diamond", [numbers(triton)])
    for name, old in before.items():
        new = count(name)
        assert new["inference_stats"]["success"]["count"] - old["inference_stats"]["success"]["count"] == 10
        assert new["inference_count"] - old["inference_count"] == 30
    stats = count("diamond")["inference_stats"]
    assert stats["compute_infer"]["ns"] > count("first")["inference_stats"]["compute_infer"]["ns"]
    assert stats["queue"]["count"] == count("diamond")["execution_count"]


def test_bad_images_and_shapes(client: triton.InferenceServerClient) -> None:
    bad = triton.InferInput("image", [2], "BYTES")
    bad.set_data_from_numpy(np.array([FILES["circle"], b"no image"], object))
    with pytest.raises(InferenceServerException, match=r"stages\[0\] \(prepare:1\): .*row 1 holds no image") as error:
        client.infer("eye", [bad])
    assert error.value.status() == "400"
    with pytest.raises(InferenceServerException, match=r"input 'given' has shape \[1, 3\]"):
        client.infer("diamond", [numbers(triton, value=np.zeros((1, 3), np.float32))])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("stranger", r"ensemble.stages\[2\].model: model 'nobody' does not exist"),
        (
            "misfit",
            r"'more' is float32 \[-1, 2\] as first:1 gives it .* but float32 \[-1, 3, 64, 64\] as cnn:1 takes it",
        ),
        ("loop-a", "loop-a:1 -> loop-b:1 -> loop-a:1"),
    ],
)
def test_what_cannot_work_is_said_at_load(client: triton.InferenceServerClient, name: str, problem: str) -> None:
    with pytest.raises(InferenceServerException, match=problem):
        client.load_model(name)
    assert not client.is_model_ready(name)
    assert np.array_equal(client.infer("diamond", [numbers(triton)]).as_numpy("result"), RESULT)


def test_what_the_manifest_alone_tells_makes_a_broken_folder(served: tuple[LiveServer, str]) -> None:
    found = httpx.get(f"{served[0].url}/admin/models").json()["broken"]
    broken = " ".join(one["message"] for one in found)
    assert "circle: stages[0] (join) takes 'left' from stages[2] (left)" in broken
    assert "stages[3].outputs.y: 'left' is made twice: stages[2] (left) too" in broken


def test_a_deadline_in_the_second_stage_and_a_client_who_leaves(
    served: tuple[LiveServer, str], client: triton.InferenceServerClient
) -> None:
    quick, slow = np.array([[-0.5, -0.5]], np.float32), np.array([[1, 1]], np.float32)  # sleeps 2x + 1 seconds
    client.infer("slowed", [numbers(triton, value=quick)])
    started = time.monotonic()
    with pytest.raises(InferenceServerException, match=r"stages\[1\] \(slow:1\)"):
        client.infer("slowed", [numbers(triton, value=slow)], timeout=500_000)
    assert time.monotonic() - started < 2.5
    client.load_model("slow-first")
    body = {"inputs": [{"name": "given", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 1.0]}]}
    for name in ("slowed", "slow-first"):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served[0].url}/v2/models/{name}/infer", json=body, timeout=0.5)
        give_up = time.monotonic() + 10
        while served[0].model(name)["in_flight"] or served[0].model("slow")["in_flight"]:
            assert time.monotonic() < give_up
            time.sleep(0.05)
    assert not client.get_inference_statistics("first", "1")["model_stats"][0]["inference_stats"]["fail"]["count"]
    metrics = httpx.get(f"{served[0].url}/metrics").text
    assert re.search(r'requests_total{.*model="slow-first".*outcome="cancelled".*} 1', metrics), metrics
    failed = client.get_inference_statistics("slowed", "1")["model_stats"][0]["inference_stats"]["fail"]["count"]
    assert failed == 2


def test_stages_come_and_go_while_requests_run(
    client: triton.InferenceServerClient, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    stop = threading.Event()
    wrong: list[Any] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                found = grpc_client.infer("diamond", [numbers(triton_grpc)]).as_numpy("result")
                if not np.array_equal(found, RESULT):
                    wrong.append(found)
            except InferenceServerException as error:
                wrong.append(error)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for name in ("left", "join", "diamond", "first") * 5:
        client.unload_model(name)
        time.sleep(0.02)
    stop.set()
    for asker in askers:
        asker.join(30)
    assert not wrong
    client.load_model("diamond")
    client.unload_model("diamond", unload_dependents=True)
    assert not client.is_model_ready("join")


def test_a_folder_in_tritons_layout(tmp_path: Path) -> None:
    add_triton_diamond(tmp_path / "models")
    port = free_port()
    live = LiveServer(tmp_path, "--models", str(tmp_path / "models"), "--grpc-port", str(port))
    live.start()
    with (
        triton.InferenceServerClient(live.url.removeprefix("http://")) as http,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as grpc,
    ):
        for library, used in ((triton, http), (triton_grpc, grpc)):
            answer = used.infer("diamond", [numbers(library, "GIVEN")], model_version="1")
            assert np.array_equal(answer.as_numpy("RESULT"), RESULT)
        steps = http.get_model_config("diamond")["ensemble_scheduling"]["step"]
        assert [(step["model_name"], step["model_version"]) for step in steps] == [
            ("first", -1),
            ("left", 1),
            ("right", -1),
            ("join", -1),
        ]
    assert live.stop() == 0


async def test_the_python_api(tmp_path: Path) -> None:
    add_diamond(tmp_path / "models")
    async with AsyncEngine(models=tmp_path / "models", state_dir=tmp_path / "state") as engine:
        answers = await asyncio.gather(*(engine.predict("diamond", {"given": GIVEN + n}) for n in range(20)))
        for number, answer in enumerate(answers):
            np.testing.assert_allclose(answer.outputs["result"], RESULT + 4 * number)


def test_the_manual(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ensembles.md").read_text()
    models = tmp_path / "models"
    for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        name = re.findall(r"name: (\S+)", text)[0]
        beside = {"cnn": [SHAPES / "model.onnx"], "labels": [SHAPES / "labels.txt"]}.get(name, [])
        write_model(models, name, text, *beside)
    found, broken = FolderRepository([models]).scan()
    assert not broken
    assert {model.manifest.name for model in found} == {"eye", "prepare", "labels", "cnn", "diamond"}
    (tmp_path / "circle.png").write_bytes(FILES["circle"])
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    environment = os.environ | {"INFERENCE_ENGINE_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert done.stdout == "circle\n", done.stderr
    (command,) = re.findall(r"```console\n\$ inference-engine (.*?)\n", page)
    done = subprocess.run(
        [sys.executable, "-m", "inference_engine", *command.split(), "--models", "models"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert "circle" in done.stdout, done.stderr
