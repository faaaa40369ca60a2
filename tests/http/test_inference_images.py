"""POST /inference/image: JSON and forms in, and every hostile upload refused by name before a model sees it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from inference_engine.core.settings import Settings
from tests.fixtures.tiny_vision import bomb, png
from tests.http.image_models import PIXEL, add_image_models
from tests.http.support import World

PATH = "/inference/image"
IMAGE = png((255, 0, 0))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(Settings(image_max_count=3, image_max_mb=0.1, image_max_megapixels=1, max_body_mb=1))
    add_image_models(made)
    await made.open()
    yield made
    await made.close()


async def test_one_model_is_told_in_headers_too(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json={"image": PIXEL, "model": "sorter:1"})
    assert list(answer.json()["models"]) == ["classify"]
    assert (answer.headers["x-model-version"], answer.headers["x-model-rule"]) == ("1", "exact")
    both = await http.post(PATH, json={"image": PIXEL})
    assert list(both.json()["models"]) == ["classify", "detect"]
    assert "x-model-version" not in both.headers


async def test_a_form_is_the_same_as_json(http: httpx.AsyncClient) -> None:
    options: dict[str, Any] = {"tasks": ["classify", "embed"], "top_k": 1, "threshold": 0.5}
    json = (await http.post(PATH, json={"images": [b64(IMAGE), PIXEL], **options})).json()
    files = [("file", ("a.exe", IMAGE, "application/x-msdownload")), ("file", ("b", base64.b64decode(PIXEL)))]
    for tasks in (["classify,embed"], ["classify", "embed"]):
        data = {"tasks": tasks, "top_k": "1", "threshold": "0.5"}
        form = await http.post(PATH, data=data, files=files)
        assert form.json()["results"] == json["results"]
    assert [len(found["labels"]) for found in json["results"]] == [1, 1]


async def test_descriptions(http: httpx.AsyncClient, world: World) -> None:
    body = {"image": PIXEL, "tasks": "describe", "prompt": "So?", "max_tokens": 2}
    answer = (await http.post(PATH, json=body)).json()
    assert answer["results"] == [{"width": 1, "height": 1, "description": "A grey "}]
    assert answer["models"]["describe"]["usage"]["completion_tokens"] == 2
    (asked,) = world.executors.executors["seer:1"].requests
    assert asked.messages[0].text == "So?"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing": ({}, "images", "send one image"),
    "both": ({"image": PIXEL, "images": [PIXEL]}, "images", "send one image"),
    "empty": ({"image": ""}, "image", "holds no data"),
    "no-base64": ({"image": "%%%"}, "image", "not valid base64"),
    "bad-padding": ({"images": [PIXEL, PIXEL[:-3]]}, "images[1]", "not valid base64"),
    "http": ({"image": "http://127.0.0.1:9/a.png"}, "image", "would have to be fetched"),
    "https": ({"images": ["HTTPS://example.org/a.png"]}, "images[0]", "would have to be fetched"),
    "file": ({"image": "file:///etc/passwd"}, "image", "would have to be fetched"),
    "data-url-without-base64": ({"image": "data:image/png,abc"}, "image", "base64"),
    "text": ({"image": b64(b"hello there")}, "images[0]", "unknown kind"),
    "pdf-called-png": ({"image": "data:image/png;base64," + b64(b"%PDF-1.4 x")}, "images[0]", "a PDF document"),
    "svg": ({"image": b64(b"<svg/>")}, "images[0]", "an SVG drawing"),
    "cut-in-header": ({"image": b64(IMAGE[:20])}, "images[0]", "cut off"),
    "broken-pixels": ({"images": [PIXEL, b64(IMAGE + b"broken")]}, "images[1]", "cannot be read"),
    "bomb": ({"image": b64(bomb())}, "images[0]", "30000 x 30000 pixels"),
    "too-many-bytes": ({"image": b64(IMAGE + bytes(110_000))}, "images[0]", "an image may have"),
    "too-many": ({"images": [PIXEL] * 4}, "images", "at most 3"),
    "unknown-task": ({"image": PIXEL, "tasks": ["segment"]}, "tasks[0]", "segment"),
    "unknown-field": ({"image": PIXEL, "size": 3}, "size", "not a field"),
    "top-k": ({"image": PIXEL, "top_k": 0}, "top_k", ">= 1"),
    "threshold": ({"image": PIXEL, "threshold": "much"}, "threshold", "got `str`"),
    "max-tokens": ({"image": PIXEL, "tasks": "describe", "max_tokens": 10**7}, "max_tokens", "1e+06"),
    "number": ({"image": 5}, "image", "got `int`"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused(http: httpx.AsyncClient, case: str) -> None:
    body, field, words = REFUSED[case]
    answer = await http.post(PATH, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["field"], words in error["message"]) == (field, True), error
    assert (await http.post(PATH, json={"image": PIXEL})).status_code == 200


async def test_forms_that_are_refused(http: httpx.AsyncClient) -> None:
    one = ("file", ("a.png", IMAGE))
    for files, data, field in (
        ([("picture", ("a.png", IMAGE))], {}, "picture"),
        ([one], {"models": "x"}, "models"),
        ([one], {"model": ["sorter", "finder"]}, "model"),
        ([one], {"top_k": "many"}, "top_k"),
        ([one], {"tasks": "paint"}, "tasks[0]"),
        ([one, ("file", ("a.png", b""))], {}, "images[1]"),
        ([one] * 4, {}, "images"),
    ):
        answer = await http.post(PATH, files=files, data=data)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["field"] == field
    no_file = await http.post(PATH, files={"tasks": (None, "classify")})
    assert no_file.json()["error"]["field"] == "file"
    parts = await http.post(PATH, files=[("file", ("a", b"x"))] * 70)
    assert "more than 64 parts" in parts.json()["error"]["message"]
    cut = {"content-type": "multipart/form-data; boundary=x"}
    assert "cut short" in (await http.post(PATH, content=b"--x\r\n", headers=cut)).json()["error"]["message"]


async def test_bodies_of_other_kinds(http: httpx.AsyncClient) -> None:
    bare = await http.post(PATH, content=IMAGE, headers={"content-type": "image/png"})
    assert (bare.status_code, bare.json()["error"]["code"]) == (415, "unknown_content_type")
    large = await http.post(PATH, content=b'{"image": "' + b"A" * (2 << 20))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    for body in (b"", b"[]", b"{", b"\xff"):
        assert (await http.post(PATH, content=body)).status_code == 400


async def test_keys_are_asked_for() -> None:
    world = World(Settings(api_keys=("secret",)))
    add_image_models(world)
    await world.open()
    async with world.client() as http:
        for path in ("image", "text", "multimodal", "batch"):
            answer = await http.post(f"/inference/{path}", json={"image": PIXEL})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
        allowed = await http.post(PATH, json={"image": PIXEL}, headers={"authorization": "Bearer secret"})
        assert allowed.status_code == 200
    await world.close()
