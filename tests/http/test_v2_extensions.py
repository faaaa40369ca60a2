"""The extensions of v2 that stand beside infer, driven by Triton's official client and as bytes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm

from inference_engine.core.settings import Settings, SettingsError
from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.testing import FakeExecutor
from tests.http.support import World, listening

FLOWERS = np.array([[1, 2, 3, 4], [9, 6, 7, 8.5]], np.float32)


@pytest.fixture
def client(live: tuple[World, str]) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live[1].removeprefix("http://")) as made:
        yield made


def given(array: np.ndarray[Any, Any], datatype: str = "FP32") -> triton.InferInput:
    made = triton.InferInput("x", list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


# -- statistics ----------------------------------------------------------------------------------------------------


def test_statistics(client: triton.InferenceServerClient) -> None:
    before = client.get_inference_statistics("echo", "1")["model_stats"][0]
    for _ in range(3):
        client.infer("echo", [given(FLOWERS)], model_version="1")
    with pytest.raises(triton.InferenceServerException):
        client.infer("echo", [given(FLOWERS[:, :2])], model_version="1")
    stats = client.get_inference_statistics("echo", "1")["model_stats"]
    assert [(one["name"], one["version"]) for one in stats] == [("echo", "1")]
    after = stats[0]
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] > 1_600_000_000_000
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] == 3
    assert after["inference_stats"]["success"]["ns"] > 0
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert [(one["batch_size"], one["compute_infer"]["count"]) for one in after["batch_stats"]] == [(2, 3)]


def test_statistics_of_all_versions_and_models(client: triton.InferenceServerClient) -> None:
    assert {one["version"] for one in client.get_inference_statistics("echo")["model_stats"]} == {"1", "2"}
    assert {one["name"] for one in client.get_inference_statistics()["model_stats"]} >= {"echo", "chatty", "any"}
    with pytest.raises(triton.InferenceServerException, match="does not exist"):
        client.get_inference_statistics("nobody")


async def test_a_generation_is_counted(http: httpx.AsyncClient) -> None:
    await http.post("/v2/models/chatty/generate", json={"text_input": "Hi"})
    stats = (await http.get("/v2/models/chatty/stats")).json()["model_stats"][0]
    assert (stats["inference_count"], stats["execution_count"]) == (1, 1)
    assert stats["inference_stats"]["success"]["count"] == 1


# -- classification ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_classification(client: triton.InferenceServerClient, binary: bool) -> None:
    wanted = triton.InferRequestedOutput("y", binary_data=binary, class_count=2)
    answer = client.infer("echo", [given(FLOWERS)], outputs=[wanted])
    found = [item if isinstance(item, str) else item.decode() for item in answer.as_numpy("y").ravel()]
    assert found == ["4.000000:3", "3.000000:2", "9.000000:0", "8.500000:3"]
    assert answer.get_response()["outputs"][0]["shape"] == [2, 2]
    assert answer.get_response()["outputs"][0]["datatype"] == "BYTES"


async def test_classes_have_labels_and_ties_keep_their_order(world: World, http: httpx.AsyncClient) -> None:
    signature = Signature(
        (TensorSpec("x", "int8", (-1, -1)),), (TensorSpec("y", "int8", (-1, -1), ("cat", "dog", "cow")),)
    )
    world.executors.executors["echo-int8:1"] = FakeExecutor(signature)
    tensor = {"name": "x", "shape": [1, 4], "datatype": "INT8", "data": [5, -128, 5, 6]}
    outputs = [{"name": "y", "parameters": {"classification": 10}}]
    answer = await http.post("/v2/models/echo-int8/infer", json={"inputs": [tensor], "outputs": outputs})
    assert answer.json()["outputs"][0]["data"] == ["6:3", "5:0:cat", "5:2:cow", "-128:1:dog"]


async def test_text_has_no_classes(http: httpx.AsyncClient) -> None:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
    outputs = [{"name": "y", "parameters": {"classification": 1}}]
    answer = await http.post("/v2/models/echo-bytes/infer", json={"inputs": [tensor], "outputs": outputs})
    assert answer.status_code == 400
    assert "needs numbers" in answer.json()["error"]


# -- BF16 ----------------------------------------------------------------------------------------------------------


def test_bf16_in_binary(client: triton.InferenceServerClient) -> None:
    """The model gets exactly what was sent, as float32."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="comes with onnx")
    sent = np.array([[1.5, -2, 0.1, 3e38]], ml_dtypes.bfloat16)
    answer = client.infer("echo", [given(sent, "BF16")])
    assert answer.get_response()["outputs"][0]["datatype"] == "FP32"
    assert np.array_equal(answer.as_numpy("y"), sent.astype(np.float32))


