"""The official client against a live server: what it sends is understood, what it raises is right."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest

from inference_engine.core.settings import Settings
from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError
from inference_engine.domain.requests import Chat, JsonSchema
from inference_engine.domain.results import Delta, Done, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from tests.http.support import World, listening

Live = tuple[World, str]
HI: Any = [{"role": "user", "content": "hi there"}]
ASK: Any = {"model": "chatty", "max_tokens": 64, "messages": HI}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CLOCK: Any = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}
ACTING: list[Delta] = [
    ReasoningDelta("They ask "),
    ReasoningDelta("for weather."),
    TextDelta("\n\n"),
    TextDelta("I look it up."),
    ToolCallDelta("", call=0, id="toolu_1", name="get_weather"),
    ToolCallDelta('{"city": ', call=0),
    ToolCallDelta('"Rome"}', call=0),
    ToolCallDelta("{}", call=1, id="toolu_2", name="clock"),
    Done("tool_calls", Usage(30, 20, 10, 6)),
]


@pytest.fixture
def client(live: Live) -> Iterator[anthropic.Anthropic]:
    world, url = live
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as made:
        yield made
    world.chatty.fail = world.chatty.fail_after = None
    world.chatty.script = None


@pytest.fixture
async def async_client(live: Live) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=live[1], api_key="none", max_retries=0) as made:
        yield made


def test_a_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ASK, metadata={"user_id": "me"}, extra_body={"temperature": 0.5, "top_k": 5})
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "text", "text": "Hello, world!"}
    ]
    assert (message.role, message.model, message.stop_reason) == ("assistant", "chatty", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (2, 4)
    assert message.model_extra["served_by"]["version"] == "1"


def test_headers(client: anthropic.Anthropic) -> None:
    raw = client.messages.with_raw_response.create(**ASK)
    assert raw.headers["x-model-rule"] == "latest"
    assert raw.headers["request-id"] == raw.headers["x-request-id"] == raw.parse()._request_id


def test_streamed_events_in_their_order(client: anthropic.Anthropic) -> None:
    kinds = [event.type for event in client.messages.create(**ASK, stream=True)]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_the_stream_helper(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "Hello, world!"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 2, 4)


async def test_the_async_client(async_client: anthropic.AsyncAnthropic) -> None:
    message = await async_client.messages.create(**ASK)
    assert message.content[0].text == "Hello, world!"
    async with async_client.messages.stream(**ASK) as stream:
        assert "".join([text async for text in stream.text_stream]) == "Hello, world!"
    assert (await async_client.messages.count_tokens(model="chatty", messages=HI)).input_tokens == 2


def test_cut_by_max_tokens_and_by_a_stop_sequence(live: Live, client: anthropic.Anthropic) -> None:
    assert client.messages.create(**{**ASK, "max_tokens": 2}).stop_reason == "max_tokens"
    live[0].chatty.script = lambda _: [TextDelta("one "), Done("stop", Usage(1, 1), stop="two")]
    message = client.messages.create(**ASK, stop_sequences=["two", "three"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "two")
    assert live[0].chatty.requests[-1].sampling.stop == ("two", "three")
    with client.messages.stream(**ASK, stop_sequences=["two"]) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "two")


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_and_tools(live: Live, client: anthropic.Anthropic, streamed: bool) -> None:
    live[0].chatty.script = lambda _: ACTING
    asked = {**ASK, "max_tokens": 2048, "thinking": THINKING, "tools": [WEATHER, CLOCK]}
    if streamed:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    thinking, text, weather, clock = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", "They ask for weather.")
    assert thinking.signature.startswith("sha256:")
    assert text.text.strip() == "I look it up."
    assert (weather.type, weather.id, weather.name, weather.input) == (
        "tool_use",
        "toolu_1",
        "get_weather",
        {"city": "Rome"},
    )
    assert clock.input == {}
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (20, 10, 20)
    assert usage.output_tokens_details.thinking_tokens == 6


def test_what_comes_when(live: Live, client: anthropic.Anthropic) -> None:
    """Every kind of event, in the exact order, with the indexes of the blocks."""
    live[0].chatty.script = lambda _: ACTING
    events = client.messages.create(
        **{**ASK, "max_tokens": 2048}, thinking=THINKING, tools=[WEATHER, CLOCK], stream=True
    )
    seen = []
    for event in events:
        more = getattr(event, "delta", None) or getattr(event, "content_block", None)
        seen.append((event.type.removeprefix("content_"), getattr(event, "index", None), getattr(more, "type", None)))
    assert seen == [
        ("message_start", None, None),
        ("block_start", 0, "thinking"),
        ("block_delta", 0, "thinking_delta"),
        ("block_delta", 0, "thinking_delta"),
        ("block_delta", 0, "signature_delta"),
        ("block_stop", 0, None),
        ("block_start", 1, "text"),
        ("block_delta", 1, "text_delta"),
        ("block_stop", 1, None),
        ("block_start", 2, "tool_use"),
        ("block_delta", 2, "input_json_delta"),
        ("block_delta", 2, "input_json_delta"),
        ("block_stop", 2, None),
        ("block_start", 3, "tool_use"),
        ("block_delta", 3, "input_json_delta"),
        ("block_stop", 3, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]


def test_thoughts_nobody_asked_for_are_not_shown(live: Live, client: anthropic.Anthropic) -> None:
    live[0].chatty.script = lambda _: ACTING
    assert [block.type for block in client.messages.create(**ASK).content] == ["text", "tool_use", "tool_use"]
    request = live[0].chatty.requests[-1]
    assert isinstance(request, Chat)
    assert request.reasoning == "none"
    omitted = {**ASK, "max_tokens": 2048, "thinking": {**THINKING, "display": "omitted"}}
    for message in (client.messages.create(**omitted), _final(client, omitted)):
        assert (message.content[0].type, message.content[0].thinking) == ("thinking", "")
        assert message.content[0].signature


def _final(client: anthropic.Anthropic, asked: Any) -> Any:
    with client.messages.stream(**asked) as stream:
        return stream.get_final_message()


def test_the_loop_of_an_agent(live: Live, client: anthropic.Anthropic) -> None:
    """The answer goes back as it came, the tools' results with it; the model sees both."""
    live[0].chatty.script = lambda _: ACTING
    tools = {"tools": [WEATHER, CLOCK], "thinking": THINKING, "max_tokens": 2048}
    first = client.messages.create(**{**ASK, **tools})
    results: Any = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no clock", "is_error": True},
    ]
    live[0].chatty.script = None
    again = [*HI, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    last = client.messages.create(**{**ASK, **tools, "messages": again})
    assert last.content[0].text == "Hello, world!"
    request = live[0].chatty.requests[-1]
    assert isinstance(request, Chat)
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "tool"]
    acted, sunny, failed = request.messages[1:]
    assert acted.reasoning == "They ask for weather."
    assert [(call.id, call.name, json.loads(call.arguments)) for call in acted.tool_calls] == [
        ("toolu_1", "get_weather", {"city": "Rome"}),
        ("toolu_2", "clock", {}),
    ]
    assert (sunny.tool_call_id, sunny.content) == ("toolu_1", "sunny")
    assert failed.content == "The tool failed: no clock"


