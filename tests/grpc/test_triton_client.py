"""Triton's official gRPC clients, sync and async, against a live server."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from multiprocessing import shared_memory
from secrets import token_hex
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from inference_engine.domain.errors import InferenceFailed
from tests.grpc.conftest import serving
from tests.http.support import World

Live = tuple[World, str]
LIE = {"binary_data_size": {"int64_param": 15}}
MANY = {"name": "y", "parameters": {"classification": {"int64_param": -1}}}
FLOWERS = np.array([[1, 2, 3, 4], [5, 6, 7, 8.5]], np.float32)


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live[1]) as made:
        yield made


def given(array: np.ndarray[Any, Any], datatype: str = "FP32", name: str = "x") -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def prompt(text: str, **settings: Any) -> list[triton.InferInput]:
    words = [given(np.array([text.encode()], object), "BYTES", "text_input")]
    return words + [given(np.array([value]), "BOOL", name) for name, value in settings.items()]


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", "bool"),
        ("FP16", "float16"),
        ("FP32", "float32"),
        ("FP64", "float64"),
        ("UINT8", "uint8"),
        ("INT16", "int16"),
        ("INT64", "int64"),
        ("UINT64", "uint64"),
    ],
)
def test_every_kind_of_number(client: triton.InferenceServerClient, datatype: str, dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    answer = client.infer(f"echo-{dtype}", [given(array, datatype)], request_id="7")
    assert np.array_equal(answer.as_numpy("y"), array)
    assert answer.as_numpy("y").dtype == array.dtype
    assert answer.get_response().id == "7"


def test_bf16_is_widened(client: triton.InferenceServerClient) -> None:
    answer = client.infer("echo", [given(FLOWERS.astype(ml_dtypes.bfloat16), "BF16")])
    assert np.array_equal(answer.as_numpy("y"), FLOWERS)
    assert answer.get_output("y").datatype == "FP32"


def test_strings_versions_and_named_outputs(client: triton.InferenceServerClient) -> None:
    words = np.array([["hello", "wörld", ""]], np.object_)
    answer = client.infer(
        "echo-bytes", [given(words, "BYTES")], outputs=[triton.InferRequestedOutput("y")], priority=1, timeout=5_000_000
    )
    assert [item.decode() for item in answer.as_numpy("y").ravel()] == ["hello", "wörld", ""]
    answer = client.infer("echo", [given(FLOWERS)], model_version="1", compression_algorithm="gzip", client_timeout=5)
    assert answer.get_response().model_version == "1"


def test_classification(client: triton.InferenceServerClient) -> None:
    answer = client.infer("echo", [given(FLOWERS)], outputs=[triton.InferRequestedOutput("y", class_count=2)])
    assert answer.as_numpy("y").tolist() == [[b"4.000000:3", b"3.000000:2"], [b"8.500000:3", b"7.000000:2"]]
    assert answer.get_output("y").datatype == "BYTES"
    words = given(np.array([[b"a"]], object), "BYTES")
    with pytest.raises(InferenceServerException, match="classification needs numbers"):
        client.infer("echo-bytes", [words], outputs=[triton.InferRequestedOutput("y", class_count=2)])


def test_typed_contents(client: triton.InferenceServerClient) -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    answer = client._client_stub.ModelInfer(request)
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1, 2, 3, 4]


def test_health_metadata_config_and_statistics(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "inference-engine"
    assert client.get_model_metadata("echo").inputs[0].datatype == "FP32"
    config = client.get_model_config("echo", as_json=True)["config"]
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_FP32", ["4"])
    assert client.get_model_config("chatty").config.model_transaction_policy.decoupled
    client.infer("echo", [given(FLOWERS)])
    (counted,) = client.get_inference_statistics("echo", "2").model_stats
    assert counted.last_inference > 0
    assert client.get_trace_settings().settings["trace_level"].value == ["OFF"]
    assert client.get_log_settings().settings["log_info"].bool_param


def test_the_repository(client: triton.InferenceServerClient) -> None:
    client.load_model("echo")
    assert client.is_model_ready("echo")
    states = {(entry.name, entry.state) for entry in client.get_model_repository_index().models}
    assert ("echo", "READY") in states
    client.unload_model("echo")
    assert not client.is_model_ready("echo")
    with pytest.raises(InferenceServerException, match="manifest") as refused:
        client.load_model("echo", config="{}")
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("change", ["trace", "log"])
def test_settings_that_cannot_be_changed(client: triton.InferenceServerClient, change: str) -> None:
    with pytest.raises(InferenceServerException, match="cannot be"):
        if change == "trace":
            client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
        else:
            client.update_log_settings({"log_verbose_level": 1})


def test_tokens_come_one_by_one(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("chatty", prompt("one two three", stream=True), request_id="s")
    client.async_stream_infer("nothing", prompt("x"), request_id="lost")
    client.async_stream_infer("echo", [given(FLOWERS)], request_id="p")
    texts = []
    while True:
        result, error = answers.get(timeout=10)
        assert error is None
        texts.append(result.as_numpy("text_output")[0].decode())
        final = result.get_response().parameters
        if final["triton_final_response"].bool_param:
            break
    assert len(texts) > 2
    assert "".join(texts)
    assert final["completion_tokens"].int64_param > 0
    _, error = answers.get(timeout=10)
    assert "nothing" in error.message()
    result, error = answers.get(timeout=10)
    assert np.array_equal(result.as_numpy("y"), FLOWERS)
    client.stop_stream()
    whole = client.infer("chatty", prompt("one two three"), parameters={"max_tokens": 50})
    assert whole.as_numpy("text_output")[0].decode() == "".join(texts)


async def test_the_async_client(live: Live) -> None:
    async with triton_aio.InferenceServerClient(live[1]) as client:
        answer = await client.infer("echo", [given(FLOWERS)])
        assert np.array_equal(answer.as_numpy("y"), FLOWERS)

        async def requests() -> Any:
            yield {"model_name": "chatty", "inputs": prompt("a b", stream=True), "enable_empty_final_response": True}

        found = [pair async for pair in client.stream_infer(requests())]
        assert all(error is None for _, error in found)
        assert found[-1][0].get_response().parameters["triton_final_response"].bool_param


async def test_a_client_that_leaves_stops_the_compute(live: Live) -> None:
    world, address = live
    world.chatty.hold, before = 1, world.chatty.closed
    try:
        async with triton_aio.InferenceServerClient(address) as client:

            async def requests() -> Any:
                yield {"model_name": "chatty", "inputs": prompt("a b", stream=True)}
                await asyncio.sleep(60)

            stream = client.stream_infer(requests())
            async for _result, error in stream:
                assert error is None
                stream.cancel()
                break
        for _ in range(100):
            if world.chatty.closed > before:
                break
            await asyncio.sleep(0.02)
        assert world.chatty.closed == before + 1
        assert world.models.status(world.models.resolve("chatty").ref).in_flight == 0
    finally:
        world.chatty.hold = None


@pytest.mark.parametrize("size", ["fits", "lies"])
def test_shared_memory(client: triton.InferenceServerClient, size: str) -> None:
    memory = shared_memory.SharedMemory(create=True, size=4096)
    try:
        memory.buf[:32] = FLOWERS.tobytes()
        client.register_system_shared_memory("in", "/" + memory.name, 2048)
        client.register_system_shared_memory("out", "/" + memory.name, 2048, offset=2048)
        assert set(client.get_system_shared_memory_status().regions) == {"in", "out"}
        tensor = triton.InferInput("x", [2, 4], "FP32")
        tensor.set_shared_memory("in", 32 if size == "fits" else 4096)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("out", 64, offset=16)
        if size == "fits":
            answer = client.infer("echo", [tensor], outputs=[wanted])
            assert answer.get_output("y").parameters["shared_memory_byte_size"].int64_param == 32
            assert bytes(memory.buf[2064:2096]) == FLOWERS.tobytes()
        else:
            with pytest.raises(InferenceServerException, match="2048 bytes of region 'in'"):
                client.infer("echo", [tensor])
    finally:
        client.unregister_system_shared_memory()
        memory.close()
        memory.unlink()


def test_shared_memory_as_the_client_keeps_it(client: triton.InferenceServerClient) -> None:
    """`tritonclient.utils.shared_memory`, numbers and strings, for inputs and outputs."""
    words = np.array([b"one", b"", "zw\u00f6lf".encode()], object).reshape(1, 3)
    packed = serialize_byte_tensor(words)
    size = len(packed.item())
    handle = shm.create_shared_memory_region("region", f"/test-{token_hex(6)}", 256)
    try:
        shm.set_shared_memory_region(handle, [packed], offset=64)
        shm.set_shared_memory_region(handle, [FLOWERS])
        client.register_system_shared_memory("region", handle._shm_key, 256)
        for model, datatype, dtype, shape, place in (
            ("echo", "FP32", np.float32, FLOWERS.shape, (FLOWERS.nbytes, 0)),
            ("echo-bytes", "BYTES", np.object_, words.shape, (size, 64)),
        ):
            tensor = triton.InferInput("x", list(shape), datatype)
            tensor.set_shared_memory("region", *place)
            wanted = triton.InferRequestedOutput("y")
            wanted.set_shared_memory("region", 64, offset=128)
            client.infer(model, [tensor], outputs=[wanted])
            found = shm.get_contents_as_numpy(handle, dtype, shape, offset=128)
            assert found.tolist() == (FLOWERS if datatype == "FP32" else words).tolist()
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(handle)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(live: Live, algorithm: str) -> None:
    kind = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}[algorithm]
    array = np.zeros((4000, 4), np.float32)
    with grpc.insecure_channel(live[1], compression=kind) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = triton.service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[array.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=array.shape)
        assert stub.ModelInfer(request).raw_output_contents[0] == array.tobytes()
    with triton.InferenceServerClient(live[1]) as client:
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm=algorithm)
        client.async_stream_infer("echo", [given(array)])
        result, error = answers.get(timeout=10)
        assert error is None
        assert np.array_equal(result.as_numpy("y"), array)


def test_keepalive_pings_are_no_attack(live: Live) -> None:
    """A client that pings far more often than gRPC's default allows is not sent away."""
    options = triton.KeepAliveOptions(
        keepalive_time_ms=50,
        keepalive_timeout_ms=5000,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
    )
    with triton.InferenceServerClient(live[1], keepalive_options=options) as client:
        for _ in range(3):
            assert np.array_equal(client.infer("echo", [given(FLOWERS)]).as_numpy("y"), FLOWERS)
            time.sleep(0.3)


