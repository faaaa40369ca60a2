"""POST /inference/text and /inference/multimodal: whole and streamed, refused and combined."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from inference_engine.core.settings import Settings
from inference_engine.domain.errors import RunnerLost
from inference_engine.domain.model import ModelRef
from inference_engine.domain.requests import AudioPart, Chat, Complete, ImagePart, Sampling, TextPart
from inference_engine.testing import FakeExecutor, manifest
from tests.fixtures.tiny_vision import png
from tests.fixtures.videos import counted, video
from tests.http.image_models import PIXEL, add_image_models
from tests.http.support import World

TEXT, TOGETHER = "/inference/text", "/inference/multimodal"
IMAGE = {"type": "image", "data": PIXEL}
WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(20)
SOUND = {"type": "audio", "data": base64.b64encode(WAV).decode()}


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(Settings(default_model="chatty", sound_max_mb=0.01, image_max_count=3))
    add_image_models(made)
    made.repository.models.append(manifest("scribe", task="automatic-speech-recognition"))
    made.executors.executors["scribe:1"] = FakeExecutor(kinds=("transcribe",), words=(" one", " two"))
    await made.open()
    yield made
    await made.close()


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


# -- texts -----------------------------------------------------------------------------------------------------------


async def test_a_prompt_is_continued_and_messages_are_answered(http: httpx.AsyncClient, world: World) -> None:
    parameters = {"max_tokens": 2, "temperature": 0.5, "stop": "x", "repeat_penalty": 1.1, "seed": 3}
    answer = await http.post(TEXT, json={"prompt": "hi there", "parameters": parameters})
    body = answer.json()
    assert body.pop("latency_ms") > 0
    assert body == {
        "text": "Hello, ",
        "finish_reason": "length",
        "model": "chatty",
        "version": "1",
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    }
    assert answer.headers["x-model-version"] == "1"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert (await http.post(TEXT, json={"messages": messages})).json()["text"] == "Hello, world!"
    first, second = world.chatty.requests
    sampling = Sampling(max_tokens=2, temperature=0.5, stop=("x",), repeat_penalty=1.1, seed=3)
    assert first == Complete("hi there", sampling)
    assert isinstance(second, Chat)
    assert [(message.role, message.text) for message in second.messages] == [("system", "Be brief."), ("user", "hi")]


async def test_a_model_is_found_by_its_task_where_none_is_named() -> None:
    world = World()
    await world.open()
    async with world.client() as http:
        body = {"messages": [{"role": "user", "content": "x"}]}
        assert (await http.post(TEXT, json=body)).json()["model"] == "actor"
        await world.models.unload(ModelRef("actor", "1"))
        world.repository.models = []
        world.models.refresh()
        answer = await http.post(TEXT, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert "task: text-generation" in answer.json()["error"]["message"]
    await world.close()


async def test_a_text_is_streamed(http: httpx.AsyncClient) -> None:
    found = events(await http.post(TEXT, json={"prompt": "hi", "stream": True}))
    assert "".join(event["text"] for event in found[:-1]) == "Hello, world!"
    assert {event["type"] for event in found[:-1]} == {"text"}
    done = found[-1]
    assert (done["type"], done["finish_reason"], done["model"]) == ("done", "stop", "chatty")
    assert done["usage"]["completion_tokens"] == 4


async def test_thoughts_are_told_from_the_text(http: httpx.AsyncClient, world: World) -> None:
    world.repository.models.append(manifest("thinker", task="text-generation"))

    def thinks(_: Any) -> Any:
        from inference_engine.domain.results import ReasoningDelta, TextDelta

        return [ReasoningDelta("Hm."), TextDelta("Yes.")]

    world.executors.executors["thinker:1"] = FakeExecutor(kinds=("chat",), script=thinks)
    world.models.refresh()
    body = {"model": "thinker", "messages": [{"role": "user", "content": "x"}]}
    whole = (await http.post(TEXT, json=body)).json()
    assert (whole["text"], whole["reasoning"]) == ("Yes.", "Hm.")
    found = events(await http.post(TEXT, json={**body, "stream": True}))
    assert [event["type"] for event in found] == ["reasoning", "text", "done"]


async def test_a_failure_is_an_error_before_the_first_piece_and_the_last_event_after_it(
    http: httpx.AsyncClient, world: World
) -> None:
    world.fail_with(RunnerLost("try again"))
    for stream in (False, True):
        answer = await http.post(TEXT, json={"prompt": "x", "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "runner_lost")
    world.fail_with(RunnerLost("try again"), after=2)
    found = events(await http.post(TEXT, json={"prompt": "x", "stream": True}))
    assert [event["type"] for event in found] == ["text", "text", "error"]
    assert found[-1]["error"] == {"code": "runner_lost", "message": "try again", "field": None}
    world.chatty.fail = ZeroDivisionError("secret")
    found = events(await http.post(TEXT, json={"prompt": "x", "stream": True}))
    assert found[-1]["error"]["code"] == "internal_error"
    assert "secret" not in found[-1]["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        (TEXT, {}, 400, "prompt"),
        (TEXT, {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400, "prompt"),
        (TEXT, {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        (TEXT, {"prompt": "x", "tools": []}, 400, "tools"),
        (TEXT, {"prompt": "x", "parameters": {"best_of": 3}}, 400, "parameters.best_of"),
        (TEXT, {"prompt": "x", "parameters": {"temperature": 9}}, 400, "temperature"),
        (TEXT, {"prompt": "x", "parameters": {"max_tokens": 0}}, 400, "parameters.max_tokens"),
        (TEXT, {"prompt": "x", "model": "nobody"}, 404, "model"),
        (TEXT, {"prompt": "x", "model": "vectors"}, 400, "model"),
        (TOGETHER, {}, 400, "parts"),
        (TOGETHER, {"parts": []}, 400, "parts"),
        (TOGETHER, {"parts": [said("x")] * 65}, 400, "parts"),
        (TOGETHER, {"parts": [IMAGE] * 4}, 400, "parts"),
        (TOGETHER, {"parts": [{"type": "smell", "data": "x"}]}, 400, "parts[0].type"),
        (TOGETHER, {"parts": [said("x"), {"type": "image", "data": "https://x/y"}]}, 400, "parts[1].data"),
        (TOGETHER, {"parts": [said("x"), {**IMAGE, "data": SOUND["data"]}]}, 400, "parts[1]"),
        (TOGETHER, {"parts": [{**SOUND, "data": PIXEL}]}, 400, "parts[0]"),
        (TOGETHER, {"parts": [{**SOUND, "data": base64.b64encode(WAV + bytes(20_000)).decode()}]}, 400, "parts[0]"),
        (TOGETHER, {"parts": [said("x")], "mode": "magic"}, 400, "mode"),
        (TOGETHER, {"model": "chatty", "parts": [said("x"), IMAGE]}, 400, "parts[1]"),
        (TOGETHER, {"model": "seer", "parts": [SOUND]}, 400, "parts[0]"),
    ],
)
async def test_what_is_refused(http: httpx.AsyncClient, path: str, body: Any, status: int, field: str) -> None:
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text


async def test_fields_that_take_a_few_words_say_which(http: httpx.AsyncClient) -> None:
    for path, body, words in (
        (TEXT, {"messages": [{"role": "tool", "content": "x"}]}, "it may be system, user, assistant"),
        (TOGETHER, {"parts": [{"type": "smell", "data": "x"}]}, "it may be text, image, audio, video"),
        (TOGETHER, {"parts": [said("x")], "mode": "magic"}, "it may be direct, combine"),
        ("/inference/image", {"image": PIXEL, "tasks": "paint"}, "it may be classify, detect, describe, embed"),
    ):
        answer = await http.post(path, json=body)
        assert answer.json()["error"]["message"].endswith(words), answer.text
    form = await http.post("/inference/image", files={"file": b"x"}, data={"tasks": "paint"})
    assert form.json()["error"]["message"].endswith("it may be classify, detect, describe, embed")


# -- together --------------------------------------------------------------------------------------------------------


async def test_a_model_that_sees_gets_the_parts_as_they_are(http: httpx.AsyncClient, world: World) -> None:
    body = {"parts": [said("Look:"), IMAGE], "system": "Be brief.", "parameters": {"max_tokens": 2}}
    answer = (await http.post(TOGETHER, json=body)).json()
    assert (answer["model"], answer["text"], answer.get("context")) == ("seer", "A grey ", None)
    (asked,) = world.executors.executors["seer:1"].requests
    assert isinstance(asked, Chat)
    assert asked.messages[0].text == "Be brief."
    assert asked.messages[1].content == (TextPart("Look:"), ImagePart(base64.b64decode(PIXEL)))


async def test_a_model_that_hears_too_gets_everything(http: httpx.AsyncClient, world: World) -> None:
    for mode in ("direct", "combine"):
        body = {"model": "actor", "mode": mode, "parts": [SOUND, IMAGE, said("well?")]}
        answer = (await http.post(TOGETHER, json=body)).json()
        assert (answer["text"], answer.get("context")) == ("It is well?", None)
    asked = world.actor.requests[-1]
    assert isinstance(asked, Chat)
    assert [type(part) for part in asked.messages[0].content] == [AudioPart, ImagePart, TextPart]


async def test_what_a_model_does_not_take_is_told_to_it(http: httpx.AsyncClient, world: World) -> None:
    body = {"model": "chatty", "mode": "combine", "parts": [IMAGE, said("and"), SOUND, IMAGE, said("what?")]}
    answer = await http.post(TOGETHER, json=body)
    assert (answer.status_code, answer.json()["text"]) == (200, "Hello, world!")
    (asked,) = world.chatty.requests
    assert isinstance(asked, Chat)
    lines = asked.messages[0].text.split("\n")
    seen = (
        "Classified as: cat (0.75), dog (0.25),  (0.00). Objects in pixels: cat (0.75) at x 1 to 30, y 2 to 40; "
        'dog (0.25) at x 0 to 5, y 0 to 5. Description: "A grey dot."]'
    )
    assert lines == [f"[Image 1. {seen}", "and", '[Sound 1. It says: "one two"]', f"[Image 2. {seen}", "what?"]
    context = answer.json()["context"]
    assert [(one["part"], one["text"]) for one in context] == [(0, lines[0]), (2, lines[2]), (3, lines[3])]
    assert [helper["model"] for helper in context[0]["models"]] == ["sorter", "finder", "seer"]
    assert context[1]["models"] == [{"task": "transcribe", "model": "scribe", "version": "1"}]


async def test_a_video_is_watched_by_others(http: httpx.AsyncClient, world: World) -> None:
    film = {"type": "video", "data": base64.b64encode(video(counted(20))).decode()}
    answer = await http.post(TOGETHER, json={"model": "chatty", "mode": "combine", "parts": [film, said("what?")]})
    assert answer.status_code == 200, answer.text
    (asked,) = world.chatty.requests
    assert isinstance(asked, Chat)
    told, question = asked.messages[0].text.split("\n")
    scene = "Scene 1, 0.0 to 1.0 s: cat, 1 cat at once, 1 dog at once."
    assert told.startswith(f"[Video 1. 2.0 seconds. {scene} Scene 2, "), told
    assert told.endswith("Objects followed: cat 1 from 0.0 to 0.0 s; cat 2 from 1.0 to 1.0 s.]"), told
    assert question == "what?"
    assert {helper["task"] for helper in answer.json()["context"][0]["models"]} >= {"classify", "detect"}
    refused = await http.post(TOGETHER, json={"model": "seer", "parts": [film]})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "parts[0]")
    assert refused.json()["error"]["message"].endswith("told to this one as text")
    broken = {"type": "video", "data": base64.b64encode(b"no film").decode()}
    answer = await http.post(TOGETHER, json={"model": "chatty", "mode": "combine", "parts": [said("x"), broken]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "parts[1]"), answer.text
    many = await http.post(TOGETHER, json={"model": "chatty", "mode": "combine", "parts": [film] * 5})
    assert (many.status_code, many.json()["error"]["field"]) == (400, "parts")


async def test_a_model_that_sees_is_only_told_of_sounds(http: httpx.AsyncClient, world: World) -> None:
    answer = (await http.post(TOGETHER, json={"mode": "combine", "parts": [IMAGE, SOUND]})).json()
    assert (answer["model"], [one["part"] for one in answer["context"]]) == ("seer", [1])
    (asked,) = world.executors.executors["seer:1"].requests
    assert asked.messages[0].content[0] == ImagePart(base64.b64decode(PIXEL))


async def test_the_context_is_the_first_event(http: httpx.AsyncClient) -> None:
    body = {"model": "chatty", "mode": "combine", "stream": True, "parts": [SOUND]}
    found = events(await http.post(TOGETHER, json=body))
    assert [event["type"] for event in found] == ["context", *["text"] * 4, "done"]
    assert found[0]["context"][0]["text"] == '[Sound 1. It says: "one two"]'


async def test_a_part_that_breaks_is_named(http: httpx.AsyncClient) -> None:
    broken = {"type": "image", "data": base64.b64encode(png((1, 1, 1)) + b"broken").decode()}
    body = {"model": "chatty", "mode": "combine", "parts": [said("x"), broken]}
    answer = await http.post(TOGETHER, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "parts[1]")


async def test_nothing_to_combine_with() -> None:
    world = World()
    await world.open()
    async with world.client() as http:
        for part, task in ((IMAGE, "image-text-to-text"), (SOUND, "automatic-speech-recognition")):
            answer = await http.post(TOGETHER, json={"model": "chatty", "mode": "combine", "parts": [part]})
            assert (answer.status_code, answer.json()["error"]["field"]) == (404, "parts[0]")
            assert f"task: {task}" in answer.json()["error"]["message"]
    await world.close()


async def test_a_form(http: httpx.AsyncClient, world: World) -> None:
    data = {"text": "well?", "model": "actor", "parameters": '{"max_tokens": 9}', "system": "Be brief."}
    files = [("audio", ("a.wav", WAV)), ("image", ("a.png", base64.b64decode(PIXEL)))]
    answer = await http.post(TOGETHER, data=data, files=files)
    assert answer.json()["text"] == "It is well?"
    asked = world.actor.requests[-1]
    assert isinstance(asked, Chat)
    assert [type(part) for part in asked.messages[1].content] == [ImagePart, AudioPart, TextPart]
    assert asked.sampling.max_tokens == 9
    streamed = await http.post(TOGETHER, data={**data, "stream": "true"}, files=files)
    assert events(streamed)[-1]["type"] == "done"
    for more, field in (({"parameters": "{"}, None), ({"mode": "x"}, "mode"), ({"size": "1"}, "size")):
        answer = await http.post(TOGETHER, data={**data, **more}, files=files)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    answer = await http.post(TOGETHER, data=data, files=[("film", ("a", b"x"))])
    assert answer.json()["error"]["field"] == "film"
