"""`inference-engine serve` over gRPC, with real models behind it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.conftest import ROOT, LiveServer, free_port
from tests.e2e.conftest import lay_out


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, str]]:
    folder = tmp_path_factory.mktemp("grpc")
    lay_out(folder / "models")
    port = free_port()
    live = LiveServer(folder, "--models", str(folder / "models"), "--grpc-port", str(port), "--drain-s", "3")
    live.start()
    yield live, f"127.0.0.1:{port}"
    assert live.stop() == 0
    assert "unexpected error" not in live.log.read_text()


def tensor(name: str, value: np.ndarray[Any, Any], datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(value.shape), datatype)
    made.set_data_from_numpy(value)
    return made


def prompt(text: str) -> list[triton.InferInput]:
    return [
        tensor("text_input", np.array([text.encode()], object), "BYTES"),
        tensor("stream", np.array([True]), "BOOL"),
    ]


def test_iris_and_the_greeting(served: tuple[LiveServer, str]) -> None:
    live, address = served
    assert f"gRPC      {address}" in live.log.read_text()
    with triton.InferenceServerClient(address) as client:
        flower = tensor("input", np.array([[5.1, 3.5, 1.4, 0.2]], np.float32), "FP32")
        answer = client.infer("iris", [flower], outputs=[triton.InferRequestedOutput("label")])
        assert answer.as_numpy("label").tolist() == [0]
        with pytest.raises(InferenceServerException) as broken:
            client.infer("cut-onnx", [flower])
        assert broken.value.status() == "StatusCode.FAILED_PRECONDITION"


def test_the_examples_of_the_manual(served: tuple[LiveServer, str]) -> None:
    page = (ROOT / "docs" / "api" / "grpc.md").read_text()
    outputs = []
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        code = block.replace("127.0.0.1:8001", served[1])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        outputs.append(done.stdout.strip())
    label, text = outputs
    assert label == "[0]"
    assert len(text) > 10


async def test_tokens_of_guide(served: tuple[LiveServer, str]) -> None:
    async with triton_aio.InferenceServerClient(served[1]) as client:

        async def requests() -> Any:
            yield {
                "model_name": "guide",
                "inputs": prompt("What is a runner?"),
                "parameters": {"max_tokens": 12, "chat": True, "temperature": 0},
            }

        found = [result async for result, error in client.stream_infer(requests()) if error is None]
    texts = [result.as_numpy("text_output")[0].decode() for result in found]
    assert len(texts) > 5
    assert "".join(texts).strip()
    assert found[-1].get_response().parameters["completion_tokens"].int64_param == 12


def test_deadlines_and_departures_reach_the_compute(served: tuple[LiveServer, str], tmp_path: Path) -> None:
    live, address = served
    with triton.InferenceServerClient(address) as client:
        seconds = tensor("seconds", np.array([[0.01]], np.float32), "FP32")
        assert client.infer("slow", [seconds]).as_numpy("seconds").tolist() == [[np.float32(0.01)]]
        with pytest.raises(InferenceServerException) as late:
            client.infer("slow", [tensor("seconds", np.array([[1.5]], np.float32), "FP32")], client_timeout=0.2)
        assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    request = triton.service_pb2.ModelInferRequest(model_name="slow")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"go")
    request.inputs.add(name="stream", datatype="BOOL", shape=[1]).contents.bool_contents.append(True)
    request.parameters["chat"].bool_param = True
    with grpc.insecure_channel(address) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter([request]))
        first = next(call)
        assert not first.error_message
        call.cancel()
    (trace,) = live._folder.glob("models/slow/1/trace")
    time.sleep(0.5)
    reached = trace.read_text()
    time.sleep(0.3)
    assert trace.read_text() == reached