def test_callbacks_and_cancelling(live: Live, client: triton.InferenceServerClient) -> None:
    done: queue.Queue[Any] = queue.Queue()
    for number in range(8):
        client.async_infer("echo", [given(FLOWERS + number)], lambda result, error: done.put((result, error)))
    found = [done.get(timeout=10) for _ in range(8)]
    assert all(error is None for _, error in found)
    assert sorted(result.as_numpy("y")[0, 0] for result, _ in found) == list(range(1, 9))
    live[0].chatty.hold = 1
    try:
        call = client.async_infer("chatty", prompt("a b"), lambda result, error: done.put((result, error)))
        time.sleep(0.1)
        call.cancel()
        _, error = done.get(timeout=10)
        assert error.status() == "StatusCode.CANCELLED"
    finally:
        live[0].chatty.hold = None


@pytest.mark.parametrize("key", ["/../../etc/passwd", "/a/b", "", "..", "/.", "/missing-object"])
def test_only_names_of_shared_memory(client: triton.InferenceServerClient, key: str) -> None:
    with pytest.raises(InferenceServerException, match="shared memory object"):
        client.register_system_shared_memory("bad", key, 16)


def test_shared_memory_is_off_by_default(guarded: str) -> None:
    with triton.InferenceServerClient(guarded) as client, pytest.raises(InferenceServerException, match="grpc_shared"):
        client.register_system_shared_memory("a", "/a", 16, headers={"authorization": "Bearer a-secret-key"})


