"""Triton's official HTTP client against a live server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

Live = tuple[Any, str]
FLOWERS = np.array([[1, 2, 3, 4], [5, 6, 7, 8.5]], np.float32)


@pytest.fixture
def client(live: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live[1].removeprefix("http://")) as made:
        yield made


def given(array: np.ndarray[Any, Any], datatype: str, binary: bool) -> triton.InferInput:
    made = triton.InferInput("x", list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_numbers(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    answer = client.infer("echo", [given(FLOWERS, "FP32", binary_in)], outputs=[wanted], request_id="7")
    assert np.array_equal(answer.as_numpy("y"), FLOWERS)
    assert answer.get_response()["id"] == "7"
    assert answer.get_response()["model_version"] == "2"


def test_without_named_outputs(client: triton.InferenceServerClient) -> None:
    answer = client.infer("echo", [given(FLOWERS, "FP32", True)], model_version="1", timeout=5_000_000, priority=1)
    assert np.array_equal(answer.as_numpy("y"), FLOWERS)
    assert answer.get_response()["model_version"] == "1"


@pytest.mark.parametrize("binary", [False, True])
def test_strings(client: triton.InferenceServerClient, binary: bool) -> None:
    words = np.array([["hello", "wörld", ""]], np.object_)
    wanted = triton.InferRequestedOutput("y", binary_data=binary)
    answer = client.infer("echo-bytes", [given(words, "BYTES", binary)], outputs=[wanted])
    found = [item if isinstance(item, str) else item.decode() for item in answer.as_numpy("y").ravel()]
    assert found == ["hello", "wörld", ""]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: triton.InferenceServerClient, algorithm: str) -> None:
    answer = client.infer(
        "echo",
        [given(FLOWERS, "FP32", True)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert np.array_equal(answer.as_numpy("y"), FLOWERS)


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "inference-engine"
    assert client.get_model_metadata("echo")["inputs"][0]["datatype"] == "FP32"


def test_the_repository(client: triton.InferenceServerClient) -> None:
    client.load_model("echo")
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "2")
    assert ("echo", "READY") in {(entry["name"], entry["state"]) for entry in client.get_model_repository_index()}
    client.unload_model("echo")
    assert not client.is_model_ready("echo")


def test_errors(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="does not exist"):
        client.infer("nobody", [given(FLOWERS, "FP32", True)])
    with pytest.raises(InferenceServerException, match="the model takes float32"):
        client.infer("echo", [given(FLOWERS.astype(np.float64), "FP64", False)])


def test_async_requests_of_the_sync_client(live: Live) -> None:
    with triton.InferenceServerClient(live[1].removeprefix("http://"), concurrency=4) as client:
        pending = [client.async_infer("echo", [given(FLOWERS + number, "FP32", True)]) for number in range(12)]
        for number, answer in enumerate(pending):
            assert np.array_equal(answer.get_result(timeout=10).as_numpy("y"), FLOWERS + number)


async def test_the_aio_client(live: Live) -> None:
    async with triton_aio.InferenceServerClient(live[1].removeprefix("http://")) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_config("echo"))["max_batch_size"] > 0
        answers = await asyncio.gather(
            *[
                client.infer(
                    "echo",
                    [given(FLOWERS + number, "FP32", number % 2 == 0)],
                    outputs=[triton.InferRequestedOutput("y", binary_data=number % 3 == 0)],
                    request_compression_algorithm="gzip" if number == 1 else None,
                    response_compression_algorithm="deflate" if number == 2 else None,
                )
                for number in range(8)
            ]
        )
        for number, answer in enumerate(answers):
            assert np.array_equal(answer.as_numpy("y"), FLOWERS + number)
        with pytest.raises(InferenceServerException, match="does not exist"):
            await client.infer("nobody", [given(FLOWERS, "FP32", True)])
        assert "model_stats" in await client.get_inference_statistics("echo")
        assert (await client.get_model_repository_index())[0]["name"]
