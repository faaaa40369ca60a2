"""The Open Inference Protocol at the level of bytes: every datatype both ways, and what must be refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_engine.domain.datatypes import DATATYPES, NUMPY
from tests.http.support import World

INFER = "/v2/models/echo/infer"
NUMBERS = [name for name in NUMPY if name not in ("BYTES", "BOOL")]


def tensor(data: Any, shape: Any = (1, 4), datatype: str = "FP32", **fields: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(shape), "datatype": datatype, "data": data} | fields


def framed(head: dict[str, Any], *tails: bytes, length: int | None = None) -> dict[str, Any]:
    """A request with binary tensors, for httpx."""
    text = json.dumps(head).encode()
    size = len(text) if length is None else length
    return {
        "content": text + b"".join(tails),
        "headers": {"Inference-Header-Content-Length": str(size), "Content-Type": "application/octet-stream"},
    }


def unframed(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    size = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.content[:size]), answer.content[size:]


async def infer(http: httpx.AsyncClient, *inputs: Any, path: str = INFER, **fields: Any) -> httpx.Response:
    return await http.post(path, json={"inputs": list(inputs), **fields})


async def refused(http: httpx.AsyncClient, *inputs: Any, path: str = INFER, **fields: Any) -> str:
    answer = await infer(http, *inputs, path=path, **fields)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


# -- what works ----------------------------------------------------------------------------------------------------


async def test_an_answer_says_who_served(http: httpx.AsyncClient) -> None:
    answer = await infer(http, tensor([1, 2, 3, 4.5]), id="mine")
    assert answer.json() == {
        "model_name": "echo",
        "model_version": "2",
        "id": "mine",
        "parameters": {"route": "echo", "rule": "latest"},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.5]}],
    }
    assert answer.headers["x-model-version"] == "2"
    assert answer.headers["x-model-rule"] == "latest"


@pytest.mark.parametrize("path", ["/v2/models/echo/versions/1/infer", "/v2/models/echo:1/infer"])
async def test_an_exact_version(http: httpx.AsyncClient, path: str) -> None:
    answer = await infer(http, tensor([1, 2, 3, 4]), path=path)
    assert answer.json()["model_version"] == "1"
    assert answer.headers["x-model-rule"] == "exact"


SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "BYTES": ["text", "ünï\u0000cödé"],
    "FP16": [1.5, -65504.0],
    "FP32": [1.5, -3.4028235e38],
    "FP64": [1e308, -2.5],
} | {name: [int(np.iinfo(NUMPY[name]).min), int(np.iinfo(NUMPY[name]).max)] for name in NUMBERS if "INT" in name}


@pytest.mark.parametrize("datatype", SAMPLES)
@pytest.mark.parametrize("nested", [False, True])
async def test_every_datatype_in_json(http: httpx.AsyncClient, datatype: str, nested: bool) -> None:
    name = {datatype: dtype for dtype, datatype in DATATYPES.items()}[datatype]
    values = SAMPLES[datatype]
    answer = await infer(
        http, tensor([values] if nested else values, (1, 2), datatype), path=f"/v2/models/echo-{name}/infer"
    )
    assert answer.json()["outputs"] == [{"name": "y", "datatype": datatype, "shape": [1, 2], "data": values}]


@pytest.mark.parametrize("datatype", SAMPLES)
async def test_every_datatype_in_binary(http: httpx.AsyncClient, datatype: str) -> None:
    name = {datatype: dtype for dtype, datatype in DATATYPES.items()}[datatype]
    if datatype == "BYTES":
        raw = b"".join(struct.pack("<I", len(item)) + item for item in (b"\xff\x00", b""))
    else:
        raw = np.array(SAMPLES[datatype], NUMPY[datatype]).tobytes()
    given_tensor = {"name": "x", "shape": [1, 2], "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    request = framed({"inputs": [given_tensor], "parameters": {"binary_data_output": True}}, raw)
    head, tail = unframed(await http.post(f"/v2/models/echo-{name}/infer", **request))
    assert tail == raw
    assert head["outputs"] == [
        {"name": "y", "datatype": datatype, "shape": [1, 2], "parameters": {"binary_data_size": len(raw)}}
    ]


async def test_binary_and_json_side_by_side(http: httpx.AsyncClient) -> None:
    raw = np.array([[1, 2]], "<i4").tobytes()
    inputs = [
        {"name": "a", "shape": [1, 2], "datatype": "INT32", "parameters": {"binary_data_size": 8}},
        {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["t"]},
        {"name": "c", "shape": [0], "datatype": "FP32", "parameters": {"binary_data_size": 0}},
    ]
    outputs = [{"name": "b"}, {"name": "a", "parameters": {"binary_data": True}}]
    head, tail = unframed(
        await http.post("/v2/models/any/infer", **framed({"inputs": inputs, "outputs": outputs}, raw))
    )
    assert [(output["name"], "data" in output) for output in head["outputs"]] == [("b", True), ("a", False)]
    assert tail == raw


async def test_chosen_outputs_can_stay_json(http: httpx.AsyncClient) -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    answer = await infer(http, tensor([1, 2, 3, 4]), outputs=outputs, parameters={"binary_data_output": True})
    assert unframed(answer)[0]["outputs"][0]["data"] == [1, 2, 3, 4]


async def test_numbers_json_cannot_say_are_null(world: World, http: httpx.AsyncClient) -> None:
    raw = np.array([[1, np.nan, np.inf, -np.inf]], "<f4").tobytes()
    given_tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    answer = await http.post(INFER, **framed({"inputs": [given_tensor]}, raw))
    assert answer.json()["outputs"][0]["data"] == [1.0, None, None, None]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=24).filter(
        lambda values: len(values) % 4 == 0
    )
)
async def test_floats_survive(http: httpx.AsyncClient, values: list[float]) -> None:
    """They come back in the fewest digits that name the same float32."""
    answer = await infer(http, tensor(values, (len(values) // 4, 4)))
    assert np.array_equal(np.float32(answer.json()["outputs"][0]["data"]), np.float32(values))


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_tensor", "says"),
    [
        (tensor([1, 2, 3]), "3 elements, its shape [1, 4] needs 4"),
        (tensor([1] * 5), "5 elements"),
        (tensor([1, 2], (1, 2)), "the model takes [-1, 4]"),
        (tensor([], (0, 4)), "send at least one row"),
        (tensor([1, 2, 3, "4"]), "data[3]"),
        (tensor([1, 2, 3, None]), "data[3]"),
        (tensor([1, 2, 3, True]), "data[3]"),
        (tensor([1, 2, 3, 1e39]), "data[3]"),
        (tensor([[1, 2], [3, 4]]), "nested differently"),
        (tensor([[1, 2, 3, "4"]]), "data[3]"),
        (tensor([1, [2], 3, 4]), "mixes lists"),
        (tensor([1, 2, 3, 4], (-1, 4)), "shape[0]"),
        (tensor([1], (2**62, 2**62)), "shape[0]"),
        (tensor([1], (2**47, 2**47)), "needs 1980704062856608439838598758"),
        (tensor([], (0, 2**47, 2**47)), "'x'"),
        (tensor([1], [1] * 40), "shape"),
        (tensor([1, 2, 3, 1e39], (1, 4), "BF16"), "data[3]"),
        (tensor([1, 2, 3, 4], (1, 4), "fp32"), "'fp32', supported are"),
        (tensor([1, 2, 3, 4], (1, 4), "INT32"), "is int32, the model takes float32"),
        (tensor([1.5, 2, 3, 4], (1, 4), "INT32"), "data[0]"),
        (tensor([300, 2, 3, 4], (1, 4), "INT8"), "data[0]"),
        (tensor([-1, 2, 3, 4], (1, 4), "UINT64"), "data[0]"),
        (tensor([2**64, 2, 3, 4], (1, 4), "UINT64"), "does not fit UINT64"),
        (tensor([2**63, 2, 3, 4], (1, 4), "INT64"), "does not fit INT64"),
        (tensor([1, 0, 1, 0], (1, 4), "BOOL"), "data[0]"),
        (tensor(["a", ["b"]], (1, 2), "BYTES"), "mixes lists"),
        (tensor([1, 2, 3, 4], surprise=1), "inputs[0].surprise"),
        (tensor([1, 2, 3, 4], name="z"), "input 'x' is missing"),
        (tensor([1, 2, 3, 4], parameters={"surprise": 1}), "'surprise'"),
        ({"name": "x", "shape": [1, 4], "datatype": "FP32"}, "neither data nor"),
        ({"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {}}, "neither data nor"),
        ({"name": "x", "shape": [1, 4], "data": [1, 2, 3, 4]}, "datatype"),
        ({"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}, "name is missing"),
    ],
)
async def test_wrong_tensors(http: httpx.AsyncClient, given_tensor: dict[str, Any], says: str) -> None:
    assert says in await refused(http, given_tensor)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_not_a_number_is_refused_by_tensor(http: httpx.AsyncClient, word: str) -> None:
    body = '{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,WORD,4]}]}'.replace("WORD", word)
    answer = await http.post(INFER, content=body)
    assert answer.status_code == 400
    assert "'x'" in answer.json()["error"]


async def test_a_tensor_given_twice(http: httpx.AsyncClient) -> None:
    assert "twice" in await refused(http, tensor([1, 2, 3, 4]), tensor([1, 2, 3, 4]))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"parameters": {"sequence_id": 7}}, "sequence_id"),
        ({"parameters": {"binary_data_output": 1}}, "true or false"),
        ({"parameters": {"timeout": -1}}, "timeout"),
        ({"outputs": [{"name": "y", "parameters": {"classification": -3}}]}, "number of classes"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]}, "binary_data"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "twice"),
        ({"outputs": [{"name": "nope"}]}, "'nope' is unknown"),
        ({"outputs": [{}]}, "outputs[0].name is missing"),
        ({"surprise": 1}, "surprise"),
        ({"model_name": "chatty"}, "the path says"),
        ({"id": 7}, "id"),
        ({"id": "i" * 300}, "id is longer"),
    ],
)
async def test_wrong_requests(http: httpx.AsyncClient, fields: dict[str, Any], says: str) -> None:
    assert says in await refused(http, tensor([1, 2, 3, 4]), **fields)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"inputs":' + b"[" * 100_000,
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"inputs":[]}',
        b'{"inputs":{}}',
        b'{"inputs":[null]}',
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]} trailing',
        b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[' + b"9" * 5000 + b"]}]}",
    ],
)
async def test_hostile_json(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post(INFER, content=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


async def test_a_repeated_key_counts_once(http: httpx.AsyncClient) -> None:
    body = b'{"inputs":[{"name":"q","name":"x","shape":[1,4],"datatype":"FP32","data":[0],"data":[1,2,3,4]}]}'
    assert (await http.post(INFER, content=body)).json()["outputs"][0]["data"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "%2e%2e%2fetc", "..%2f..%2fetc%2fpasswd", "a" * 5000, "-x", "e cho", "\u00e9"]
)
async def test_hostile_names(http: httpx.AsyncClient, name: str) -> None:
    for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/1/infer"):
        answer = await infer(http, tensor([1, 2, 3, 4]), path=path)
        assert answer.status_code in (400, 404, 405)
        assert len(answer.text) < 500


@pytest.mark.parametrize(
    ("shape", "datatype", "declared", "raw", "says"),
    [
        ([1, 4], "FP32", 12, b"\0" * 12, "12 bytes, FP32 of shape [1, 4] needs 16"),
        ([1, 4], "FP32", 16, b"\0" * 12, "declares 16 bytes, 12 are left"),
        ([1, 4], "FP32", 16, b"\0" * 20, "4 bytes follow"),
        ([1, 4], "FP32", -1, b"", "binary_data_size must be"),
        ([1, 4], "FP32", "16", b"\0" * 16, "binary_data_size must be"),
        ([1, 4], "FP32", True, b"\0", "binary_data_size must be"),
        ([2**40, 2**40], "FP32", 16, b"\0" * 16, "16 bytes, FP32"),
        ([1], "BYTES", 4, b"\xff\xff\xff\xff", "ends inside an element"),
        ([1], "BYTES", 3, b"\0\0\0", "ends inside an element"),
        ([2], "BYTES", 4, b"\0\0\0\0", "1 elements"),
    ],
)
async def test_binary_that_lies(
    http: httpx.AsyncClient, shape: list[int], datatype: str, declared: Any, raw: bytes, says: str
) -> None:
    given_tensor = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": declared}}
    answer = await http.post("/v2/models/any/infer", **framed({"inputs": [given_tensor]}, raw))
    assert answer.status_code == 400
    assert says in answer.json()["error"]


@pytest.mark.parametrize("length", [-1, 10**9, 10])
async def test_a_header_length_that_lies(http: httpx.AsyncClient, length: int) -> None:
    answer = await http.post(INFER, **framed({"inputs": [tensor([1, 2, 3, 4])]}, length=length))
    assert answer.status_code == 400


async def test_data_and_binary_data(http: httpx.AsyncClient) -> None:
    given_tensor = tensor([1, 2, 3, 4], parameters={"binary_data_size": 16})
    answer = await http.post(INFER, **framed({"inputs": [given_tensor]}, b"\0" * 16))
    assert "both data and binary_data_size" in answer.json()["error"]


async def test_output_bytes_that_are_no_text(http: httpx.AsyncClient) -> None:
    raw = struct.pack("<I", 1) + b"\xff"
    given_tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    answer = await http.post("/v2/models/any/infer", **framed({"inputs": [given_tensor]}, raw))
    assert answer.status_code == 500
    assert "binary_data: true" in answer.json()["error"]


async def test_a_chat_model_predicts_nothing(http: httpx.AsyncClient) -> None:
    assert "does not answer predict" in await refused(http, tensor([1, 2, 3, 4]), path="/v2/models/chatty/infer")


# -- the rest of the protocol --------------------------------------------------------------------------------------


async def test_server_metadata(http: httpx.AsyncClient) -> None:
    found = (await http.get("/v2")).json()
    assert found["name"] == "inference-engine"
    assert "binary_tensor_data" in found["extensions"]


async def test_model_metadata(http: httpx.AsyncClient) -> None:
    for path, version in (("/v2/models/echo", "2"), ("/v2/models/echo/versions/1", "1")):
        found = (await http.get(path)).json()
        assert found["versions"] == ["1", "2"]
        assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert found["parameters"]["version"] == version
    assert (await http.get("/v2/models/nobody")).status_code == 404


async def test_load_ready_unload(http: httpx.AsyncClient) -> None:
    ready = "/v2/models/echo/versions/1/ready"
    assert (await http.get(ready)).status_code == 503
    assert (await http.post("/v2/repository/models/echo:1/load")).status_code == 200
    assert (await http.get(ready)).json()["ready"] is True
    index = (await http.post("/v2/repository/index", json={"ready": True})).json()
    assert index == [{"name": "echo", "version": "1", "state": "READY", "reason": ""}]
    body = {"parameters": {"unload_dependents": False}}
    assert (await http.post("/v2/repository/models/echo:1/unload", json=body)).status_code == 200
    assert (await http.get(ready)).status_code == 503
    everything = (await http.post("/v2/repository/index")).json()
    assert {entry["state"] for entry in everything} == {"UNAVAILABLE"}


async def test_a_configuration_is_not_overridden(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v2/repository/models/echo/load", json={"parameters": {"config": "{}"}})
    assert answer.status_code == 400
    assert "'config'" in answer.json()["error"]
    assert (await http.post("/v2/repository/models/failing/load")).status_code == 500