def test_keys(guarded: str) -> None:
    with triton.InferenceServerClient(guarded) as client:
        assert client.is_server_live()
        for headers in (None, {"authorization": "Bearer wrong"}):
            with pytest.raises(InferenceServerException) as refused:
                client.infer("echo", [given(FLOWERS)], headers=headers)
            assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
            with pytest.raises(InferenceServerException):
                client.get_model_metadata("echo", headers=headers)
        for headers in ({"x-api-key": "a-secret-key"}, {"authorization": "Bearer a-secret-key"}):
            assert client.infer("echo", [given(FLOWERS)], headers=headers) is not None


def test_health_and_reflection(live: Live, guarded: str) -> None:
    with grpc.insecure_channel(live[1]) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        ]
        listed, described = list(stub.ServerReflectionInfo(iter(asked)))
        assert "inference.GRPCInferenceService" in {one.name for one in listed.list_services_response.service}
        assert described.file_descriptor_response.file_descriptor_proto
    with grpc.insecure_channel(guarded) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(asked)))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def _damaged() -> list[tuple[str, Any, str]]:
    pb = triton.service_pb2.ModelInferRequest
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    raw = b"\0" * 16
    return [
        ("too few bytes", pb(inputs=[tensor], raw_input_contents=[raw[:-1]]), "15 bytes"),
        ("lying size", pb(inputs=[tensor | {"parameters": LIE}], raw_input_contents=[raw]), "has 16 bytes"),
        ("huge shape", pb(inputs=[tensor | {"shape": [2**40, 2**20]}], raw_input_contents=[raw]), "needs"),
        ("negative shape", pb(inputs=[tensor | {"shape": [-1, 4]}], raw_input_contents=[raw]), "shape"),
        ("deep shape", pb(inputs=[tensor | {"shape": [1] * 40}], raw_input_contents=[raw]), "32 dimensions"),
        ("no datatype", pb(inputs=[tensor | {"datatype": "FP99"}], raw_input_contents=[raw]), "FP99"),
        ("twice", pb(inputs=[tensor, tensor], raw_input_contents=[raw, raw]), "given twice"),
        ("spare raw", pb(inputs=[tensor], raw_input_contents=[raw, raw]), "raw_input_contents"),
        ("no contents", pb(inputs=[tensor]), "0 elements"),
        ("wrong contents", pb(inputs=[tensor | {"contents": {"int_contents": [1] * 4}}]), "int_contents"),
        ("nothing", pb(), "inputs is empty"),
        ("wrong name", pb(inputs=[tensor | {"name": "z"}], raw_input_contents=[raw]), "'x' is missing"),
        ("odd parameter", pb(inputs=[tensor], raw_input_contents=[raw], parameters={"a": {"int64_param": 1}}), "'a'"),
        ("timeout", pb(inputs=[tensor], raw_input_contents=[raw], parameters={"timeout": {"bool_param": 1}}), "time"),
        ("no value", pb(inputs=[tensor], raw_input_contents=[raw], parameters={"timeout": {}}), "timeout"),
        ("output", pb(inputs=[tensor], raw_input_contents=[raw], outputs=[{"name": "q"}]), "'q'"),
        ("classes", pb(inputs=[tensor], raw_input_contents=[raw], outputs=[MANY]), "number of classes"),
        ("cut string", pb(inputs=[tensor | {"datatype": "BYTES"}], raw_input_contents=[b"\xff\xff\0\0a"]), "inside"),
    ]  # fmt: skip


