"""POST /inference/batch: each item its own outcome, in order or as they come, a few at a time, until the deadline."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import msgspec
import pytest

from inference_engine.adapters.http.inference_api import examples, wire_batches, wire_images, wire_texts
from inference_engine.core.settings import Settings
from inference_engine.services.analysis.batch import finished
from tests.http.image_models import PIXEL, add_image_models
from tests.http.support import World, listening

PATH = "/inference/batch"
TEXT = {"type": "text", "prompt": "hi"}
IMAGE = {"type": "image", "image": PIXEL, "tasks": "classify"}
TOGETHER = {"type": "multimodal", "mode": "combine", "model": "chatty", "parts": [{"type": "image", "data": PIXEL}]}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(Settings(default_model="chatty", inference_batch_max_items=12, inference_batch_concurrency=2))
    add_image_models(made)
    await made.open()
    yield made
    await made.close()


async def test_every_item_has_its_own_outcome_in_the_order_given(http: httpx.AsyncClient) -> None:
    items: list[Any] = [
        {**TEXT, "id": "t", "parameters": {"max_tokens": 2}},
        {**IMAGE, "image": "!"},
        {**IMAGE, "id": "i", "top_k": 1},
        {**IMAGE, "model": "nobody"},
        {"type": "film"},
        {"id": "no-type"},
        5,
        {**TEXT, "stream": True},
        {**TEXT, "bogus": 1},
        {**TOGETHER, "id": "m"},
        {**TEXT, "id": 7},
    ]
    answer = await http.post(PATH, json={"items": items})
    body = answer.json()
    assert (answer.status_code, body["succeeded"], body["failed"]) == (200, 3, 8)
    results = body["results"]
    assert [result["index"] for result in results] == list(range(11))
    text, image, together = results[0], results[2], results[9]
    assert (text["id"], text["type"], text["result"]["text"]) == ("t", "text", "Hello, ")
    assert image["result"]["results"] == [{"width": 1, "height": 1, "labels": [{"label": "cat", "score": 0.75}]}]
    assert image["result"]["models"]["classify"]["model"] == "sorter"
    assert (together["result"]["text"], len(together["result"]["context"])) == ("Hello, world!", 1)
    failed = {result["index"]: result["error"] for result in results if result["status"] == "failed"}
    assert {index: error["field"] for index, error in failed.items()} == {
        1: "image",
        3: "model",
        4: "type",
        5: "type",
        6: "items[6]",
        7: "stream",
        8: "bogus",
        10: "id",
    }
    assert failed[3]["code"] == "model_not_found"
    assert "text, image, multimodal" in failed[4]["message"]
    answer = await http.post(PATH, json={"items": [{**IMAGE, "tasks": "paint"}]})
    assert "it may be classify" in answer.json()["results"][0]["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": []}, "items"),
        ({"items": [TEXT] * 13}, "items"),
        ({"items": TEXT}, "items"),
        ({"items": [{**TEXT, "id": "a"}, {**IMAGE, "id": "a"}]}, "items[1].id"),
        ({"items": [TEXT], "timeout_s": 0}, "timeout_s"),
        ({"items": [TEXT], "concurrency": 3}, "concurrency"),
        ({}, "items"),
    ],
)
async def test_what_is_wrong_with_the_batch_refuses_all_of_it(http: httpx.AsyncClient, body: Any, field: str) -> None:
    answer = await http.post(PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


async def test_a_few_are_done_at_once(world: World, http: httpx.AsyncClient) -> None:
    world.chatty.hold = 0
    asked = asyncio.create_task(http.post(PATH, json={"items": [TEXT] * 5}))
    await world.chatty.waiting.wait()
    await asyncio.sleep(0.05)
    assert len(world.chatty.requests) == 2
    world.chatty.go.set()
    assert (await asked).json()["succeeded"] == 5


async def test_the_deadline_ends_what_is_left_and_keeps_what_is_done(world: World, http: httpx.AsyncClient) -> None:
    world.chatty.hold = 1
    answer = await http.post(PATH, json={"items": [IMAGE, TEXT, TEXT, TEXT], "timeout_s": 0.3})
    outcomes = [result.get("error", {}).get("code") for result in answer.json()["results"]]
    assert outcomes == [None, *["deadline_exceeded"] * 3]
    assert world.chatty.closed == len(world.chatty.requests)


@pytest.mark.parametrize("lines", [False, True])
async def test_results_are_streamed_as_they_come(world: World, http: httpx.AsyncClient, lines: bool) -> None:
    accept = {"accept": "application/x-ndjson"} if lines else {}
    items = [{**TEXT, "id": "t"}, IMAGE, {**IMAGE, "image": "!"}]
    world.chatty.hold = 0
    asyncio.get_running_loop().call_later(0.3, world.chatty.go.set)
    answer = await http.post(PATH, json={"items": items, "stream": True}, headers=accept)
    assert answer.headers["content-type"].startswith("application/x-ndjson" if lines else "text/event-stream")
    found = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n") if line]
    assert sorted(result["index"] for result in found[:-1]) == [0, 1, 2]
    assert found[-2]["id"] == "t"
    assert {**found[-1], "latency_ms": 0} == {"status": "done", "succeeded": 2, "failed": 1, "latency_ms": 0}


async def test_an_unexpected_failure_is_told_without_its_words(world: World, http: httpx.AsyncClient) -> None:
    world.chatty.fail = ZeroDivisionError("secret")
    results = (await http.post(PATH, json={"items": [TEXT, IMAGE]})).json()["results"]
    assert results[0]["error"]["code"] == "internal_error"
    assert "secret" not in results[0]["error"]["message"]
    assert results[1]["status"] == "succeeded"


async def test_closing_cancels_the_rest() -> None:
    cancelled: list[int] = []

    async def work(place: int) -> int:
        try:
            await asyncio.sleep(0 if place == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(place)
            raise
        return place

    works = [lambda place=place: work(place) for place in range(5)]
    async with aclosing(finished(works, 3, lambda: None)) as outcomes:
        assert await anext(outcomes) == (0, 0)
    assert cancelled
    assert 4 not in cancelled


def test_the_examples_of_the_reference_are_what_the_routes_take_and_give() -> None:
    for kind, values in (
        (wire_images.ImageRequest, examples.IMAGE),
        (wire_texts.TextRequest, examples.TEXT),
        (wire_texts.MultimodalRequest, examples.MULTIMODAL),
        (wire_batches.BatchRequest, examples.BATCH),
    ):
        for value in values.values():
            msgspec.convert(value, kind)
    msgspec.convert(examples.IMAGE_ANSWER, wire_images.ImageAnswer)
    msgspec.convert(examples.TEXT_ANSWER, wire_texts.TextAnswer)
    msgspec.convert(examples.MULTIMODAL_ANSWER, wire_texts.MultimodalAnswer)
    msgspec.convert(examples.BATCH_ANSWER, wire_batches.BatchAnswer)


async def test_the_reference_describes_every_route_with_json_and_forms(http: httpx.AsyncClient) -> None:
    made = (await http.get("/openapi.json")).json()
    schemas = made["components"]["schemas"]
    for name in ("text", "image", "multimodal", "batch"):
        operation = made["paths"][f"/inference/{name}"]["post"]
        content = operation["requestBody"]["content"]
        assert content["application/json"]["examples"]
        assert ("multipart/form-data" in content) == (name in ("image", "multimodal"))
        assert operation["responses"]["200"]["content"]["application/json"]["example"]
    for found in _references(made["paths"]["/inference/batch"]) | _references(schemas["inference.ItemResult"]):
        assert found.removeprefix("#/components/schemas/") in schemas


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        here = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return here.union(*(_references(inner) for inner in value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list) else set()


def test_a_client_that_leaves_ends_its_batch() -> None:
    world = World(Settings(default_model="chatty", inference_batch_concurrency=2))
    world.chatty.hold = 1
    with listening(world) as url, httpx.Client(base_url=url) as client:
        for stream in (False, True):
            before = world.chatty.closed
            with pytest.raises(httpx.ReadTimeout):
                client.post(PATH, json={"items": [TEXT] * 4, "stream": stream}, timeout=0.5)
            give_up = time.monotonic() + 10
            while world.chatty.closed < before + 2 and time.monotonic() < give_up:
                time.sleep(0.02)
            assert world.chatty.closed == before + 2
