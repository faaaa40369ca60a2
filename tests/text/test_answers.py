"""Answers with thoughts and tool calls: what the grammar allows, and what the reader makes of it, however it is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Chat, Complete, JsonSchema, Message, Regex, Sampling, Tool, ToolChoice
from inference_engine.domain.results import TextDelta, ToolCallDelta, Written
from inference_engine.infra.text.answers import AnswerForm, answer_form
from inference_engine.infra.text.tool_syntax import (
    HERMES,
    LLAMA,
    MISTRAL,
    ChatStyle,
    Thought,
    ToolSyntax,
    detect_style,
)
from tests.text.support import ADD, CALLS, SYNTAXES, THINK, TOOLS, cut, form_of, read, style_of, written

ASK = (Message("user", "x"),)
THOUGHTS = (None, THINK, Thought("[THINK]", "[/THINK]"))


@st.composite
def answers(draw: st.DrawFn) -> tuple[AnswerForm, str, tuple[str, str, list[tuple[str, str]]]]:
    """A form, an answer that fits it, and what is to be read from it."""
    syntax = draw(st.sampled_from(SYNTAXES))
    thought = draw(st.sampled_from(THOUGHTS))
    thinking = thought is not None and draw(st.booleans())
    form = form_of(style_of(syntax, thought), thinking=thinking)
    text, reasoning = "", ""
    if thought is not None and (thinking or draw(st.booleans())):
        reasoning = draw(st.sampled_from(["", "hm", "Is it < 5?\n\nYes <tool_call>, </thin.", "é <b> [/x"]))
        text += ("" if thinking else thought.open) + draw(st.sampled_from(["", "\n"])) + reasoning
        text += draw(st.sampled_from(["", "\n"])) + thought.close + draw(st.sampled_from(["", "\n\n"]))
    calls = draw(st.lists(st.sampled_from(CALLS), max_size=3 if syntax.several else 1))
    said = draw(st.sampled_from(["", "Let me look.", "a < b <tool {[TOOL_ <| x\n\ny"]))
    if calls and syntax.anchored:
        said = ""
    text += said
    if calls:
        text += draw(st.sampled_from(["", "\n"])) + written(syntax, calls)
    return form, text, (reasoning, said, calls)


@given(answers(), st.lists(st.integers(0, 400), max_size=30))
@settings(deadline=None, max_examples=150)
def test_any_cut_reads_the_same(
    case: tuple[AnswerForm, str, tuple[str, str, list[tuple[str, str]]]], places: list[int]
) -> None:
    form, text, expected = case
    assert form.language is not None
    assert form.language.allows(text)
    for pieces in ([text], list(text), cut(text, places)):
        reading = read(form, pieces)
        assert reading.result == expected
        assert reading.reader.reason("stop") == ("tool_calls" if expected[2] else "stop")
        assert reading.reader.reason("length") == "length"
        assert text.startswith(reading.raw)


@given(answers(), st.lists(st.integers(0, 400), max_size=30))
@settings(deadline=None, max_examples=60)
def test_a_continuation_reads_on_after_any_delta(
    case: tuple[AnswerForm, str, tuple[str, str, list[tuple[str, str]]]], places: list[int]
) -> None:
    form, text, _ = case
    assert form.language is not None
    whole = read(form, cut(text, places))
    for stop in range(len(whole.deltas)):
        before = [delta for deltas in whole.deltas[:stop] for delta in deltas]
        given_text = "".join(delta.raw or delta.text for delta in before)
        assert text.startswith(given_text)
        rest = form.language.after(given_text)
        assert rest.allows(text[len(given_text) :])
        places_left = [place - len(given_text) for place in places]
        later = read(form, cut(text[len(given_text) :], places_left), given=given_text)
        assert [*before, *later.flat] == whole.flat


NOISE = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "add"', ', "arguments": ', '{"a": "}"}',
         "}", "{", "[TOOL_CALLS]", "[", "]", "[ARGS]", "add", "<", "END", "EN", " ", "\n", "é", '"', "\\", ", "]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@given(
    st.sampled_from(SYNTAXES), st.sampled_from(THOUGHTS), st.booleans(), NOISE, st.lists(st.integers(0, 80), max_size=9)
)
@settings(deadline=None, max_examples=300)
def test_whatever_is_written_is_read_the_same_in_any_pieces(
    syntax: ToolSyntax, thought: Thought | None, thinking: bool, text: str, places: list[int]
) -> None:
    form = AnswerForm(None, thought, thinking and thought is not None, syntax, stop=("END", "\n\n"))
    whole = read(form, [text])
    for pieces in (list(text), cut(text, places)):
        reading = read(form, pieces)
        assert (reading.result, reading.reader.stopped) == (whole.result, whole.reader.stopped)
        assert text.startswith(reading.raw)
        assert reading.reader.reason("stop") == whole.reader.reason("stop")
    before: list[Written] = []
    for deltas in reading.deltas[: -2 if reading.reader.stopped else -1]:  # the last ones go out with the Done
        before += deltas
        given_text = "".join(delta.raw or delta.text for delta in before)
        later = read(form, cut(text[len(given_text) :], [1, 4]), given=given_text)
        assert whole.text == "".join(d.text for d in before if isinstance(d, TextDelta)) + later.text
        assert len([d for d in [*before, *later.flat] if isinstance(d, ToolCallDelta) and d.name]) == len(whole.calls)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_arguments_are_given_out_as_they_come_and_ids_stay_exact(syntax: ToolSyntax) -> None:
    text = written(syntax, CALLS[:1])
    reading = read(form_of(style_of(syntax)), list(text))
    assert len(reading.flat) > 20
    assert all(delta.tokens for delta in reading.flat)
    assert [token for delta in reading.flat for token in delta.tokens] == list(range(len(reading.raw)))
    assert reading.calls == [CALLS[0]]


def test_a_token_over_a_border_lends_its_ids_to_nobody_else() -> None:
    form = form_of(style_of(HERMES, THINK))
    reading = read(form, ["<think>", "a</think>b", "c"])
    assert reading.result == ("a", "bc", [])
    assert reading.raw == "<think>a</think>bc"
    assert [(delta.text, delta.raw, delta.tokens) for delta in reading.flat] == [
        ("", "<think>", (0,)),
        ("a", "", ()),
        ("b", "</think>b", ()),
        ("c", "", (17,)),
    ]


def test_stop_strings_end_the_text_but_not_thoughts_or_arguments() -> None:
    form = form_of(style_of(HERMES, THINK), stop=("END", "St"))
    text = '<think>END</think>Say\n<tool_call>{"name": "get_weather", "arguments": {"city": "END"}}</tool_call>'
    for pieces in ([text], list(text)):
        assert read(form, pieces).result == ("END", "Say", [("get_weather", '{"city": "END"}')])
    for pieces in (["one St", "op"], list("one Stop"), ["one ", "S", "t"]):
        reading = read(form, pieces)
        assert (reading.text, reading.reader.stopped, reading.reader.stop) == ("one ", True, "St")
        assert reading.reader.reason("length") == "stop"
    assert read(form, ["one S", "o"]).text == "one So"
    for pieces in ([text], list(text)):
        assert read(form_of(style_of(HERMES, THINK), stop=("o", "_", "\n<")), pieces).calls == [
            ("get_weather", '{"city": "END"}')
        ]
    blank = form_of(style_of(HERMES), stop=("\n",))
    for pieces in (["a\n"], ["a", "\n"], ["a\nb"]):
        reading = read(blank, pieces)
        assert (reading.text, reading.reader.reason("stop")) == ("a", "stop")
    assert read(AnswerForm(stop=("\n\n",)), ["a\n", "\nb"]).text == "a"


def test_what_is_cut_by_the_length_is_given_out_as_far_as_it_is_certain() -> None:
    form = form_of(style_of(HERMES))
    assert read(form, ["Hello <tool", "_ca"]).text == "Hello <tool_ca"
    reading = read(form, ['Hi <tool_call>{"name": "add", "arguments": {"a": 1'])
    assert reading.result == ("", "Hi", [("add", '{"a": 1')])
    assert reading.reader.reason("length") == "length"


def test_a_broken_call_is_read_as_text_from_where_it_breaks() -> None:
    form = AnswerForm(syntax=HERMES)
    assert read(form, ["<tool_call>nothing"]).result == ("", "nothing", [])
    assert read(form, ['<tool_call>{"name": "add", "arguments": 5}']).result == ("", "5}", [("add", "")])


def test_reasoning_tokens_are_counted() -> None:
    form = AnswerForm(thought=THINK, thinking=True)
    reading = read(form, ["so ", "it ", "is", "</think>", "\n\n", "Yes"])
    assert reading.result == ("so it is", "Yes", [])
    assert reading.reader.reasoning_tokens == 3


AUTO = form_of(style_of(HERMES))


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({}, ["", "hi", written(HERMES, CALLS)], ["<tool_call>hi", written(HERMES, CALLS) + " and more"]),
        ({"mode": "required"}, [written(HERMES, CALLS[:1]), written(HERMES, CALLS)], ["", "hi"]),
        (
            {"mode": "required", "name": "add"},
            [written(HERMES, [CALLS[2]])],
            ["hi", written(HERMES, [CALLS[0]]), written(HERMES, [CALLS[2], CALLS[0]])],
        ),
        ({"parallel": False}, ["hi", written(HERMES, CALLS[:1])], [written(HERMES, CALLS[:2])]),
        (
            {},
            [],
            [
                written(HERMES, [("add", '{"a": 1}')]),
                written(HERMES, [("add", '{"b": 1, "a": 2}')]),
                written(HERMES, [("get_weather", '{"city": "x", "unit": "K"}')]),
                written(HERMES, [("now", '{"x": 1}')]),
                written(HERMES, [("later", "{}")]),
            ],
        ),
    ],
)
def test_what_tool_choice_allows(options: dict[str, object], good: list[str], bad: list[str]) -> None:
    language = form_of(style_of(HERMES), **options).language
    assert language is not None
    assert [text for text in good if not language.allows(text)] == []
    assert [text for text in bad if language.allows(text)] == []


def test_no_tools_no_binding() -> None:
    request = Chat(ASK, tools=TOOLS, tool_choice=ToolChoice("none"))
    form = answer_form(request, ChatStyle())
    assert (form.language, form.syntax) == (None, None)
    assert read(form, ["<tool_call>x"]).text == "<tool_call>x"


def test_a_constraint_applies_after_the_thought_and_beside_calls() -> None:
    style = style_of(HERMES, THINK)
    bound = answer_form(Chat(ASK, constraint=Regex("a+")), style)
    assert bound.language is not None
    for text, fits in (("aa", True), ("<think>b</think>\n\naa", True), ("<think>b</think>b", False), ("b", False)):
        assert bound.language.allows(text) == fits
    assert read(bound, list("<think>b</think>\n\naa")).result == ("b", "aa", [])
    both = answer_form(Chat(ASK, tools=TOOLS, constraint=JsonSchema({"type": "string"})), style)
    call = written(HERMES, CALLS[:1])
    assert both.language is not None
    for text, fits in (('"x"', True), (call, True), ("x", False), (f'"x"{call}', False)):
        assert both.language.allows(text) == fits
    quoted = json.dumps(call)
    assert both.language.allows(quoted)
    assert read(both, list(quoted)).result == ("", quoted, [])
    assert read(both, list(call)).calls == [CALLS[0]]
    none = answer_form(Chat(ASK, constraint=Regex("a+"), reasoning="none"), style)
    assert none.language is not None
    assert not none.language.allows("<think>b</think>a")
    opened = answer_form(Chat(ASK, constraint=Regex("a+")), style, thinking=True)
    assert opened.language is not None
    assert opened.language.allows("b</think>a")
    assert not opened.language.allows("a")


def test_a_family_that_calls_without_a_mark_is_told_from_text_that_begins_alike() -> None:
    form = form_of(style_of(LLAMA))
    assert form.language is not None
    for text in ('{"nam": 1}', '{"a', "{", 'x {"name": 1'):
        assert form.language.allows(text)
        assert read(form, list(text)).text == text
    assert not form.language.allows('{"name": 1}')


def test_a_family_with_channels_is_read_by_them() -> None:
    style = detect_style("{% if tools %}<|channel|>analysis<|constrain|>{% endif %}")
    assert style.thought is not None
    form = form_of(style)
    assert form.language is not None
    thought = f"{style.thought.open}Hm.{style.thought.close}"
    call = written(style.syntax, CALLS[:1])
    answer = f"{style.thought.answer}  Yes: <|x|>"
    for text, expected in (
        (thought + call, ("Hm.", "", [CALLS[0]])),
        (call, ("", "", [CALLS[0]])),
        (thought + answer, ("Hm.", "  Yes: <|x|>", [])),
        (answer, ("", "  Yes: <|x|>", [])),
    ):
        assert form.language.allows(text)
        assert read(form, [text]).result == read(form, list(text)).result == expected
    assert not form.language.allows(thought + "Yes")
    assert {"<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|start|>"} < set(form.markers)
    bound = answer_form(Chat(ASK, constraint=Regex("a+")), style)
    assert bound.language is not None
    assert bound.language.allows(f"{thought}{style.thought.answer}aa")


def test_plain_completions_know_no_markup() -> None:
    form = answer_form(Complete("x", Sampling(stop=("!",))), style_of(MISTRAL, THINK))
    assert read(form, list("<think>a [TOOL_CALLS] b! c")).text == "<think>a [TOOL_CALLS] b"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"type": "string"}, "must be 'object'"),
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}}}, "no integer lies"),
        ({"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False}, "required names 'a'"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "'not' is not supported"),
        ({"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}}, "contradicts"),
    ],
)
def test_a_tool_that_cannot_be_called_is_refused(parameters: dict[str, object], message: str) -> None:
    request = Chat(ASK, tools=(ADD, Tool("bad", parameters=parameters)))
    with pytest.raises(InvalidRequest, match=message) as caught:
        answer_form(request, ChatStyle())
    assert caught.value.param == "tools"
    assert "'bad'" in caught.value.message