@pytest.mark.parametrize(("request_", "names"), [pytest.param(b, c, id=a) for a, b, c in _damaged()])
def test_bad_requests_get_a_clear_error(client: triton.InferenceServerClient, request_: Any, names: str) -> None:
    request_.model_name = "echo"
    with pytest.raises(grpc.RpcError) as refused:
        client._client_stub.ModelInfer(request_)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert names in refused.value.details()


def test_unknown_models_large_messages_and_noise(live: Live, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer("nothing", [given(FLOWERS)])
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as refused:
        client.infer("echo", [given(np.zeros((200_000, 4), np.float32))])
    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    with grpc.insecure_channel(live[1]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(b"\xff" * 64)
    assert client.is_server_live()


def test_a_model_that_fails(live: Live, client: triton.InferenceServerClient) -> None:
    live[0].fail_with(InferenceFailed("the model broke"), after=1)
    try:
        with pytest.raises(InferenceServerException, match="the model broke") as refused:
            client.infer("chatty", prompt("a b c"))
        assert refused.value.status() == "StatusCode.INTERNAL"
    finally:
        live[0].chatty.fail = None


def test_kserve_names_the_model_in_the_first_field(client: triton.InferenceServerClient) -> None:
    stub, messages = client._client_stub, triton.service_pb2
    stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(repository_name="echo"))
    assert client.is_model_ready("echo")
    stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(repository_name="echo"))
    assert not client.is_model_ready("echo")
    with pytest.raises(grpc.RpcError) as refused:
        stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(repository_name="other", model_name="echo"))
    assert "repository_name" in refused.value.details()


def test_a_server_that_ends_does_not_wait_for_idle_streams() -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    left = threading.Event()

    def requests() -> Iterator[Any]:
        yield request
        left.wait(30)

    with contextlib.ExitStack() as held:
        with serving(World(), drain_s=15.0) as address:
            channel = held.enter_context(grpc.insecure_channel(address))
            call = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
            assert not next(call).error_message
            ending = time.monotonic()
        assert time.monotonic() - ending < 8
        with pytest.raises(grpc.RpcError) as ended:
            next(call)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        left.set()


def test_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with serving(World(), access_log=True) as address, triton.InferenceServerClient(address) as client:
        client.infer("echo", [given(FLOWERS)], headers={"x-request-id": "seen-in-the-log"})
        with pytest.raises(InferenceServerException):
            client.infer("nothing", [given(FLOWERS)])
    first, second = [vars(record) for record in caplog.records if record.getMessage() == "request"]
    assert (first["request_id"], first["status"], first["method"]) == ("seen-in-the-log", "OK", "gRPC")
    assert (second["path"], second["status"]) == ("/inference.GRPCInferenceService/ModelInfer", "NOT_FOUND")
