"""Videos over HTTP with fake models: the words of the answer, forms, and a stream that breaks."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_engine.adapters.http.inference_api import wire_videos as wire
from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.video_analysis import VIDEO_TASKS
from tests.fixtures.videos import counted, video
from tests.http.image_models import add_image_models
from tests.http.support import World

PATH = "/inference/video"
DATA = video(counted(20))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    add_image_models(made)
    await made.open()
    yield made
    await made.close()


async def asked(world: World, body: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
    if body is not None:
        options["json"] = {"video": base64.b64encode(DATA).decode()} | body
    async with world.client() as http:
        return await http.post(PATH, **options)


async def test_json(world: World) -> None:
    found = (await asked(world, {"sample": {"count": 2}, "top_k": 1, "tasks": ["classify", "detect"]})).json()
    assert found["sampled"] == 2
    assert found["frames"] == [
        {
            "index": index,
            "time_s": [0.5, 1.5][index],
            "labels": [{"label": "cat", "score": 0.75}],
            "objects": [{"label": "cat", "score": 0.75, "box": [1.0, 2.0, 30.0, 40.0]}],
        }
        for index in range(2)
    ]
    assert set(found) == {"video", "sampled", "models", "latency_ms", "frames"}
    assert found["models"]["classify"] | {"latency_ms": 0, "queue_ms": 0, "compute_ms": 0} == {
        "model": "sorter", "version": "1", "latency_ms": 0, "queue_ms": 0, "compute_ms": 0,
    }  # fmt: skip


async def test_a_form_says_the_same(world: World) -> None:
    fields = {"tasks": "classify,detect", "sample": '{"count": 2}', "top_k": "1"}
    form = (await asked(world, files={"file": ("a.mp4", DATA)}, data=fields)).json()
    body = (await asked(world, {"sample": {"count": 2}, "top_k": 1, "tasks": ["classify", "detect"]})).json()
    for answer in (form, body):
        del answer["latency_ms"], answer["models"]
    assert form == body
    one = (await asked(world, {"tasks": "scenes", "sample": {"every_s": 0.1}})).json()
    assert one["scenes"] == [{"start_s": 0.0, "end_s": 2.0, "first": 0, "last": 19}]
    assert one["models"] == {}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"files": {"video": ("a.mp4", DATA)}}, "video"),
        ({"files": [("file", ("a.mp4", DATA)), ("file", ("b.mp4", DATA))]}, "file"),
        ({"files": {"file": ("a.mp4", DATA)}, "data": {"sample": "often"}}, "sample"),
        ({"files": {"file": ("a.mp4", DATA)}, "data": {"sample": '{"every": 1}'}}, "sample.every"),
        ({"files": {"file": ("a.mp4", DATA)}, "data": {"models": "{}"}}, "models"),
        ({"files": {"file": ("a.mp4", DATA)}, "data": {"top_k": ["1", "2"]}}, "top_k"),
        ({"files": {"file": ("a.mp4", DATA)}, "data": {"tasks": "dance"}}, "tasks[0]"),
        ({"files": {"file": ("a.mp4", b"")}}, "video"),
    ],
)
async def test_what_is_wrong_in_a_form_is_named(world: World, options: dict[str, Any], field: str) -> None:
    answer = await asked(world, **options)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["field"] == field


async def test_a_file_as_the_whole_body_is_refused(world: World) -> None:
    answer = await asked(world, content=DATA, headers={"content-type": "video/mp4"})
    assert answer.status_code == 415
    assert "video/mp4" in answer.json()["error"]["message"]


async def test_a_model_that_breaks_ends_the_stream_with_an_error(world: World) -> None:
    world.executors.executors["finder:1"].fail = InferenceFailed("the model broke")
    answer = await asked(world, {"tasks": ["detect"], "stream": True})
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    assert answer.status_code == 200
    assert [event["type"] for event in events] == ["video", "error"]
    assert events[-1]["error"]["code"] == "inference_failed"
    assert (await asked(world, {"tasks": ["detect"]})).status_code == 500


async def test_a_batch_may_hold_videos(world: World) -> None:
    clip = base64.b64encode(DATA).decode()
    items = [
        {"type": "video", "id": "a", "video": clip, "tasks": ["detect"], "sample": {"count": 2}},
        {"type": "video", "video": "AAAA"},
        {"type": "video", "video": clip, "stream": True},
        {"type": "video", "video": clip, "tasks": ["dance"]},
    ]
    async with world.client() as http:
        results = (await http.post("/inference/batch", json={"items": items})).json()["results"]
    assert [result["status"] for result in results] == ["succeeded", "failed", "failed", "failed"]
    assert results[0]["result"]["sampled"] == 2
    assert "no video that can be read" in results[1]["error"]["message"]
    assert results[2]["error"]["field"].endswith("stream")
    assert "it may be classify, detect, scenes" in results[3]["error"]["message"]


def test_the_manual_has_every_field_task_and_event() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api" / "inference.md").read_text()
    fields = {*wire.VideoRequest.__struct_fields__, *wire.Sample.__struct_fields__, *wire.VideoAnswer.__struct_fields__}
    for word in {*fields, *VIDEO_TASKS, "file", "progress", "expected", "frame", "result"} - {"latency_ms"}:
        assert re.search(rf"[`\"]{word}[`\"]", page), f"inference.md does not mention {word}"
