"""What templates are given, and what is told from them."""

from __future__ import annotations

import json

import pytest

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Chat, Message, ToolCall, ToolChoice
from inference_engine.infra.text.prompting import finished_prompt, template_input
from inference_engine.infra.text.tool_syntax import (
    DEEPSEEK,
    DEEPSEEK_R1,
    GPT_OSS,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_CALL_ID,
    ChatStyle,
    ToolSyntax,
    detect_style,
)
from tests.text.support import THINK, TOOLS, style_of

CALL = ToolCall("call_1", "add", '{"a": 1, "b": 2}')
TALK = (
    Message("system", "Be brief."),
    Message("user", "1 + 2?"),
    Message("assistant", "", tool_calls=(CALL,), reasoning="I add."),
    Message("tool", "3", tool_call_id="call_1"),
    Message("tool", "three", tool_call_id="call_2"),
)


@pytest.mark.parametrize(
    ("template", "syntax", "renders"),
    [
        ("{% if tools %}<tool_call>{% endif %}", HERMES, True),
        ("{% for t in tools %}[TOOL_CALLS]{% endfor %}", MISTRAL, True),
        ("{% for t in tools %}[TOOL_CALLS]x[ARGS]{% endfor %}", MISTRAL_ARGS, True),
        ("{% for t in tools %}[TOOL_CALLS]x[CALL_ID]y[ARGS]{% endfor %}", MISTRAL_CALL_ID, True),
        ("{%- if tools is not none %}<|python_tag|>{% endif %}", LLAMA, True),
        ("{{ tools }}<｜tool▁calls▁begin｜>", DEEPSEEK, True),  # noqa: RUF001
        ("{{ tools }}<｜tool▁calls▁begin｜>```json", DEEPSEEK_R1, True),  # noqa: RUF001
        ("{% if tools %}<|channel|>commentary to=<|constrain|>{% endif %}", GPT_OSS, True),
        ("{{ tools }}<tool_call><function=x>", HERMES, False),
        ("{{ messages }}", HERMES, False),
        (None, HERMES, False),
    ],
)
def test_a_family_is_told_by_its_template(template: str | None, syntax: ToolSyntax, renders: bool) -> None:
    style = detect_style(template)
    assert (style.syntax, style.renders_tools) == (syntax, renders)


def test_thinking_is_told_by_the_template_and_steered_by_its_switches() -> None:
    style = detect_style("{% if enable_thinking is false %}<think>\n\n</think>{% endif %}")
    assert (style.thought, style.switches) == (THINK, {"enable_thinking"})
    ask = (Message("user", "x"),)
    assert template_input(Chat(ask), style).switches == {}
    assert template_input(Chat(ask, reasoning="none"), style).switches == {"enable_thinking": False}
    assert template_input(Chat(ask, reasoning="high"), style).switches == {"enable_thinking": True}
    by_effort = ChatStyle(switches=frozenset({"reasoning_effort"}))
    assert template_input(Chat(ask, reasoning="minimal"), by_effort).switches == {"reasoning_effort": "low"}
    with pytest.raises(InvalidRequest, match="does not think"):
        template_input(Chat(ask, reasoning="low"), ChatStyle())
    assert template_input(Chat(ask, reasoning="none"), ChatStyle()).switches == {}


def test_a_thought_that_the_template_opens_is_closed_where_none_is_wanted() -> None:
    style = style_of(HERMES, THINK)
    ask = (Message("user", "x"),)
    assert finished_prompt("a<think>\n", Chat(ask), style) == ("a<think>\n", True)
    assert finished_prompt("a<think>\n", Chat(ask, reasoning="none"), style) == ("a<think>\n\n</think>\n\n", False)
    assert finished_prompt("a", Chat(ask), style) == ("a", False)


def test_a_template_that_knows_tools_gets_them() -> None:
    given = template_input(Chat(TALK, tools=TOOLS), style_of(HERMES))
    assert [tool["function"]["name"] for tool in given.tools or ()] == ["get_weather", "add", "now"]
    assert given.messages[2] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I add.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
        ],
    }
    assert given.messages[3] == {"role": "tool", "content": "3", "tool_call_id": "call_1"}
    assert template_input(Chat(TALK, tools=TOOLS, tool_choice=ToolChoice("none")), style_of(HERMES)).tools is None
    short = template_input(Chat(TALK), style_of(MISTRAL)).messages
    assert short[2]["tool_calls"][0]["id"] == short[3]["tool_call_id"]
    assert len(short[3]["tool_call_id"]) == 9


def test_a_template_that_knows_no_tools_gets_them_in_words() -> None:
    given = template_input(Chat(TALK, tools=TOOLS), ChatStyle())
    assert given.tools is None
    assert [message["role"] for message in given.messages] == ["system", "user", "assistant", "user"]
    system = given.messages[0]["content"]
    assert system.startswith("Be brief.\n\n")
    described = system.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    assert [json.loads(line)["name"] for line in described] == ["get_weather", "add", "now"]
    assert given.messages[2]["content"] == ('<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>')
    assert given.messages[3]["content"].count("<tool_response>") == 2
    assert template_input(Chat((Message("user", "x"),)), ChatStyle()).messages == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("arguments", ["[1]", "{", "5"])
def test_past_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    message = Message("assistant", "", tool_calls=(ToolCall("1", "add", arguments),))
    for style in (ChatStyle(), style_of(HERMES)):
        with pytest.raises(InvalidRequest, match="past call of 'add'"):
            template_input(Chat((message,), tools=TOOLS), style)
