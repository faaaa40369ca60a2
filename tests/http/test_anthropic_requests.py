"""What a request may hold in Anthropic's dialect, how it is understood, and what is refused with its place."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import httpx
import pytest

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Chat, ImagePart, TextPart
from inference_engine.domain.results import Done, ToolCallDelta, Usage
from inference_engine.testing import FakeExecutor
from tests.http.support import World

PATH = "/v1/messages"
PNG = b"\x89PNG\r\n\x1a\n rest"
USE: Any = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
RESULT: Any = {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}
TOOL: Any = {"name": "f", "input_schema": {"type": "object"}}


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def asking(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "chatty", "max_tokens": 2000, "messages": list(messages or [user(text("hi"))]), **fields}


def image(data: bytes | str = PNG, media_type: str = "image/png", **source: Any) -> dict[str, Any]:
    encoded = data if isinstance(data, str) else b64encode(data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": encoded} | source}


def document(**source: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": "Iris is a flower."} | source
    return {"type": "document", "source": source, "title": "Flowers", "context": "A book"}


async def understood(world: World, http: httpx.AsyncClient, body: dict[str, Any]) -> Chat:
    answer = await http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    request = world.chatty.requests[-1]
    assert isinstance(request, Chat)
    return request


async def test_turns_become_messages(world: World, http: httpx.AsyncClient) -> None:
    body = asking(
        user(text("one")),
        {"role": "user", "content": "two"},
        {"role": "system", "content": "Hurry."},
        user(text("go")),
        assistant({"type": "thinking", "thinking": "hm", "signature": "s"}, text("I "), text("call"), USE),
        user(RESULT, text("and now?")),
        system="Be brief.",
        tools=[TOOL],
    )
    request = await understood(world, http, body)
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "one\n\ntwo"),
        ("system", "Hurry."),
        ("user", "go"),
        ("assistant", "I call"),
        ("tool", "ok"),
        ("user", "and now?"),
    ]
    assert request.messages[4].reasoning == "hm"
    assert request.messages[4].tool_calls[0].arguments == "{}"


async def test_images_and_documents(world: World, http: httpx.AsyncClient) -> None:
    world.executors.executors["chatty:1"] = world.chatty = FakeExecutor(kinds=("chat",), media=("image",))
    seen = {"type": "tool_result", "tool_use_id": "t1", "content": [text("see"), image()], "is_error": True}
    body = asking(user(text("look"), image(), document()), assistant(USE), user(seen), tools=[TOOL])
    request = await understood(world, http, body)
    shown = "<document>\n<title>Flowers</title>\n<context>A book</context>\nIris is a flower.\n</document>"
    assert request.messages[0].content == (TextPart("look"), ImagePart(PNG, "image/png"), TextPart(shown))
    assert request.messages[2].content == (
        TextPart("The tool failed: "),
        TextPart("see"),
        ImagePart(PNG, "image/png"),
    )


async def test_an_image_for_a_model_that_takes_none(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json=asking(user(image())))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content")


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        (None, "none"),
        ({"type": "disabled"}, "none"),
        ({"type": "adaptive"}, None),
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 4096}, "medium"),
        ({"type": "enabled", "budget_tokens": 16000}, "high"),
    ],
)
async def test_thinking(world: World, http: httpx.AsyncClient, thinking: Any, effort: str | None) -> None:
    request = await understood(world, http, asking(max_tokens=32000, thinking=thinking))
    assert request.reasoning == effort


@pytest.mark.parametrize(
    "harmless",
    [
        {"cache_control": {"type": "ephemeral"}},
        {"metadata": {"user_id": "me"}},
        {"service_tier": "auto"},
        {"context_management": {"edits": []}},
        {"mcp_servers": []},
        {"tools": [{**TOOL, "type": "custom", "strict": True, "allowed_callers": ["direct"]}]},
        {"stop_sequences": []},
        {"diagnostics": {"previous_message_id": None}},
    ],
)
async def test_what_changes_nothing_is_taken(world: World, http: httpx.AsyncClient, harmless: dict[str, Any]) -> None:
    await understood(world, http, asking(**harmless))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"surprise": 1}, "surprise"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"system": [image()]}, "system[0].type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"name": "g"}]}, "tools[1].input_schema"),
        ({"tools": [{**TOOL, "input_schema": {"type": "string"}}]}, "tools[0].input_schema.type"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "surprise": 1}]}, "tools[0].surprise"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ],
)
async def test_fields_that_are_refused(http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    await refused(http, asking(**fields), param)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([assistant(text("hi"))], "messages[0].role"),
        ([user(text("hi")), assistant(text("Well"))], "messages[1]"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": ""}], "messages[0].content[0].text"),
        ([user()], "messages[0].content"),
        ([user({"text": "no type"})], "messages[0].content[0].type"),
        ([user({"type": "video"})], "messages[0].content[0].type"),
        ([user({"type": "server_tool_use", "id": "1"})], "messages[0].content[0].type"),
        ([user(text("a"), {"type": "text"})], "messages[0].content[1].text"),
        ([user({**text("a"), "surprise": 1})], "messages[0].content[0].surprise"),
        ([user(USE)], "messages[0].content[0].type"),
        ([user(text("a")), assistant(image()), user(text("b"))], "messages[1].content[0].type"),
        ([user(text("a")), assistant({"type": "redacted_thinking", "data": "x"})], "messages[1].content[0].type"),
        ([user(RESULT)], "messages[0].content[0].tool_use_id"),
        ([user(text("a")), assistant(USE), user(text("b"))], "messages[2]"),
        ([user(text("a")), assistant(USE), user(text("b"), RESULT)], "messages[2]"),
        ([user(text("a")), assistant(USE), user(RESULT, RESULT)], "messages[2].content[1].tool_use_id"),
        ([user(text("a")), assistant({**USE, "input": "x"}), user(RESULT)], "messages[1].content[0].input"),
        ([user(image("!!!"))], "messages[0].content[0].source.data"),
        ([user(image(b"GIF89a"))], "messages[0].content[0].source.data"),
        ([user(image(media_type="image/tiff"))], "messages[0].content[0].source.media_type"),
        ([user(image(type="url", url="http://x"))], "messages[0].content[0].source.type"),
        ([user({**image(), "transformations": {"oversized": "reject"}})], "messages[0].content[0].transformations"),
        ([user(document(type="base64", media_type="application/pdf"))], "messages[0].content[0].source.type"),
        ([user({**document(), "citations": {"enabled": True}})], "messages[0].content[0].citations"),
    ],
)
async def test_messages_that_are_refused(http: httpx.AsyncClient, messages: list[Any], param: str) -> None:
    await refused(http, asking(*messages, tools=[TOOL]), param)


async def refused(http: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    answer = await http.post(PATH, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error["message"]
    count = {name: value for name, value in body.items() if name in ("model", "messages", "system", "tools")}
    if param.startswith(("messages", "system")):
        counted = await http.post(PATH + "/count_tokens", json=count)
        assert (counted.status_code, counted.json()["error"]["param"]) == (400, param)


async def test_no_messages_and_no_model(http: httpx.AsyncClient) -> None:
    await refused(http, asking() | {"messages": []}, "messages")
    body = asking()
    del body["model"]
    await refused(http, body, "model")


async def test_one_path_two_dialects(http: httpx.AsyncClient) -> None:
    """Both lists of models live under one path: the header that Anthropic's clients send tells them apart."""
    theirs = (await http.get("/v1/models", headers={"anthropic-version": "2023-06-01"})).json()
    assert list(theirs) == ["data", "has_more", "first_id", "last_id"]
    assert (await http.get("/v1/models")).json()["object"] == "list"
    for headers, shape in (({"anthropic-version": "2023-06-01"}, ["type", "error", "request_id"]), ({}, ["error"])):
        assert list((await http.get("/v1/models/nobody", headers=headers)).json()) == shape


