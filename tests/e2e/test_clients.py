"""The official clients against a real server with the built-in models."""

from __future__ import annotations

import asyncio
import json

import httpx
import numpy as np
import onnxruntime
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.conftest import ROOT, LiveServer

IRIS = ROOT / "inference_engine" / "infra" / "builtin_models" / "iris" / "1" / "model.onnx"
HELLO = [{"role": "user", "content": "What is iris?"}]


@pytest.fixture
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


@pytest.fixture
def infer(server: LiveServer) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.url.removeprefix("http://"))


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert {"guide", "iris"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("guide").id == "guide"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_the_first_question_gets_a_sensible_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="guide", messages=[{"role": "user", "content": "How do I load a model?"}], temperature=0, max_tokens=150
    )
    text = answer.choices[0].message.content or ""
    assert "load" in text.lower()
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streaming_says_the_same_as_not_streaming(client: openai.OpenAI) -> None:
    asked = {"model": "guide", "messages": HELLO, "temperature": 0, "max_tokens": 60}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


async def test_many_streams_at_once_do_not_mix(server: LiveServer) -> None:
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    questions = ["What is iris?", "Who are you?", "What is a token?", "How do I stop the server?", "What is GGUF?"] * 4

    async def ask(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        stream = await client.chat.completions.create(
            model="guide",
            messages=messages,
            temperature=0,
            max_tokens=40,
            stream=True,  # type: ignore[arg-type]
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    alone = {question: await ask(question) for question in set(questions)}
    together = await asyncio.gather(*(ask(question) for question in questions))
    same = sum(text == alone[question] for question, text in zip(questions, together, strict=True))
    assert same >= len(questions) - 2  # batches of other sizes round differently; a near tie may fall the other way
    await client.close()


def test_sampling_parameters_have_their_effect(client: openai.OpenAI) -> None:
    def say(**options: object) -> str:
        answer = client.chat.completions.create(model="guide", messages=HELLO, max_tokens=24, **options)  # type: ignore[call-overload]
        return str(answer.choices[0].message.content)

    assert say(seed=5, temperature=1.5) == say(seed=5, temperature=1.5)
    wild = {"temperature": 5.0, "top_p": 1.0, "extra_body": {"min_p": 0.0, "top_k": 0}}
    assert len({say(seed=seed, **wild) for seed in range(4)}) > 1
    whole = say(temperature=0)
    word = whole.split()[2]
    assert say(temperature=0, stop=[word]) == whole[: whole.index(word)]


def test_several_choices_and_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="guide", messages=HELLO, max_tokens=8, n=3, temperature=1.2, seed=1, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        positions = choice.logprobs.content or []
        assert "".join(position.token for position in positions) == choice.message.content
        assert all(position.logprob <= 0 and len(position.top_logprobs) == 2 for position in positions)


def test_a_json_schema_binds_the_answer(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="guide",
        messages=HELLO,
        max_tokens=60,
        temperature=0.7,
        seed=3,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    )
    person = json.loads(answer.choices[0].message.content or "")
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_completions_continue_a_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="guide", prompt="The server", max_tokens=8, temperature=0, echo=True)
    assert answer.choices[0].text.startswith("The server")
    streamed = client.completions.create(model="guide", prompt="The server", max_tokens=8, temperature=0, stream=True)
    assert "The server" + "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "nobody"),
        ({"model": "../etc/passwd"}, openai.BadRequestError, "valid name"),
        ({"temperature": -3}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"model": "iris"}, openai.BadRequestError, "chat"),
        ({"extra_body": {"best_of": 4}}, openai.BadRequestError, "best_of"),
        ({"functions": [{"name": "f"}]}, openai.BadRequestError, "tools"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError, "context"),
        ({"messages": [{"role": "king", "content": "hi"}]}, openai.BadRequestError, "role"),
    ],
)
def test_bad_requests_are_the_clients_own_errors(
    client: openai.OpenAI, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.chat.completions.create(**({"model": "guide", "messages": HELLO} | options))  # type: ignore[call-overload]


def test_a_key_is_asked_for_where_keys_are_set(secured_server_url: str) -> None:
    wrong = openai.OpenAI(base_url=f"{secured_server_url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    right = openai.OpenAI(base_url=f"{secured_server_url}/v1", api_key="test-key", max_retries=0)
    assert right.models.list().data
    for path in ("/admin/models", "/v2/models/iris", "/metrics", "/v1/models", "/nowhere"):
        assert httpx.get(secured_server_url + path).status_code == 401, path
    for path in ("/health/live", "/v2/health/ready", "/console/"):
        assert httpx.get(secured_server_url + path).status_code == 200, path


@pytest.mark.parametrize("binary", [True, False])
def test_iris_predicts_what_onnx_runtime_says(infer: triton.InferenceServerClient, binary: bool) -> None:
    rows = np.random.default_rng(0).uniform(0, 8, (37, 4)).astype(np.float32)
    tensor = triton.InferInput("input", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
    answer = infer.infer("iris", [tensor], outputs=wanted, request_id="r-1")
    expected = onnxruntime.InferenceSession(str(IRIS)).run(None, {"input": rows})
    np.testing.assert_array_equal(answer.as_numpy("label"), expected[0])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected[1], rtol=1e-5)
    assert answer.get_response()["id"] == "r-1"
    assert answer.get_response()["model_version"] == "1"


def test_the_protocols_other_calls(infer: triton.InferenceServerClient) -> None:
    assert infer.is_server_live()
    assert infer.is_server_ready()
    assert infer.get_server_metadata()["extensions"]
    assert infer.get_model_metadata("iris")["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert {model["name"] for model in infer.get_model_repository_index()} >= {"guide", "iris"}
    infer.load_model("iris")
    assert infer.is_model_ready("iris")
    infer.unload_model("iris")
    assert not infer.is_model_ready("iris")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}, "shape"),
        ({"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3]}, "input"),
        ({"name": "input", "shape": [1, 4], "datatype": "INT64", "data": [1, 2, 3, 4]}, "int64"),
        ({"name": "other", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}, "input"),
        ({"name": "input", "shape": [1, -4], "datatype": "FP32", "data": [1, 2, 3, 4]}, "shape"),
        ({"name": "input", "shape": [10**12, 4], "datatype": "FP32", "data": [1]}, "input"),
        ({"name": "input", "shape": [1, 4], "datatype": "FP31", "data": [1, 2, 3, 4]}, "FP31"),
    ],
)
def test_bad_tensors_are_refused_by_name(server: LiveServer, tensor: dict[str, object], words: str) -> None:
    answer = httpx.post(f"{server.url}/v2/models/iris/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_json_cannot_say_is_refused(server: LiveServer, number: str) -> None:
    body = '{"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, NUMBER]}]}'
    body = body.replace("NUMBER", number)
    answer = httpx.post(f"{server.url}/v2/models/iris/infer", content=body)
    assert answer.status_code == 400
    assert "'input' holds NaN or an infinity" in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"a"' * 2000, b"[" * 100_000, b"\xff\xfe", b'{"model": 1e400}', b'"x"' * 9]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v2/models/iris/infer"])
def test_malformed_bodies_do_no_harm(server: LiveServer, path: str, body: bytes) -> None:
    answer = httpx.post(server.url + path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_huge_body_is_refused_before_it_is_read(server: LiveServer) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=b"x" * (65 << 20))
    assert answer.status_code == 413


def test_wrong_model_name_in_infer(infer: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("input", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    for name, version in [("nobody", ""), ("iris", "99"), ("..%2f..%2fetc", "")]:
        with pytest.raises(InferenceServerException):
            infer.infer(name, [tensor], model_version=version)


def test_metrics_and_docs_are_there(server: LiveServer) -> None:
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'inference_engine_requests_total{kind="chat",model="guide"' in metrics
    openapi = httpx.get(f"{server.url}/openapi.json").json()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/admin/models", "/health/ready"):
        assert path in openapi["paths"], path
    assert any(path.endswith("/infer") for path in openapi["paths"])
    assert "http" not in httpx.get(f"{server.url}/docs").text.replace("http-equiv", "").split("<body")[0]