def test_the_tool_runner(live: Live, client: anthropic.Anthropic) -> None:
    """The client's own agent loop: it calls the function and sends the result back."""
    cities: list[str] = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        live[0].chatty.script = None
        return "sunny"

    live[0].chatty.script = lambda _: [*ACTING[:7], Done("tool_calls", Usage(3, 3))]
    runner = client.beta.messages.tool_runner(model="chatty", max_tokens=100, tools=[get_weather], messages=HI)
    assert runner.until_done().content[0].text == "Hello, world!"
    assert cities == ["Rome"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ("auto", None, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", None, False)),
        ({"type": "tool", "name": "clock"}, ("required", "clock", True)),
        ({"type": "none"}, ("none", None, True)),
    ],
)
def test_tool_choice(live: Live, client: anthropic.Anthropic, choice: Any, expected: tuple[Any, ...]) -> None:
    client.messages.create(**ASK, tools=[WEATHER, CLOCK], tool_choice=choice)
    request = live[0].chatty.requests[-1]
    assert isinstance(request, Chat)
    found = request.tool_choice
    assert (found.mode, found.name, found.parallel) == expected
    assert request.tools[0].parameters == WEATHER["input_schema"]


def test_structured_output(live: Live, client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    live[0].chatty.script = lambda _: [TextDelta('{"a": 1}'), Done("stop", Usage(1, 1))]
    client.messages.create(**ASK, output_config={"format": {"type": "json_schema", "schema": schema}})
    request = live[0].chatty.requests[-1]
    assert isinstance(request, Chat)
    assert request.constraint == JsonSchema(schema)


def test_models_by_pages(client: anthropic.Anthropic) -> None:
    everything = [model.id for model in client.models.list(limit=100)]
    assert {"chatty", "chatty:1", "echo", "echo:2"} <= set(everything)
    assert [model.id for model in client.models.list(limit=7)] == everything
    before = client.models.list(limit=2, before_id=everything[5])
    assert ([model.id for model in before.data], before.has_more) == (everything[3:5], True)
    assert client.models.retrieve("echo").display_name == "The echo fake"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nobody")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        client.models.list(limit=0)


@pytest.mark.parametrize(
    ("error", "raised", "kind"),
    [
        (errors.ContextLengthExceeded("too long"), anthropic.BadRequestError, "invalid_request_error"),
        (errors.Unauthenticated("who?"), anthropic.AuthenticationError, "authentication_error"),
        (errors.Forbidden("no"), anthropic.PermissionDeniedError, "permission_error"),
        (errors.QueueFull("later"), anthropic.RateLimitError, "rate_limit_error"),
        (errors.InferenceFailed("broken"), anthropic.InternalServerError, "api_error"),
        (errors.ModelNotReady("later"), anthropic.InternalServerError, "overloaded_error"),
        (errors.DeadlineExceeded("late"), anthropic.InternalServerError, "timeout_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_error_classes(
    live: Live,
    client: anthropic.Anthropic,
    error: EngineError,
    raised: type[anthropic.APIStatusError],
    kind: str,
    stream: bool,
) -> None:
    live[0].fail_with(error)
    with pytest.raises(raised) as caught:
        client.messages.create(**ASK, stream=stream)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"], body["error"]["message"]) == ("error", kind, error.message)
    assert body["request_id"] == caught.value.request_id


def test_an_unknown_model(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.messages.create(**{**ASK, "model": "nobody"})
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        client.messages.count_tokens(model="nobody", messages=HI)


def test_an_error_in_mid_stream_is_raised(live: Live, client: anthropic.Anthropic) -> None:
    live[0].fail_with(errors.RunnerLost("the runner is gone"), after=2)
    heard = ""
    with pytest.raises(anthropic.APIStatusError, match="the runner is gone"), client.messages.stream(**ASK) as stream:
        for text in stream.text_stream:
            heard += text
    assert heard == "Hello, "


def test_keys_come_as_the_client_sends_them() -> None:
    with listening(World(Settings(api_keys=("first-secret",)))) as url:
        for key in ({"api_key": "first-secret"}, {"auth_token": "first-secret"}):
            with anthropic.Anthropic(base_url=url, max_retries=0, **key) as client:
                assert client.messages.create(**ASK).stop_reason == "end_turn"
        with (
            anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0) as client,
            pytest.raises(anthropic.AuthenticationError) as caught,
        ):
            client.messages.create(**ASK)
        assert caught.value.body["error"]["type"] == "authentication_error"


def test_a_coding_agent(live: Live, client: anthropic.Anthropic) -> None:
    """Requests as Anthropic's own coding agent makes them: large cached system blocks, many tools, betas."""
    rules = "You are an agent. " * 2000
    tools = [
        {**WEATHER, "name": f"mcp__server__tool_{number}", "cache_control": {"type": "ephemeral"}}
        for number in range(60)
    ]
    cached: Any = {"type": "ephemeral", "ttl": "1h"}
    before = _agent_request(live, client, rules, tools, cached, "cch=1")
    after = _agent_request(live, client, rules, tools, cached, "cch=2")
    assert before == after, "accounting data must not change the prompt, or its prefix is computed anew each time"
    assert before.messages[0].content == rules + "\n\nBe brief."
    assert before.messages[1].content == "<reminder>\n\nFix it."
    assert (before.messages[2].role, before.messages[2].content) == ("system", "The folder is empty.")
    assert len(before.tools) == 60


def _agent_request(
    live: Live, client: anthropic.Anthropic, rules: str, tools: Any, cached: Any, accounting: str
) -> Chat:
    system: Any = [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; {accounting};"},
        {"type": "text", "text": rules, "cache_control": cached},
        {"type": "text", "text": "Be brief.", "cache_control": cached},
    ]
    content = [
        {"type": "text", "text": "<reminder>"},
        {"type": "text", "text": "Fix it.", "cache_control": cached},
    ]
    with client.beta.messages.stream(
        model="chatty",
        max_tokens=32000,
        system=system,
        messages=[{"role": "user", "content": content}, {"role": "system", "content": "The folder is empty."}],
        tools=tools,
        metadata={"user_id": "u"},
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        betas=["claude-code-20250219", "interleaved-thinking-2025-05-14"],
    ) as stream:
        assert stream.get_final_message().stop_reason == "end_turn"
    request = live[0].chatty.requests[-1]
    assert isinstance(request, Chat)
    assert request.reasoning == "high"
    return request
