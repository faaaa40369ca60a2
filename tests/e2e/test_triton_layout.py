"""A repository as Triton has them, served unchanged beside ours, driven by Triton's official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton

from tests.conftest import LiveServer, free_port
from tests.fixtures.tiny_onnx import identity_onnx

CONFIG = """
name: "net"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
version_policy { all { } }
model_warmup { batch_size: 4 inputs { key: "x" value: { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
"""
GRPC_PORT = free_port()
ROWS = np.array([[1, 2], [4, 3]], np.float32)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    folder = tmp_path_factory.mktemp("triton")
    net: Path = folder / "models" / "net"
    for version in ("1", "3"):
        (net / version).mkdir(parents=True)
        identity_onnx(net / version / "model.onnx")
    (net / "config.pbtxt").write_text(CONFIG)
    (net / "labels.txt").write_text("cat\ndog\n")
    bad = folder / "models" / "bad"
    bad.mkdir()
    (bad / "config.pbtxt").write_text('platform: "tensorrt_plan"')
    live = LiveServer(folder, "--models", str(folder / "models"), "--grpc-port", str(GRPC_PORT))
    live.start()
    with triton.InferenceServerClient(live.url.removeprefix("http://")) as made:
        yield made
    assert live.stop() == 0


def given() -> triton.InferInput:
    made = triton.InferInput("x", [2, 2], "FP32")
    made.set_data_from_numpy(ROWS)
    return made


def test_it_is_served(client: triton.InferenceServerClient) -> None:
    client.load_model("net")
    assert client.is_model_ready("net", "3")
    assert client.get_model_metadata("net")["versions"] == ["1", "3"]
    config = client.get_model_config("net", "3")
    assert config["max_batch_size"] == 8
    assert config["instance_group"][0]["count"] == 2
    answer = client.infer("net", [given()])
    assert np.array_equal(answer.as_numpy("y"), ROWS)
    assert answer.get_response()["model_version"] == "3"
    assert client.infer("net", [given()], model_version="1").get_response()["model_version"] == "1"


def test_it_is_served_over_grpc(client: triton.InferenceServerClient) -> None:
    client.load_model("net")
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{GRPC_PORT}") as grpc:
        assert grpc.is_model_ready("net", "3")
        assert list(grpc.get_model_metadata("net").versions) == ["1", "3"]
        config = grpc.get_model_config("net", "3").config
        assert (config.max_batch_size, config.instance_group[0].count) == (8, 2)
        assert (list(config.input[0].dims), config.dynamic_batching.max_queue_delay_microseconds) == ([2], 100)
        tensor = triton_grpc.InferInput("x", [2, 2], "FP32")
        tensor.set_data_from_numpy(ROWS)
        for version, served in (("", "3"), ("1", "1")):
            answer = grpc.infer("net", [tensor], model_version=version)
            assert np.array_equal(answer.as_numpy("y"), ROWS)
            assert answer.get_response().model_version == served
        index = {(entry.name, entry.version): entry for entry in grpc.get_model_repository_index().models}
        assert index["net", "3"].state == "READY"


def test_classes_have_the_labels_of_the_file(client: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("y", class_count=1)
    found = client.infer("net", [given()], outputs=[wanted]).as_numpy("y")
    assert found.ravel().tolist() == [b"2.000000:1:dog", b"4.000000:0:cat"]


def test_statistics_add_up(client: triton.InferenceServerClient) -> None:
    def read() -> dict[str, dict[str, int]]:
        stats: dict[str, dict[str, int]] = client.get_inference_statistics("net", "3")["model_stats"][0][
            "inference_stats"
        ]
        return stats

    client.infer("net", [given()])
    before = read()
    for _ in range(20):
        client.infer("net", [given()])
    after = read()
    spent = {name: after[name]["ns"] - before[name]["ns"] for name in after}
    assert after["success"]["count"] - before["success"]["count"] == 20
    parts = spent["queue"] + spent["compute_input"] + spent["compute_infer"] + spent["compute_output"]
    assert spent["compute_infer"] > 0
    assert 0.5 * spent["success"] < parts <= spent["success"]