async def test_errors_on_the_way_have_the_dialects_shape(http: httpx.AsyncClient) -> None:
    for method, path, status in (("GET", PATH, 405), ("GET", PATH + "/batches", 404), ("POST", PATH, 400)):
        answer = await http.request(method, path, content=b"{")
        assert answer.status_code == status
        assert answer.json()["type"] == "error"
        assert answer.json()["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_arguments_that_are_no_object(world: World, http: httpx.AsyncClient) -> None:
    world.chatty.script = lambda _: [ToolCallDelta('{"a": [1', id="t", name="f"), Done("length", Usage(1, 1))]
    answer = await http.post(PATH, json=asking(tools=[TOOL]))
    assert answer.json()["content"] == [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]
    assert answer.json()["stop_reason"] == "max_tokens"
    world.chatty.script = lambda _: [ToolCallDelta('{"a": [1', id="t", name="f"), Done("tool_calls", Usage(1, 1))]
    answer = await http.post(PATH, json=asking(tools=[TOOL]))
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "api_error")


class Thoughtless(FakeExecutor):
    """A model that does not think, and says so."""

    async def _deltas(self, request: Any) -> Any:
        if request.reasoning not in (None, "none"):
            raise InvalidRequest("this model does not think: leave the effort out", param="reasoning")
        async for delta in super()._deltas(request):
            yield delta

    async def tokenize(self, request: Any) -> tuple[int, ...]:
        if request.reasoning not in (None, "none"):
            raise InvalidRequest("this model does not think: leave the effort out", param="reasoning")
        return (1,)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_does_not_think(world: World, http: httpx.AsyncClient, stream: bool) -> None:
    """Adaptive thinking leaves it to the model, which may not be able to; who insists is told."""
    world.executors.executors["chatty:1"] = world.chatty = Thoughtless(kinds=("chat",))
    able = asking(thinking={"type": "adaptive"}, output_config={"effort": "high"}, stream=stream)
    request = await understood(world, http, able)
    assert request.reasoning is None
    assert [each.reasoning for each in world.chatty.requests if isinstance(each, Chat)] == ["high", None]
    insisting = {"type": "enabled", "budget_tokens": 1024}
    answer = await http.post(PATH, json=asking(thinking=insisting, stream=stream))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "thinking")
    count = {"model": "chatty", "messages": able["messages"], "output_config": {"effort": "low"}}
    counted = [
        await http.post(PATH + "/count_tokens", json={**count, "thinking": thinking})
        for thinking in (able["thinking"], insisting)
    ]
    assert [answer.status_code for answer in counted] == [200, 400]


async def test_an_empty_answer_is_whole_too(world: World, http: httpx.AsyncClient) -> None:
    world.chatty.script = lambda _: [Done("stop", Usage(1, 0))]
    assert (await http.post(PATH, json=asking())).json()["content"] == []
    events = (await http.post(PATH, json=asking(stream=True))).text
    assert [line[7:] for line in events.split("\n") if line.startswith("event: ")] == [
        "message_start",
        "ping",
        "message_delta",
        "message_stop",
    ]
