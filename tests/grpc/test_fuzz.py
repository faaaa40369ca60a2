"""Hostile tensors over gRPC and binary REST: each gets an error that blames the request, and the server lives on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_engine.domain.datatypes import BF16, NUMPY
from tests.http.support import World, listening

FUZZ = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BLAMES_THE_REQUEST = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
}
GROWTH_BYTES = 24 << 20
MESSAGES = triton.service_pb2

datatypes = st.sampled_from([*NUMPY, BF16, "FP99", "fp32", "", "BYTES\0", "\U0001f600"])
dims = st.sampled_from([-(2**63), -1, 0, 1, 2, 4, 5, 2**31, 2**40, 2**62, 2**63 - 1])
shapes = st.lists(dims, max_size=4) | st.just([1] * 33) | st.just([1, 4])
names = st.sampled_from(["x", "x", "x", "y", "", "text_input", "\U0001f600", "a" * 5000])
lengths = st.sampled_from([0, 1, 4, 2**31 - 1, 2**31, 2**32 - 1])
strings = st.lists(st.tuples(lengths, st.binary(max_size=8)), max_size=4).map(
    lambda items: b"".join(length.to_bytes(4, "little") + content for length, content in items)
)
raws = st.binary(max_size=40) | strings | st.just(np.ones(4, np.float32).tobytes())
values = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5) | st.floats()
parameter_names = st.sampled_from(
    [
        *("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "binary_data_size", "binary_data"),
        *("classification", "timeout", "priority", "sequence_id", "sequence_start", "binary_data_output", "other"),
    ]
)
parameters = st.dictionaries(parameter_names, values, max_size=3)
models = st.sampled_from(["echo", "echo", "echo-bytes", "echo-float16", "chatty", "nothing", ""])


def encoded(given_parameters: dict[str, Any]) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: {kinds[type(value)]: value} for name, value in given_parameters.items()}


@st.composite
def messages(draw: st.DrawFn) -> Any:
    """Any ModelInferRequest that can be sent."""
    contents = st.sampled_from(
        [{}, {"fp32_contents": [1.0] * 4}, {"int_contents": [2**31 - 1] * 4}, {"bytes_contents": [b"\xff"] * 4}]
    )
    inputs = []
    for name, datatype, shape in draw(st.lists(st.tuples(names, datatypes, shapes), max_size=3)):
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        tensor["parameters"] = encoded(draw(parameters)) if draw(st.booleans()) else {}
        if draw(st.booleans()):
            tensor["contents"] = draw(contents)
        inputs.append(tensor)
    outputs = draw(st.lists(st.sampled_from(["y", "y", "z", ""]), max_size=3))
    return MESSAGES.ModelInferRequest(
        model_name=draw(models),
        model_version=draw(st.sampled_from(["", "1", "9", "../1"])),
        id=draw(st.text(max_size=10)),
        inputs=inputs,
        outputs=[{"name": name, "parameters": encoded(draw(parameters))} for name in outputs],
        raw_input_contents=draw(st.lists(raws, max_size=3)),
        parameters=encoded(draw(parameters)),
    )


@pytest.fixture(scope="module")
def channel(live: tuple[World, str]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(live[1]) as made:
        yield made


def status_of(channel: grpc.Channel, encoded_message: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(encoded_message, timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def serves(channel: grpc.Channel) -> bool:
    good = MESSAGES.ModelInferRequest(model_name="echo", raw_input_contents=[np.ones(4, np.float32).tobytes()])
    good.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return status_of(channel, good.SerializeToString())[0] is grpc.StatusCode.OK


def test_any_message_is_answered_or_blamed(channel: grpc.Channel) -> None:
    @FUZZ
    @given(messages())
    def holds(message: Any) -> None:
        code, details = status_of(channel, message.SerializeToString())
        assert code in BLAMES_THE_REQUEST, (code, details, message)
        assert code is grpc.StatusCode.OK or details

    holds()
    assert serves(channel)


def test_any_message_of_a_stream_is_answered_in_place(channel: grpc.Channel) -> None:
    call = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=MESSAGES.ModelInferRequest.SerializeToString,
        response_deserializer=MESSAGES.ModelStreamInferResponse.FromString,
    )

    @FUZZ
    @given(st.lists(messages(), min_size=1, max_size=4))
    def holds(several: list[Any]) -> None:
        answers = list(call(iter(several), timeout=20))
        finals = [
            answer
            for answer in answers
            if answer.error_message or answer.infer_response.parameters["triton_final_response"].bool_param
        ]
        assert len(finals) == len(several), (several, answers)
        assert not any("its log says more" in answer.error_message for answer in answers), (several, answers)

    holds()
    assert serves(channel)


def test_noise_is_refused(channel: grpc.Channel) -> None:
    @FUZZ
    @given(st.binary(max_size=200))
    def holds(noise: bytes) -> None:
        code, details = status_of(channel, noise)
        assert code in BLAMES_THE_REQUEST, (code, details, noise)

    holds()
    for method in ("ModelReady", "RepositoryModelLoad", "ModelStatistics", "ServerMetadata"):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff" * 9, timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as refused:
        list(channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([b"\xff" * 9]), timeout=20))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert serves(channel)


def test_hostile_requests_leave_nothing_behind(channel: grpc.Channel) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2**40, 2**20]}
    text = {"name": "x", "datatype": "BYTES", "shape": [2**31]}
    hostile = [
        MESSAGES.ModelInferRequest(model_name="echo", inputs=[tensor], raw_input_contents=[b"\0" * 4096]),
        MESSAGES.ModelInferRequest(model_name="echo-bytes", inputs=[text], raw_input_contents=[b"\xff\xff\xff\x7f"]),
        MESSAGES.ModelInferRequest(model_name="nothing" * 100, inputs=[tensor] * 50),
    ]
    process = psutil.Process()
    before = 0
    for turn in range(400):
        if turn == 100:
            before = process.memory_info().rss
        hostile[0].inputs[0].name = f"x{turn}"
        assert status_of(channel, hostile[turn % 3].SerializeToString())[0] in BLAMES_THE_REQUEST
    assert process.memory_info().rss - before < GROWTH_BYTES
    assert serves(channel)


# -- binary REST -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with listening(World()) as url, httpx.Client(base_url=url, timeout=20) as made:
        yield made


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, str]:
    """A body with tensors after its JSON, and the length of the JSON that is claimed."""
    tail = draw(st.lists(raws, max_size=3))
    sizes = st.sampled_from([len(part) for part in tail] or [0]) | st.sampled_from([-1, 0, 1, 2**31, 2**63, True, "16"])
    inputs = []
    for name, datatype, shape in draw(st.lists(st.tuples(names, datatypes, shapes), max_size=3)):
        given_parameters = draw(parameters) | ({"binary_data_size": draw(sizes)} if draw(st.booleans()) else {})
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "parameters": given_parameters})
    document: dict[str, Any] = {"inputs": inputs}
    if draw(st.booleans()):
        document["parameters"] = draw(parameters)
        outputs = draw(st.lists(st.sampled_from(["y", "z", ""]), max_size=3))
        document["outputs"] = [{"name": name, "parameters": draw(parameters)} for name in outputs]
    head = json.dumps(document).encode()
    claimed = st.just(len(head)) | st.sampled_from([0, 1, len(head) - 1, len(head) + 1, 2**40, 2**70])
    odd = st.sampled_from(["", "-1", "1.5", "0x10", "1e3", "+7", "9" * 5000])
    return head + b"".join(tail), draw(claimed.map(str) | odd)


def test_any_binary_body_is_answered_or_blamed(http: httpx.Client) -> None:
    @FUZZ
    @given(bodies(), models.filter(bool))
    def holds(body: tuple[bytes, str], model: str) -> None:
        headers = {"Inference-Header-Content-Length": body[1], "Content-Type": "application/octet-stream"}
        answer = http.post(f"/v2/models/{model}/infer", content=body[0], headers=headers)
        assert answer.status_code in (200, 400, 403, 404, 431), (answer.status_code, answer.text, body)
        if answer.status_code != 200:
            assert answer.json()["error"]

    holds()
    good: Any = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    assert http.post("/v2/models/echo/infer", json=good).status_code == 200
