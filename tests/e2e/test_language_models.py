"""Embeddings, reranking, adapters, images and gauges of real GGUF models, with the official client on a live server."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from inference_engine.infra.telemetry import RUNTIME_GAUGES
from tests.conftest import LiveServer
from tests.fixtures.tiny_bert import CONTEXT, HIDDEN, tiny_bert
from tests.fixtures.tiny_gguf import Size, tiny_gguf, tiny_lora
from tests.fixtures.tiny_vision import IMAGE_TOKENS, bomb, png, tiny_mmproj

SIZE = Size(context=2048)
MANIFEST = 'name: {0}\nversion: "1"\nruntime: llama_cpp\nartifact: model.gguf\noptions: {1}\n'
LONG = {"max_tokens": 400, "temperature": 0, "extra_body": {"ignore_eos": True}}


def add(models: Path, name: str, options: str = "{}") -> Path:
    folder = models / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(MANIFEST.format(name, options))
    return folder


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("language")
    models = folder / "models"
    tiny_bert(add(models, "vectors") / "model.gguf")
    tiny_bert(add(models, "ranker") / "model.gguf", pooling="rank", labels=1)
    base = add(models, "base", "{parallel: 2, adapters: {a: a.gguf, b: b.gguf}}")
    tiny_gguf(base / "model.gguf", SIZE)
    tiny_lora(base / "a.gguf", SIZE, seed=1)
    tiny_lora(base / "b.gguf", SIZE, seed=2)
    eyes = add(models, "eyes", "{parallel: 2, mmproj: mmproj.gguf}")
    tiny_gguf(eyes / "model.gguf", SIZE)
    tiny_mmproj(eyes / "mmproj.gguf", SIZE)
    lost = add(models, "lost", "{adapters: {x: x.gguf}}")
    tiny_gguf(lost / "model.gguf", SIZE)
    tiny_lora(lost / "x.gguf", Size(hidden=96))
    server = LiveServer(folder, "--models", str(models))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def seen(image: bytes, text: str = "what is this?") -> list[dict[str, object]]:
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="vectors", input=["the cat", "a dog"])
    assert [len(item.embedding) for item in answer.data] == [HIDDEN, HIDDEN]
    assert answer.usage.prompt_tokens == 8
    with pytest.raises(openai.BadRequestError, match=f"this model takes {CONTEXT}") as caught:
        client.embeddings.create(model="vectors", input="cat " * CONTEXT)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="does not answer chat"):
        client.chat.completions.create(model="vectors", messages=[{"role": "user", "content": "hi"}])


def test_reranking(live: LiveServer) -> None:
    body = {"model": "ranker", "query": "who sat", "documents": ["the cat sat", "dog runs fast", "mat"]}
    answer = httpx.post(f"{live.url}/v1/rerank", json=body, timeout=30).json()
    scores = [item["relevance_score"] for item in answer["results"]]
    assert sorted(scores, reverse=True) == scores
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) == 3


def test_adapters(live: LiveServer, client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {"base", "base@a", "base@b", "base:1@a"} <= listed
    texts = {}
    for name in ("base", "base@a", "base@b", "base", "base@a"):
        answer = client.completions.create(model=name, prompt="the same prompt " * 5, max_tokens=12, temperature=0)
        assert texts.setdefault(name, answer.choices[0].text) == answer.choices[0].text
    assert len(set(texts.values())) == 3
    with pytest.raises(openai.NotFoundError, match="known adapters: a, b"):
        client.completions.create(model="base@c", prompt="x")
    with pytest.raises(openai.APIStatusError, match="made for another base model"):
        client.completions.create(model="lost@x", prompt="x")


def test_images_are_seen_and_bad_ones_refused(live: LiveServer, client: openai.OpenAI) -> None:
    red, blue = (
        client.chat.completions.create(model="eyes", messages=seen(png(colour)), max_tokens=20, temperature=0)  # type: ignore[arg-type]
        for colour in ((255, 0, 0), (0, 0, 255))
    )
    assert red.choices[0].message.content != blue.choices[0].message.content
    assert red.usage is not None
    assert red.usage.prompt_tokens > IMAGE_TOKENS
    pid = live.pid_of("eyes")
    for bad, message in ((b"no image", "not an image"), (bomb(), "30000 x 30000"), (png((1, 2, 3))[:40], "cut off")):
        with pytest.raises(openai.BadRequestError, match=message):
            client.chat.completions.create(model="eyes", messages=seen(bad))  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="does not take"):
        client.chat.completions.create(model="base", messages=seen(png((1, 2, 3))))  # type: ignore[arg-type]
    assert live.pid_of("eyes") == pid


def test_an_answer_about_an_image_outlives_its_runner(live: LiveServer, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="eyes", messages=seen(png((0, 255, 0))), stream=True, **LONG)  # type: ignore[call-overload]
    pieces = []
    for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "" if chunk.choices else "")
        if len(pieces) == 20:
            os.kill(live.pid_of("eyes"), signal.SIGKILL)
        reason = chunk.choices[0].finish_reason if chunk.choices else None
    assert reason == "length"
    assert len("".join(pieces)) > 200
    assert live.model("eyes")["restarts"] == 1


def test_gauges_are_measured(live: LiveServer, client: openai.OpenAI) -> None:
    for _ in range(3):
        client.completions.create(model="base", prompt="a prompt that is asked again " * 9, **LONG)
    expected = {"kv_cache_usage_ratio", "busy_slots", "slots", "generated_tokens_per_second", "prefix_cache_hit_ratio"}
    gauges = live.model("base")["gauges"]
    assert isinstance(gauges, dict)
    assert expected <= gauges.keys() <= RUNTIME_GAUGES.keys()
    page = httpx.get(f"{live.url}/metrics", timeout=10).text
    for name in expected:
        assert f'inference_engine_{name}{{model="base",version="1"}}' in page
