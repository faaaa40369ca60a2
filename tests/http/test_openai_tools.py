"""Tools, parts and reasoning in OpenAI's words: what they become, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from inference_engine.domain.requests import (
    MAX_TOOLS,
    AudioPart,
    Chat,
    ImagePart,
    Message,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.http.support import World

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA, "strict": True}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
ASK = {"role": "user", "content": "Oslo"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
PNG = "data:image/png;base64," + base64.b64encode(b"not really").decode()


async def ask(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/v1/chat/completions", json={"model": "actor", "messages": [ASK]} | fields)


def last(world: World) -> Chat:
    request = world.actor.requests[-1]
    assert isinstance(request, Chat)
    return request


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, ToolChoice()),
        ({"tool_choice": "none"}, ToolChoice("none")),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ToolChoice("required", None, False)),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, ToolChoice("required", "weather")),
    ],
)
async def test_tools_and_their_choice(
    world: World, http: httpx.AsyncClient, fields: dict[str, Any], choice: ToolChoice
) -> None:
    answer = await ask(http, tools=[TOOL], **fields)
    assert answer.status_code == 200, answer.text
    assert last(world).tools == (Tool("weather", "d", SCHEMA),)
    assert last(world).tool_choice == choice


async def test_a_tool_without_parameters_takes_none(world: World, http: httpx.AsyncClient) -> None:
    await ask(http, tools=[{"type": "function", "function": {"name": "now"}}])
    assert last(world).tools == (Tool("now", "", {"type": "object", "properties": {}}),)


async def test_calls_and_their_answers(world: World, http: httpx.AsyncClient) -> None:
    again = {**CALLED, "reasoning_content": "hm", "content": ""}
    messages = [ASK, CALLED, {"role": "tool", "tool_call_id": "c1", "content": "rain"}, ASK, again]
    messages += [
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sun"}], "name": "weather"}
    ]
    answer = await ask(http, messages=messages)
    assert answer.status_code == 200, answer.text
    call = ToolCall("c1", "weather", "{}")
    assert last(world).messages == (
        Message("user", "Oslo"),
        Message("assistant", "", None, (call,)),
        Message("tool", "rain", None, (), "c1"),
        Message("user", "Oslo"),
        Message("assistant", "", None, (call,), None, "hm"),
        Message("tool", "sun", "weather", (), "c1"),
    )


async def test_parts(world: World, http: httpx.AsyncClient) -> None:
    content = [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"wave").decode(), "format": "wav"}},
    ]
    answer = await ask(http, messages=[{"role": "user", "content": content}])
    assert answer.status_code == 200, answer.text
    assert last(world).messages[0].content == (
        TextPart("see"),
        ImagePart(b"not really", "image/png"),
        AudioPart(b"wave", "audio/wav"),
    )


async def test_a_model_without_eyes_refuses_images(http: httpx.AsyncClient) -> None:
    content = [{"type": "image_url", "image_url": {"url": PNG}}]
    answer = await ask(http, model="chatty", messages=[{"role": "user", "content": content}])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_task"


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high"])
async def test_reasoning(world: World, http: httpx.AsyncClient, effort: str) -> None:
    answer = (await ask(http, reasoning_effort=effort)).json()
    assert last(world).reasoning == effort
    message = answer["choices"][0]["message"]
    assert message.get("reasoning_content") == (None if effort == "none" else "Let me think.")


def of_tool(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


def of_user(part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


IMAGE = "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": of_tool(parameters={"type": "string"})}, "tools[0].function.parameters"),
        ({"tools": of_tool(surprise=1)}, "tools[0].function.surprise"),
        ({"tools": of_tool() * 2}, "tools"),
        ({"tools": of_tool() * (MAX_TOOLS + 1)}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": of_tool(), "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
        ({"tools": of_tool(), "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": of_tool(), "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        (
            {"tools": of_tool(), "tool_choice": "required", "response_format": {"type": "json_object"}},
            "tool_choice",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c1"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [CALLED, *[{"role": "tool", "content": "x", "tool_call_id": "c1"}] * 2]},
            "messages[2].tool_call_id",
        ),
        ({"messages": [{**ASK, "tool_call_id": "c1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**ASK, "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{**CALLED, "tool_calls": [CALL, CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{**CALLED, "tool_calls": [{"id": "c1"}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": of_user({"type": "image_url", "image_url": {"url": "http://a/b.png"}})}, IMAGE),
        ({"messages": of_user({"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}})}, IMAGE),
        ({"messages": of_user({"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ"}})}, IMAGE),
        ({"messages": of_user({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}})}, IMAGE),
        ({"messages": of_user({"type": "image_url", "image_url": {"url": "data:image/png,abc"}})}, IMAGE),
        ({"messages": of_user({"type": "image_url", "image_url": {"url": "data:text/html;base64,QUJD"}})}, IMAGE),
        ({"messages": of_user({"type": "image_url", "image_url": {}})}, IMAGE),
        (
            {"messages": of_user({"type": "input_audio", "input_audio": {"data": "QQ", "format": "wav"}})},
            "messages[0].content[0].input_audio.data",
        ),
        ({"messages": of_user({"type": "file", "file": {"file_id": "x"}})}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
async def test_refused_by_name(http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    answer = await ask(http, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 400
