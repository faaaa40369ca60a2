"""Anthropic's client against the real server and the built-in model, and a runner that dies in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.conftest import LiveServer

ASK: Any = {
    "model": "guide:1",
    "max_tokens": 120,
    "messages": [{"role": "user", "content": "Explain the architecture"}],
    "extra_body": {"temperature": 0},
}


@pytest.fixture
def client(fragile: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=fragile.url, api_key="any", max_retries=0) as made:
        yield made


def test_tokens_are_counted_as_the_model_sees_them(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="guide:1", system="Be brief.", messages=ASK["messages"])
    usage = client.messages.create(**ASK, system="Be brief.").usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_the_kv_cache_shows_in_the_usage(client: anthropic.Anthropic) -> None:
    client.messages.create(**ASK)
    assert client.messages.create(**ASK).usage.cache_read_input_tokens


def test_the_stop_sequence_that_was_met(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**ASK).content[0].text
    word = whole.split()[4]
    message = client.messages.create(**ASK, stop_sequences=["never said", word])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", word)
    assert message.content[0].text == whole[: whole.index(word)]


def test_an_answer_that_fits_a_schema(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(**ASK, output_config=wanted)
    assert '"a"' in message.content[0].text


def test_a_prompt_that_does_not_fit(client: anthropic.Anthropic) -> None:
    asked = {**ASK, "messages": [{"role": "user", "content": "many words " * 4000}]}
    with pytest.raises(anthropic.BadRequestError, match="context"):
        client.messages.create(**asked)


@pytest.mark.parametrize("after", [1, 7, 30])
def test_a_killed_runner_does_not_change_the_answer(
    client: anthropic.Anthropic, fragile: LiveServer, after: int
) -> None:
    whole = client.messages.create(**ASK)
    with client.messages.stream(**ASK) as stream:
        for number, _ in enumerate(stream.text_stream, start=1):
            if number == after:
                os.kill(fragile.pid_of("guide"), signal.SIGKILL)
        final = stream.get_final_message()
    assert (final.content[0].text, final.stop_reason) == (whole.content[0].text, whole.stop_reason)


TOOL: Any = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"enum": ["the city of Rome in Italy", "the city of Paris in France"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 3},
        },
        "required": ["city", "days"],
    },
}
ACT: Any = {**ASK, "max_tokens": 800, "tools": [TOOL], "tool_choice": {"type": "any"}}


def test_a_tool_call_fits_its_schema(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ACT)
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert (call.type, call.name, set(call.input)) == ("tool_use", "get_weather", {"city", "days"})
    assert call.input["city"].startswith("the city of ")
    assert call.input["days"] in (1, 2, 3)


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_killed_runner_does_not_change_a_tool_call(
    client: anthropic.Anthropic, fragile: LiveServer, after: int
) -> None:
    whole = client.messages.create(**ACT).content[0].input
    with client.messages.stream(**ACT) as stream:
        pieces = 0
        for event in stream:
            if event.type == "input_json":
                pieces += 1
                if pieces == after:
                    os.kill(fragile.pid_of("guide"), signal.SIGKILL)
        final = stream.get_final_message()
    assert pieces >= after
    assert (final.content[0].input, final.stop_reason) == (whole, "tool_use")
