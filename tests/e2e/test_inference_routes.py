"""The inference routes on a real server: the built-in models of shapes, one that sees, and models without labels."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw

from inference_engine import AsyncEngine, Engine
from inference_engine.domain.errors import InvalidRequest
from tests.conftest import LiveServer
from tests.fixtures.tiny_gguf import Size, tiny_gguf
from tests.fixtures.tiny_onnx import mean_colour_onnx
from tests.fixtures.tiny_vision import IMAGE_TOKENS, bomb, png, tiny_mmproj

SIZE = Size(context=2048)
RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
EYES = 'name: eyes\nversion: "1"\nruntime: llama_cpp\nartifact: model.gguf\ntask: image-text-to-text\n'
MEANS = """
name: {0}
version: "1"
runtime: onnx
artifact: model.onnx
task: {1}
pipeline:
  preprocess: [{{use: image.decode}}, {{use: image.resize, width: 8, height: 8}}, {{use: image.normalize}}]
  postprocess: []
"""


EARS = """
class Ears:
    # hears how many bytes a file has

    def transcribe(self, audio, options):
        yield f"{len(audio)} bytes"
"""


def drawn() -> bytes:
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).rectangle((90, 40, 210, 160), fill="teal")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def lay_out(models: Path) -> None:
    """`eyes` sees, `ears` hears; `means` and `colours` give the mean of each colour, as a vector and as classes."""
    eyes = models / "eyes" / "1"
    eyes.mkdir(parents=True)
    (eyes / "model.yaml").write_text(EYES + "options: {parallel: 2, mmproj: mmproj.gguf}\n")
    tiny_gguf(eyes / "model.gguf", SIZE)
    tiny_mmproj(eyes / "mmproj.gguf", SIZE)
    ears = models / "ears" / "1"
    ears.mkdir(parents=True)
    (ears / "model.py").write_text(EARS)
    (ears / "model.yaml").write_text(
        'name: ears\nversion: "1"\nruntime: python\nartifact: model.py:Ears\ntask: automatic-speech-recognition\n'
    )
    for name, task in (("means", "image-feature-extraction"), ("colours", "image-classification")):
        folder = models / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.yaml").write_text(MEANS.format(name, task))
        mean_colour_onnx(folder / "model.onnx")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysis") / "models"
    lay_out(folder)
    return folder


@pytest.fixture(scope="module")
def http(models: Path) -> Iterator[httpx.Client]:
    live = LiveServer(models.parent, "--models", str(models))
    live.start()
    with httpx.Client(base_url=live.url, timeout=60) as client:
        yield client
    assert live.stop() == 0


def test_shapes_are_named_and_found(http: httpx.Client) -> None:
    body = {"image": b64(drawn()), "models": {"classify": "shapes", "detect": "shapes-detector"}, "top_k": 1}
    answer = http.post("/inference/image", json=body)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["results"]
    assert found["labels"][0]["label"] == "square"
    assert found["labels"][0]["score"] > 0.9
    (square,) = found["objects"]
    assert square["label"] == "square"
    assert all(abs(side - true) < 15 for side, true in zip(square["box"], (90, 40, 210, 160), strict=True))


def test_vectors_and_classes_without_labels(http: httpx.Client) -> None:
    files = [("file", ("red", RED)), ("file", ("blue", BLUE))]
    answer = http.post("/inference/image", files=files, data={"tasks": "embed,classify", "top_k": "1"}).json()
    red, blue = answer["results"]
    assert (red["embedding"], blue["embedding"]) == ([1, 0, 0], [0, 0, 1])
    assert (red["labels"], blue["labels"]) == ([{"label": "0", "score": 1.0}], [{"label": "2", "score": 1.0}])
    assert {task: report["model"] for task, report in answer["models"].items()} == {
        "embed": "means",
        "classify": "colours",  # an operator's own goes before the built-in one
    }


def test_a_model_that_sees_describes(http: httpx.Client) -> None:
    body = {"images": [b64(RED), b64(BLUE)], "tasks": "describe", "max_tokens": 8, "prompt": "what is this?"}
    answer = http.post("/inference/image", json=body).json()
    report = answer["models"]["describe"]
    assert report["model"] == "eyes"
    assert report["usage"]["prompt_tokens"] > 2 * IMAGE_TOKENS
    assert all(found["description"] for found in answer["results"])
    together = {"parts": [{"type": "image", "data": b64(RED)}, {"type": "text", "text": "?"}]}
    seen = http.post("/inference/multimodal", json={**together, "parameters": {"max_tokens": 4}}).json()
    assert (seen["model"], seen["usage"]["completion_tokens"], "context" in seen) == ("eyes", 4, False)
    assert seen["usage"]["prompt_tokens"] > IMAGE_TOKENS


def test_a_model_that_does_not_see_is_told(http: httpx.Client) -> None:
    parts = [{"type": "image", "data": b64(drawn())}, {"type": "text", "text": "What is this?"}]
    body = {"model": "guide", "parts": parts, "parameters": {"max_tokens": 4}}
    refused = http.post("/inference/multimodal", json=body)
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "parts[0]")
    answer = http.post("/inference/multimodal", json={**body, "mode": "combine"}).json()
    assert answer["model"] == "guide"
    assert "Objects in pixels: square" in answer["context"][0]["text"]
    assert [one["task"] for one in answer["context"][0]["models"]] == ["classify", "detect", "describe"]


def test_a_model_that_does_not_hear_is_told(http: httpx.Client) -> None:
    parts = [{"type": "audio", "data": b64(b"RIFF\0\0\0\0WAVE" + bytes(30))}, {"type": "image", "data": b64(RED)}]
    body = {"model": "eyes", "mode": "combine", "parts": parts, "parameters": {"max_tokens": 2}, "stream": True}
    with http.stream("POST", "/inference/multimodal", json=body) as streamed:
        events = [json.loads(line.removeprefix("data: ")) for line in streamed.iter_lines() if line]
    assert events[0] == {
        "type": "context",
        "context": [
            {
                "part": 0,
                "text": '[Sound 1. It says: "42 bytes"]',
                "models": [{"task": "transcribe", "model": "ears", "version": "1"}],
            }
        ],
    }
    assert (events[-1]["type"], events[-1]["model"]) == ("done", "eyes")
    assert events[-1]["usage"]["prompt_tokens"] > IMAGE_TOKENS


def test_a_mixed_batch(http: httpx.Client) -> None:
    items: list[dict[str, Any]] = [
        {"type": "text", "id": "t", "model": "guide", "prompt": "The server", "parameters": {"max_tokens": 3}},
        {"type": "image", "id": "i", "image": b64(drawn()), "model": "shapes"},
        {"type": "image", "id": "bomb", "image": b64(bomb())},
        {"type": "image", "id": "cut", "image": b64(drawn()[:-200]), "model": "shapes"},
        *({"type": "image", "image": b64(RED), "model": "means"} for _ in range(20)),
    ]
    answer = http.post("/inference/batch", json={"items": items}).json()
    assert (answer["succeeded"], answer["failed"]) == (22, 2)
    results = answer["results"]
    assert results[0]["result"]["usage"]["completion_tokens"] == 3
    assert results[1]["result"]["results"][0]["labels"][0]["label"] == "square"
    assert "30000 x 30000" in results[2]["error"]["message"]
    assert "cannot be read" in results[3]["error"]["message"]
    assert {tuple(result["result"]["results"][0]["embedding"]) for result in results[4:]} == {(1, 0, 0)}
    with http.stream("POST", "/inference/batch", json={"items": items[:2], "stream": True}) as streamed:
        lines = [json.loads(line.removeprefix("data: ")) for line in streamed.iter_lines() if line]
    assert sorted(line.get("id", "") for line in lines) == ["", "i", "t"]


def with_chunk(kind: bytes) -> bytes:
    """A PNG with a small chunk that unpacks to 100 MB."""
    packed = b"k\0\0" + zlib.compress(bytes(100 << 20), 1)
    chunk = struct.pack(">I", len(packed)) + kind + packed + struct.pack(">I", zlib.crc32(kind + packed))
    return RED[:33] + chunk + RED[33:]


def hostile() -> Iterator[bytes]:
    """Files that lie about themselves, and good ones with a few bytes changed."""
    yield from (with_chunk(b"zTXt"), with_chunk(b"iCCP"), bomb(), b"\xff\xd8" + b"\xff\xe0\0\x02" * 100_000)
    random = Random(1)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP") * 25:
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (random.randrange(256), 5, 5)).save(file, kind)
        data = bytearray(file.getvalue())
        for _ in range(random.randint(1, 12)):
            data[random.randrange(len(data))] = random.randrange(256)
        yield bytes(data[: random.randint(10, len(data))])


def test_hostile_files_never_end_in_a_server_error(http: httpx.Client) -> None:
    for data in hostile():
        answer = http.post("/inference/image", files={"file": data}, data={"model": "shapes"})
        assert answer.status_code in (200, 400), answer.text
    assert http.get("/admin/models/shapes/1").json()["restarts"] == 0
    good = http.post("/inference/image", files={"file": drawn()}, data={"model": "shapes"}).json()
    assert good["results"][0]["labels"][0]["label"] == "square"


def test_without_a_server(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "drawn.png"
    file.write_bytes(drawn())
    with Engine(models=models, state_dir=tmp_path) as engine:
        found = engine.analyze_image(file, tasks=["detect", "embed"])
        assert found.objects is not None
        assert found.objects[0].label == "square"
        assert found.embedding is not None
        assert found.embedding.shape == (3,)
        both = engine.analyze_images([file, RED], tasks="classify", model={"classify": "shapes"}, top_k=1)
        assert next(image.labels[0].name for image in both.images if image.labels) == "square"
        assert str(both.reports[0].served.ref) == "shapes:1"
        for image, options, words in (
            (file, {"colour": 1}, "'colour' is not an argument"),
            (file, {"tasks": "paint"}, "tasks"),
            (tmp_path / "none.png", {}, "cannot be read"),
            (b"%PDF-", {}, "a PDF document"),
        ):
            with pytest.raises(InvalidRequest, match=words):
                engine.analyze_image(image, **options)


async def test_without_a_server_in_asyncio(models: Path, tmp_path: Path) -> None:
    async with AsyncEngine(models=models, state_dir=tmp_path) as engine:
        found = await engine.analyze_image(BLUE, model="colours", top_k=1)
        assert found.labels is not None
        assert found.labels[0].name == "2"
