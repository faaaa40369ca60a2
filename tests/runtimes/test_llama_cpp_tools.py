"""Tools, thoughts, bound answers and prompts other than text, in llama_cpp. The weights are random: all is by force."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference_engine.domain.errors import InvalidRequest, UnsupportedTask
from inference_engine.domain.requests import (
    Chat,
    Complete,
    Constraint,
    Grammar,
    JsonSchema,
    Message,
    Regex,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
)
from inference_engine.domain.results import Delivered, Delta, Done, ReasoningDelta, ToolCallDelta
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_gguf import CHATML, SPECIALS, Size, tiny_gguf
from tests.fixtures.tools_template import TOOLS_SPECIALS, TOOLS_TEMPLATE
from tests.runtimes.conftest import answer, llama_manifest

ASK = (Message("user", "What is the weather in Rome, and what is 2 + 3?"),)
WEATHER = Tool(
    "get_weather",
    "The weather.",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
    },
)
ADD = Tool("add", "A sum.", {"type": "object", "properties": {"a": {"enum": [1, 2, 3]}}, "required": ["a"]})
TOOLS = (WEATHER, ADD)
REQUIRED = ToolChoice("required")
GREEDY = Sampling(max_tokens=100, temperature=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppRuntime]:
    folder = tmp_path_factory.mktemp("tools")
    tiny_gguf(folder / "model.gguf", Size(context=2048), template=TOOLS_TEMPLATE, specials=TOOLS_SPECIALS)
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest(), folder)
    yield runtime
    runtime.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppRuntime]:
    """A model whose template knows no tools."""
    folder = tmp_path_factory.mktemp("plain")
    tiny_gguf(folder / "model.gguf", Size(context=2048), template=CHATML)
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest(), folder)
    yield runtime
    runtime.close()


def calls_of(deltas: Sequence[Delta]) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            if delta.call == len(calls):
                assert delta.id.startswith("call_")
                calls.append((delta.name, ""))
            calls[delta.call] = (calls[delta.call][0], calls[delta.call][1] + delta.text)
    return [(name, json.loads(arguments)) for name, arguments in calls]


def noted(deltas: Sequence[Delta]) -> Delivered:
    """What an executor notes of these deltas."""
    kept = [delta for delta in deltas if not isinstance(delta, Done)]
    raws = [delta.raw or delta.text for delta in kept]
    thought = sum(len(delta.tokens) or 1 for delta in kept if isinstance(delta, ReasoningDelta))
    return Delivered("".join(raws), tuple(d.tokens or raw for d, raw in zip(kept, raws, strict=True)), thought)


def check(name: str, arguments: dict[str, Any]) -> None:
    if name == "add":
        assert arguments["a"] in (1, 2, 3)
    else:
        assert name == "get_weather"
        assert arguments["city"] in ("Rome", "Oslo")
        assert 1 <= arguments["days"] <= 9


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("which", ["model", "plain"])
def test_a_demanded_call_fits_its_schema_whatever_the_weights(
    which: str, seed: int, request: pytest.FixtureRequest
) -> None:
    runtime: LlamaCppRuntime = request.getfixturevalue(which)
    sampling = Sampling(max_tokens=400, temperature=1.5, seed=seed)
    choice = ToolChoice("required", parallel=False)
    sink = answer(runtime, Chat(ASK, sampling, tools=TOOLS, tool_choice=choice, reasoning="none"))
    ((name, arguments),) = calls_of(sink.deltas)
    check(name, arguments)
    assert sink.done.reason == "tool_calls"
    assert not sink.text


def test_a_named_tool_is_the_one_that_is_called(model: LlamaCppRuntime) -> None:
    sink = answer(
        model, Chat(ASK, GREEDY, tools=TOOLS, tool_choice=ToolChoice("required", "add", False), reasoning="none")
    )
    assert [name for name, _ in calls_of(sink.deltas)] == ["add"]


CUTS = {
    "calls": Chat(ASK, GREEDY, tools=TOOLS, tool_choice=REQUIRED, reasoning="none"),
    "thought and calls": Chat(ASK, Sampling(max_tokens=120, temperature=0, logprobs=1), tools=TOOLS),
    "auto": Chat(ASK, Sampling(max_tokens=80, temperature=0), tools=TOOLS, reasoning="none"),
    "regex": Chat(ASK, GREEDY, constraint=Regex("[a-z]{3,12}-[0-9]+!"), reasoning="none"),
    "gbnf": Complete("x", GREEDY, constraint=Grammar('root ::= (a ",")* "."\na ::= [a-f]{2,4} | "é"')),
    "stop": Chat(ASK, Sampling(max_tokens=80, temperature=0, stop=("e",)), tools=TOOLS),
}


@pytest.mark.parametrize("name", CUTS)
def test_an_answer_cut_anywhere_continues_exactly(model: LlamaCppRuntime, name: str) -> None:
    request = CUTS[name]
    whole = answer(model, request)
    groups = whole.deltas[:-1]
    for cut in [0, 1, 2, *range(3, len(groups), 5), len(groups)]:
        rest = answer(model, request, noted(groups[:cut]))
        assert flat(rest.deltas) == flat(whole.deltas[cut:])
        assert rest.done.reason == whole.done.reason
        assert rest.done.usage.completion_tokens == whole.done.usage.completion_tokens
        assert rest.done.usage.reasoning_tokens == whole.done.usage.reasoning_tokens


def flat(deltas: Sequence[Delta]) -> list[tuple[str, ...]]:
    """What was written, without ids of calls, which are drawn anew."""
    return [(type(d).__name__, d.text, d.raw, str(d.tokens)) for d in deltas if not isinstance(d, Done)]


def test_token_ids_of_calls_are_exact(model: LlamaCppRuntime) -> None:
    sink = answer(model, CUTS["calls"])
    ids = [token for delta in sink.deltas if not isinstance(delta, Done) for token in delta.tokens]
    special = model._http.split("<tool_call>", add_special=False, parse_special=True)
    assert len(special) == 1
    raw = "".join(delta.raw or delta.text for delta in sink.deltas if not isinstance(delta, Done))
    assert special[0] in ids or raw.startswith("<tool_call>")
    assert all(delta.tokens for delta in sink.deltas if not isinstance(delta, Done))


def test_a_thought_is_told_from_the_answer_and_counted(model: LlamaCppRuntime) -> None:
    bias = dict.fromkeys(model._http.split("<think>", add_special=False, parse_special=True), 100.0)
    request = Chat(ASK, Sampling(max_tokens=12, temperature=0, logit_bias=bias), tools=TOOLS)
    sink = answer(model, request)
    assert any(isinstance(delta, ReasoningDelta) for delta in sink.deltas)
    assert sink.done.usage.reasoning_tokens > 0
    assert not sink.text


def test_messages_of_an_agent_loop_are_rendered(model: LlamaCppRuntime, plain: LlamaCppRuntime) -> None:
    messages = (
        *ASK,
        Message("assistant", "", tool_calls=(ToolCall("call_1", "add", '{"a": 2}'),), reasoning="Add."),
        Message("tool", "5", tool_call_id="call_1"),
    )
    request = Chat(messages, GREEDY, tools=TOOLS)
    prompt = model._prompt(request).content
    for part in ('{"name": "add", "arguments": {"a": 2}}', "<tool_response>\n5\n", "Add.", '"get_weather"'):
        assert part in prompt
    prompt = plain._prompt(request).content
    for part in ('{"name": "add", "arguments": {"a": 2}}', "<tool_response>\n5\n", '"get_weather"', "<tool_call>"):
        assert part in prompt
    without = model._prompt(Chat(messages, GREEDY, tools=TOOLS, tool_choice=ToolChoice("none"))).content
    assert '"get_weather"' not in without


def test_effort_steers_the_template(model: LlamaCppRuntime, plain: LlamaCppRuntime) -> None:
    assert str(model._prompt(Chat(ASK, reasoning="none")).content).endswith("<think>\n\n</think>\n\n")
    assert str(model._prompt(Chat(ASK, reasoning="high")).content).endswith("assistant\n")
    with pytest.raises(InvalidRequest, match="does not think"):
        plain._prompt(Chat(ASK, reasoning="low"))


@pytest.mark.parametrize(
    "constraint", [Regex("(yes|no)( really)?"), Grammar('root ::= ("ab" | "c")+ "."'), JsonSchema({"enum": [1, "x"]})]
)
def test_bound_answers_fit(model: LlamaCppRuntime, constraint: Constraint) -> None:
    from inference_engine.infra.text.constraints import compile_constraint

    language = compile_constraint(constraint)
    for seed in range(4):
        sampling = Sampling(max_tokens=300, temperature=1.2, seed=seed)
        sink = answer(model, Chat(ASK, sampling, constraint=constraint, reasoning="none"))
        if sink.done.reason == "stop":
            assert language.allows(sink.text)
        else:
            language.after(sink.text)


@pytest.mark.parametrize(
    "constraint",
    [Grammar('root ::= root "a"'), Grammar("root ::= (((("), Grammar("root ::= missing"), Regex("(?=x)"), Regex("(")],
)
def test_a_grammar_that_would_crash_never_reaches_the_library(model: LlamaCppRuntime, constraint: Constraint) -> None:
    with pytest.raises(InvalidRequest, match="cannot be used") as caught:
        answer(model, Complete("x", GREEDY, constraint=constraint))
    assert caught.value.param == "response_format"
    assert answer(model, Complete("x", Sampling(max_tokens=1))).done.usage.completion_tokens == 1


@pytest.mark.parametrize(
    "grammar", ['root ::= (("a"?)*)*  "b"', 'root ::= ("a"* | ("b"* "c"?)*)* "."', 'root ::= x*\nx ::= "" | "q" x']
)
def test_grammars_that_loop_elsewhere_are_answered(model: LlamaCppRuntime, grammar: str) -> None:
    sink = answer(model, Complete("x", Sampling(max_tokens=20, temperature=0), constraint=Grammar(grammar)))
    assert sink.done.usage.completion_tokens <= 20


def test_token_ids_are_a_prompt(model: LlamaCppRuntime) -> None:
    ids = model.tokenize(Complete("The server"))
    by_ids = answer(model, Complete(ids, GREEDY))
    assert by_ids.text == answer(model, Complete("The server", GREEDY)).text
    assert by_ids.done.usage.prompt_tokens == len(ids)
    assert model.tokenize(Complete(ids)) == ids
    request = Complete(ids, Sampling(max_tokens=3, temperature=0), echo=True)
    echoed = answer(model, request)
    assert echoed.text.startswith("The server")
    for cut in range(1, len(echoed.texts)):
        assert answer(model, request, noted(echoed.texts[:cut])).texts == echoed.texts[cut:]
    with pytest.raises(InvalidRequest, match="names token 512"):
        answer(model, Complete((1, 512)))
    with pytest.raises(InvalidRequest, match="holds no tokens"):
        answer(model, Complete(()))


def test_a_suffix_puts_the_answer_into_a_gap(model: LlamaCppRuntime, plain: LlamaCppRuntime) -> None:
    before, after, middle = (
        model._http.split(f"<|fim_{name}|>", add_special=False, parse_special=True)[0]
        for name in ("prefix", "suffix", "middle")
    )
    request = Complete("def f(", Sampling(max_tokens=5, temperature=0), suffix="return 1", echo=True)
    ids = model.tokenize(request)
    parts = (before, *model.token_ids("def f("), after, *model.token_ids("return 1"), middle)
    assert ids == parts
    assert answer(model, request).text.startswith("def f(")
    with pytest.raises(UnsupportedTask, match="leave suffix out") as caught:
        plain.tokenize(request)
    assert caught.value.param == "suffix"


def test_rarer_sampling_values_reach_the_library(model: LlamaCppRuntime) -> None:
    def text(**values: Any) -> str:
        sampling = Sampling(max_tokens=60, temperature=0.0, **values)
        return answer(model, Complete("abc abc abc abc", sampling)).text

    near = text(repeat_penalty=1.8, repeat_last_n=1)
    far = text(repeat_penalty=1.8, repeat_last_n=-1)
    assert near != far
    hot = [
        answer(model, Complete("a", Sampling(max_tokens=30, temperature=3.0, seed=1, typical_p=value, top_k=0))).text
        for value in (0.05, 1.0)
    ]
    assert hot[0] != hot[1]


def test_stop_strings_leave_arguments_alone(model: LlamaCppRuntime) -> None:
    sampling = Sampling(max_tokens=200, temperature=0, stop=("o", "i"))
    sink = answer(
        model,
        Chat(ASK, sampling, tools=TOOLS, tool_choice=ToolChoice("required", "get_weather", False), reasoning="none"),
    )
    assert sink.done.reason == "tool_calls"
    ((_, arguments),) = calls_of(sink.deltas)
    check("get_weather", arguments)


@pytest.mark.parametrize("parameters", [{"type": "array"}, {"type": "object", "properties": {"a": {"not": {}}}}])
def test_a_tool_that_cannot_be_called_is_refused(model: LlamaCppRuntime, parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="'broken'") as caught:
        answer(model, Chat(ASK, GREEDY, tools=(Tool("broken", parameters=parameters),)))
    assert caught.value.param == "tools"


FAMILIES = {
    "llama": (
        "{% for m in messages %}{{ m.role }}: {% if m.tool_calls %}{% if m.tool_calls | length > 1 %}"
        "{{ raise_exception('one call at a time') }}{% endif %}{% set call = m.tool_calls[0].function %}"
        '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}'
        "{% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"
        "{% if tools %}{{ tools | tojson }} or <|python_tag|>{% endif %}assistant:"
    ),
    "mistral": (
        "{% for m in messages %}{% if m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}"
        "{% if call.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}"
        "{{ call.function | tojson }}{{ call.id }}{% endfor %}]{% elif m.role == 'tool' %}"
        "{% if m.tool_call_id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}[R]{{ m.content }}[/R]"
        "{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    ),
    "hermes": (
        "{% for m in messages %}{% if m.role == 'tool' or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('users and assistants take turns') }}{% endif %}"
        "{{ m.role }}: {{ m.content }}\n{% endfor %}model:"
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_rendered_and_called(family: str, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "model.gguf", Size(context=2048), template=FAMILIES[family])
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest(), tmp_path)
    assert str(loaded.details["tool_calls"]).startswith(family)
    call, result = ToolCall("call_1", "add", '{"a": 2}'), Message("tool", "five", tool_call_id="call_1")
    messages = (*ASK, Message("assistant", "", tool_calls=(call,)), result)
    prompt = str(runtime._prompt(Chat(messages, GREEDY, tools=TOOLS)).content)
    for part in ('"add"', '{"a": 2}', "five", "get_weather"):
        assert part in prompt
    sampling = Sampling(max_tokens=300, temperature=1.0, seed=5)
    choice = ToolChoice("required", parallel=False)
    sink = answer(runtime, Chat(messages, sampling, tools=TOOLS, tool_choice=choice))
    ((name, arguments),) = calls_of(sink.deltas)
    check(name, arguments)
    if family == "llama":
        two = (*ASK, Message("assistant", "", tool_calls=(call, call)), result)
        with pytest.raises(InvalidRequest, match="one call at a time"):
            runtime._prompt(Chat(two, GREEDY, tools=TOOLS))
    runtime.close()


def test_channels_of_control_tokens_are_read(tmp_path: Path) -> None:
    tokens = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>")
    template = (
        "{% if tools %}{{ tools | tojson }} in <|channel|>commentary to= <|constrain|>json{% endif %}"
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
    )
    tiny_gguf(tmp_path / "model.gguf", Size(context=2048), template=template, specials=(*SPECIALS, *tokens))
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest(), tmp_path)
    end = runtime._http.split("<|end|>", add_special=False, parse_special=True)[0]
    sampling = Sampling(max_tokens=300, temperature=1.0, seed=3, logit_bias={end: 20.0})
    sink = answer(runtime, Chat(ASK, sampling, tools=TOOLS, tool_choice=REQUIRED))
    ((name, arguments),) = calls_of(sink.deltas)
    check(name, arguments)
    assert sink.done.reason == "tool_calls"
    runtime.close()


def test_many_tools_are_taken(model: LlamaCppRuntime) -> None:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(4)}}
    tools = tuple([Tool(f"tool_{n}", "x", schema) for n in range(8)])
    sink = answer(
        model, Chat(ASK, Sampling(max_tokens=40, temperature=0), tools=tools, tool_choice=REQUIRED, reasoning="none")
    )
    assert "".join(d.name for d in sink.deltas if isinstance(d, ToolCallDelta)).startswith("tool_")