async def test_bf16_outputs_of_a_runtime(world: World, http: httpx.AsyncClient) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="comes with onnx")
    values = np.array([[1.5, -2, 0.25, 3]], ml_dtypes.bfloat16)
    world.executors.executors["any:1"] = FakeExecutor(compute=lambda batch: {"y": values})
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    answer = await http.post("/v2/models/any/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"] == [{"name": "y", "datatype": "BF16", "shape": [1, 4], "data": [1.5, -2, 0.25, 3]}]
    wanted = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    answer = await http.post("/v2/models/any/infer", json=wanted)
    assert answer.content.endswith(values.tobytes())


async def test_bf16_in_json_is_rounded(http: httpx.AsyncClient) -> None:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "BF16", "data": [1, 1.00390625, 1.01171875, -0.5]}
    answer = await http.post("/v2/models/echo/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"][0]["data"] == [1, 1, 1.015625, -0.5]


# -- generate ------------------------------------------------------------------------------------------------------


async def test_generate(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v2/models/chatty/generate", json={"text_input": "Hi there", "id": "7"})
    assert answer.json() == {"model_name": "chatty", "model_version": "1", "text_output": "Hello, world!", "id": "7"}
    parameters = {"max_tokens": 1, "exclude_input_in_output": False, "stop": "x", "repetition_penalty": 1.1}
    answer = await http.post(
        "/v2/models/chatty/versions/1/generate", json={"text_input": "Hi ", "parameters": parameters}
    )
    assert answer.json()["text_output"] == "Hi Hello"


async def test_generate_stream(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v2/models/chatty/generate_stream", json={"text_input": "Hi", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [event["text_output"] for event in events] == ["Hello", ", ", "world", "!"]
    assert {event["model_name"] for event in events} == {"chatty"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "text_input"),
        ({"text_input": "a", "parameters": {"surprise": 1}}, "parameters.surprise"),
        ({"text_input": "a", "parameters": {"temperature": 99}}, "temperature"),
        ({"text_input": "a", "stream": True}, "generate_stream"),
    ],
)
async def test_generate_refuses(http: httpx.AsyncClient, body: dict[str, Any], says: str) -> None:
    answer = await http.post("/v2/models/chatty/generate", json=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]


# -- configuration, traces, logs -----------------------------------------------------------------------------------


def test_configuration(client: triton.InferenceServerClient) -> None:
    client.load_model("echo")
    config = client.get_model_config("echo")
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
    assert config["instance_group"][0]["count"] == 1


def test_trace_settings(client: triton.InferenceServerClient) -> None:
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.update_trace_settings("echo", {"trace_level": ["OFF"], "trace_rate": None})["trace_count"] == "-1"
    with pytest.raises(triton.InferenceServerException, match="no traces of that kind"):
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    with pytest.raises(triton.InferenceServerException, match="does not exist"):
        client.get_trace_settings("nobody")


