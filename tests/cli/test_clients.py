"""One contract for both clients: the models in this process and those of a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from inference_engine.adapters.cli.client import (
    Client,
    Scores,
    Seen,
    SeenBy,
    SeenImage,
    SeenLabel,
    SeenObject,
    SeenScene,
    SeenTrack,
    SeenVideo,
    Segment,
    Transcript,
    Vectors,
)
from inference_engine.adapters.cli.http_client import HttpClient
from inference_engine.adapters.cli.local_client import LocalClient
from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    InvalidTensor,
    ModelNotFound,
    Unauthenticated,
    Unavailable,
    UnsupportedTask,
)
from inference_engine.domain.ports import BrokenModel
from tests.cli.fakes import FakeEngine, FakeRepository, FakeServer

BROKEN = [BrokenModel(Path("x"), "x/1/model.yaml:3: bad")]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def server(engine: FakeEngine) -> FakeServer:
    return FakeServer(engine, BROKEN)


@pytest.fixture(params=["local", "http"])
def client(request: pytest.FixtureRequest, engine: FakeEngine, server: FakeServer) -> Iterator[Client]:
    @contextmanager
    def opened() -> Iterator[FakeEngine]:
        yield engine

    http = HttpClient("http://test/", transport=httpx.MockTransport(server))
    chosen: Client = http if request.param == "http" else LocalClient(opened(), FakeRepository([], BROKEN))
    with http, chosen:
        yield chosen


def test_models_are_listed_and_shown(client: Client, engine: FakeEngine) -> None:
    assert client.models() == engine.models()
    assert client.broken() == ["x/1/model.yaml:3: bad"]
    for target in ("iris", "iris:1"):
        view, manifest = client.show(target)
        assert (view.target, str(manifest.ref)) == ("iris:1", "iris:1")


def test_a_model_is_loaded_and_unloaded(client: Client) -> None:
    assert client.load("guide").state == "ready"
    assert client.unload("guide") == 64 << 20
    assert client.show("guide")[0].state == "unloaded"


def test_a_prediction_is_plain_python(client: Client) -> None:
    outputs = client.predict("iris", {"input": [[1, 2, 3, 4.5], [0, 0, 0, 1]]})
    assert json.loads(msgspec.json.encode(outputs)) == [
        {"name": "sum", "dtype": "float32", "shape": [2], "data": [10.5, 1.0]},
        {"name": "label", "dtype": "bytes", "shape": [2], "data": ["big", "small"]},
        {"name": "twice", "dtype": "float32", "shape": [2, 4], "data": [[2.0, 4.0, 6.0, 9.0], [0.0, 0.0, 0.0, 2.0]]},
    ]


def test_texts_are_embedded_and_ranked(client: Client) -> None:
    assert client.embed("guide", ["one", "two words"], 2) == Vectors([[3, 1], [9, 2]], 7)
    assert len(client.embed("guide", ["one"], None).embeddings[0]) == 5
    assert client.rerank("guide", "sky", ["grass", "blue sky"]) == Scores([0, 1], 9)
    with pytest.raises(UnsupportedTask):
        client.embed("iris", ["one"], None)


def test_speech_is_written_down(client: Client, engine: FakeEngine) -> None:
    found = client.transcribe("guide", b"RIFF", timestamps=True, translate=False, language="en", prompt="numbers")
    assert found == Transcript("one two", [Segment(0, 1, "one"), Segment(1, 2, "two")])
    assert client.transcribe("guide", b"RIFF", timestamps=False, translate=True) == Transcript("one two", [])
    assert engine.heard == [
        (b"RIFF", {"timestamps": True, "translate": False, "language": "en", "prompt": "numbers"}),
        (b"RIFF", {"timestamps": False, "translate": True}),
    ]


def test_images_are_analysed(client: Client, engine: FakeEngine) -> None:
    options = {"model": "guide", "top_k": 2, "threshold": 0.5, "prompt": "So?", "max_tokens": 9}
    found = client.analyze_images([b"one\r\n", b"empty"], ["classify", "detect"], **options)
    cat = SeenImage([SeenLabel("cat", 0.75)], [SeenObject("cat", 0.5, (1, 2, 30, 40))])
    assert found == Seen([cat, SeenImage([], [], "Nothing\x1b[2J\nhere.", [1, 2])], {"classify": SeenBy("guide", "1")})
    assert engine.heard == [(b"one\r\nempty", {"tasks": ["classify", "detect"], **options})]
    client.analyze_images([b"one"], [])
    assert engine.heard[1] == (b"one", {"tasks": []})
    with pytest.raises(UnsupportedTask):
        client.analyze_images([b"one"], [], model="iris")


def test_a_video_is_analysed(client: Client, engine: FakeEngine) -> None:
    found = client.analyze_video(b"film", ["scenes", "track"], every_s=0.5, model="guide")
    assert found == SeenVideo(
        2, {"detect": SeenBy("guide", "1")}, None, [SeenScene(0.0, 2.0)], [SeenTrack(1, "cat", 0.0, 1.0)]
    )
    told = {"tasks": ["scenes", "track"], "sampling": {"every_s": 0.5}, "model": "guide"}
    assert engine.heard == [(b"film", told)]


def test_a_conversation_is_streamed_and_counted(client: Client, engine: FakeEngine) -> None:
    stream = client.generate("guide", [{"role": "user", "content": "hé"}], {"temperature": 0.5})
    assert list(stream) == ["You ", "said: ", "hé"]
    assert stream.usage is not None
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens, stream.usage.cached_tokens) == (7, 3, 3)
    assert stream.finish_reason == "stop"
    assert engine.asked == [([{"role": "user", "content": "hé"}], {"temperature": 0.5})]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.show("gide"), ModelNotFound),
        (lambda client: client.load("nobody:3"), ModelNotFound),
        (lambda client: client.predict("iris", {"inptu": [[1]]}), InvalidTensor),
        (lambda client: list(client.generate("iris", [{"role": "user", "content": "x"}], {})), UnsupportedTask),
    ],
)
def test_errors_keep_their_kind(client: Client, call: object, error: type[EngineError]) -> None:
    with pytest.raises(error):
        call(client)  # type: ignore[operator] # parametrize gives objects


def http_client(handler: object, key: str | None = None) -> HttpClient:
    return HttpClient("http://test", key, transport=httpx.MockTransport(handler))  # type: ignore[arg-type]


def test_the_key_is_sent_and_a_refusal_says_how_to_give_one() -> None:
    seen: list[str | None] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(401, json={"error": {"message": "no", "code": "unauthenticated"}})

    with http_client(refuse, "secret") as client, pytest.raises(Unauthenticated, match="INFERENCE_ENGINE_API_KEY"):
        client.models()
    assert seen == ["Bearer secret"]


def test_ragged_and_unknown_inputs_are_named_before_anything_is_sent(server: FakeServer) -> None:
    with http_client(server) as client:
        with pytest.raises(InvalidTensor, match="'input' is ragged"):
            client.predict("iris", {"input": [[1, 2], [3]]})
        with pytest.raises(InvalidTensor, match=r"'x' is unknown; the model takes \['input'\]"):
            client.predict("iris", {"x": [[1]]})
    assert all(request.method == "GET" for request in server.requests)


def test_an_exact_version_is_asked_for_exactly(server: FakeServer) -> None:
    with http_client(server) as client:
        client.predict("iris:1", {"input": [[1, 2, 3, 4]]})
    assert server.requests[-1].url.path == "/v2/models/iris/versions/1/infer"


def test_a_stream_that_is_cut_is_an_error_and_not_an_answer(server: FakeServer) -> None:
    server.cut = True
    with http_client(server) as client, pytest.raises(InferenceFailed, match="before it was complete"):
        list(client.generate("guide", [{"role": "user", "content": "x"}], {}))


def test_an_error_inside_a_stream_is_raised() -> None:
    text = 'data: {"error": {"message": "the model failed", "code": "inference_failed"}}\n\n'
    with (
        http_client(lambda _: httpx.Response(200, text=text)) as client,
        pytest.raises(InferenceFailed, match="the model failed"),
    ):
        list(client.generate("guide", [], {}))


def test_a_server_that_is_not_ours_or_not_there_is_told_plainly() -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with http_client(gone) as client, pytest.raises(Unavailable, match="http://test cannot be reached"):
        client.models()
    for text in ("<html>", "[]", '{"models": [{"name": 1}]}'):
        page = httpx.Response(200, text=text)
        with (
            http_client(lambda _, page=page: page) as client,
            pytest.raises(InferenceFailed, match="is it an inference"),
        ):
            client.models()