def test_the_log_level_changes(client: triton.InferenceServerClient) -> None:
    root = logging.getLogger()
    before = root.level
    try:
        assert client.update_log_settings({"log_verbose_level": 1, "log_info": True, "log_warning": True})[
            "log_verbose_level"
        ]
        assert root.level == logging.DEBUG
        client.update_log_settings({"log_verbose_level": 0, "log_info": False})
        assert root.level == logging.WARNING
        assert client.get_log_settings()["log_info"] is False
        with pytest.raises(triton.InferenceServerException, match="one level"):
            client.update_log_settings({"log_warning": False, "log_info": True})
        with pytest.raises(triton.InferenceServerException, match="log_file"):
            client.update_log_settings({"log_file": "/tmp/x"})
    finally:
        root.setLevel(before)


# -- shared memory -------------------------------------------------------------------------------------------------


@pytest.fixture
def sharing() -> Iterator[triton.InferenceServerClient]:
    with (
        listening(World(Settings(http_shared_memory=True))) as url,
        triton.InferenceServerClient(url.removeprefix("http://")) as made,
    ):
        yield made


@pytest.fixture
def memory() -> Iterator[Any]:
    """64 bytes of shared memory."""
    made = shm.create_shared_memory_region("mine", f"/test-{token_hex(6)}", 64)
    yield made
    shm.destroy_shared_memory_region(made)


def test_tensors_in_shared_memory(sharing: triton.InferenceServerClient, memory: Any) -> None:
    shm.set_shared_memory_region(memory, [FLOWERS])
    sharing.register_system_shared_memory("mine", memory._shm_key, 64)
    assert sharing.get_system_shared_memory_status()[0]["byte_size"] == 64
    sent = triton.InferInput("x", [2, 4], "FP32")
    sent.set_shared_memory("mine", 32)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory("mine", 32, 32)
    answer = sharing.infer("echo", [sent], outputs=[wanted])
    assert answer.get_output("y") == {"name": "y", "datatype": "FP32", "shape": [2, 4]}  # as Triton's C++ client needs
    assert np.array_equal(shm.get_contents_as_numpy(memory, np.float32, [2, 4], 32), FLOWERS)
    sharing.unregister_system_shared_memory()
    assert sharing.get_system_shared_memory_status() == []
    assert sharing.get_cuda_shared_memory_status() == []
    with pytest.raises(triton.InferenceServerException, match="not registered"):
        sharing.infer("echo", [sent])


def test_what_shared_memory_refuses(sharing: triton.InferenceServerClient, memory: Any) -> None:
    key = memory._shm_key
    for wrong_key, size, offset, says in (
        ("/../etc/passwd", 8, 0, "not the name"),
        ("/nothing-here", 8, 0, "cannot be opened"),
        (key, 65, 0, "do not lie within"),
        (key, 8, 60, "do not lie within"),
    ):
        with pytest.raises(triton.InferenceServerException, match=says):
            sharing.register_system_shared_memory("bad", wrong_key, size, offset)
    sharing.register_system_shared_memory("mine", key, 64)
    with pytest.raises(triton.InferenceServerException, match="registered already"):
        sharing.register_system_shared_memory("mine", key, 64)
    sent = triton.InferInput("x", [2, 4], "FP32")
    for size, offset, says in ((16, 0, "needs 32"), (32, 40, "end beyond")):
        sent.set_shared_memory("mine", size, offset)
        with pytest.raises(triton.InferenceServerException, match=says):
            sharing.infer("echo", [sent])
    sent = triton.InferInput("x", [2, 4], "FP32")
    sent.set_shared_memory("mine", 32)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory("mine", 8, 32)
    with pytest.raises(triton.InferenceServerException, match="has 32 bytes"):
        sharing.infer("echo", [sent], outputs=[wanted])


def test_shared_memory_is_off_by_default(client: triton.InferenceServerClient, tmp_path: Path) -> None:
    with pytest.raises(triton.InferenceServerException, match="http_shared_memory"):
        client.register_system_shared_memory("mine", "/anything", 8)
    with pytest.raises(SettingsError, match="http_shared_memory is for clients of this machine"):
        flags = {"http_shared_memory": True, "host": "0.0.0.0", "api_keys": ("a-long-secret-key",)}
        Settings.load(flags, {"HOME": str(tmp_path)}, tmp_path)
