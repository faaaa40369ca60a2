"""JSON schemas as grammars: what they allow, what is refused, and what may follow a text already given."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Complete, JsonSchema, Sampling
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from inference_engine.infra.text.grammar import (
    Choice,
    MismatchError,
    Repeat,
    Rule,
    Sequence,
    Text,
    chars,
    left_recursive,
    remaining,
    to_gbnf,
)
from inference_engine.infra.text.json_schema import compile_schema
from tests.runtimes.conftest import answer


def allows(schema: dict[str, Any], text: str) -> bool:
    """Whether the whole text is in the schema's language."""
    return compile_schema(schema).allows(text)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ['""', '"a\\"é\\u00e9\\n"'], ['"', "a", '"\n"', '"\\x"']),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"ab\\n"'], ['"a"', '"abcd"']),
        ({"type": "integer"}, ["0", "-7", "123"], ["01", "1.0", "+1", ""]),
        ({"type": "number"}, ["0", "-7.25", "1e5", "1E-9"], [".5", "1.", "e5"]),
        ({"type": "number", "minimum": -1, "maximum": 1}, ["0.5", "1", "1.0", "-1", "-0.99"], ["1.1", "-1.01", "2"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "1"]),
        ({"type": ["string", "null"]}, ["null", '"x"'], ["1"]),
        ({"enum": ["a", 1, None, {"k": [1]}]}, ['"a"', "1", "null", '{"k": [1]}'], ['"b"', "2"]),
        ({"const": "é"}, ['"é"'], ['"e"']),
        ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1,2,3]"]),
        ({"prefixItems": [{"type": "integer"}, {"type": "null"}]}, ["[1, null]"], ["[1]", "[1,null,1]"]),
        ({"type": "array", "items": False}, ["[]", "[ ]"], ["[1]"]),
        ({"type": "object", "properties": {}, "additionalProperties": False}, ["{}"], ['{"a":1}']),
        ({}, ["{}", '{"a": [1, {"b": null}]}'], ["[]", "1"]),
        (
            {"properties": {name: {"type": "null"} for name in "abc"}, "required": ["b"]},
            ['{"b":null}', '{"a":null,"b":null}', '{"b":null, "c":null}', '{ "a":null, "b": null, "c": null\n}'],
            ["{}", '{"a":null}', '{"b":null,"a":null}', '{"b":null,}', '{,"b":null}'],
        ),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"x": 1, "y": 2}', "{}"], ['{"x": "1"}']),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["1", "null"], ["true"]),
        ({"allOf": [{"properties": {"a": {"type": "null"}}}, {"required": ["a"]}]}, ['{"a":null}'], ["{}"]),
        ({"allOf": [{"$ref": "#/$defs/t"}], "description": "d", "$defs": {"t": {"type": "null"}}}, ["null"], ["1"]),
        (
            {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
            ["[]", "[[], [[]]]"],
            ["[1]", "[[]"],
        ),
        ({"type": "string", "format": "date-time"}, ['"2024-02-29T23:59:59Z"'], ['"2024-13-01T00:00:00Z"', '"x"']),
        ({"type": "string", "format": "uuid"}, ['"00000000-0000-4000-8000-00000000000f"'], ['"0"']),
        ({"type": "number", "minimum": 0.25, "exclusiveMaximum": 1.5}, ["0.25", "1", "1.49"], ["0.2", "1.5", "-1"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["0.001", "7.5"], ["0", "0.0", "-1"]),
        ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 2.5}, ["1", "2"], ["0", "3"]),
        ({"type": ["string", "null"], "enum": ["a", None, 5]}, ['"a"', "null"], ["5"]),
        ({"type": "string", "pattern": "^[A-Z]{2}\\d+$"}, ['"AB1"'], ['"AB"', '"xAB1"', '"AB1x"']),
        ({"pattern": "b\"+"}, ['"b\\""', '"ab\\"c"'], ['"b"', '"b""']),
        ({"type": "string", "format": "email"}, ['"anything"'], ["1"]),
    ],
)  # fmt: skip
def test_what_a_schema_allows(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not allows(schema, text)] == []
    assert [text for text in bad if allows(schema, text)] == []
    for text in good:
        json.loads(text)


@given(st.integers(-300, 300), st.integers(0, 300), st.integers(-1000, 1000))
@settings(deadline=None, max_examples=60)
def test_integer_ranges_are_exact(low: int, width: int, value: int) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": low + width}
    assert allows(schema, str(value)) == (low <= value <= low + width)
    assert allows({"type": "integer", "minimum": low}, str(value)) == (value >= low)
    assert allows({"type": "integer", "exclusiveMaximum": low}, str(value)) == (value < low)


BOUNDS = st.decimals(-20, 20, places=2)


@given(BOUNDS, BOUNDS, st.decimals(-25, 25, places=3), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_decimal_ranges_are_exact(low: Decimal, high: Decimal, value: Decimal, low_open: bool, high_open: bool) -> None:
    schema = {
        "type": "number",
        "exclusiveMinimum" if low_open else "minimum": float(low),
        "exclusiveMaximum" if high_open else "maximum": float(high),
    }
    if low > high or (low == high and (low_open or high_open)):
        with pytest.raises(InvalidRequest, match="no number lies between"):
            compile_schema(schema)
        return
    for number in (value, low, high):
        inside = (low < number or (low == number and not low_open)) and (
            number < high or (number == high and not high_open)
        )
        shortest = f"{number:f}".rstrip("0").rstrip(".") or "0"
        assert allows(schema, shortest if shortest != "-0" else "0") == inside
        assert allows(schema, f"{number if number else abs(number):.4f}") == inside


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: list[dict[str, Any]] = [
    {"type": "frog"},
    {"type": 5},
    {"type": []},
    {"$ref": "#"},
    {"$ref": "#/nowhere"},
    {"$ref": "https://example.com/schema.json"},
    {"$ref": 5},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    {"type": "array", "minItems": 10**9},
    {"type": "array", "minItems": 5, "maxItems": 2},
    {"type": "array", "items": 5},
    {"type": "array", "prefixItems": 5},
    {"type": "array", "minItems": -1},
    {"type": "string", "maxLength": 10**7},
    {"type": "string", "maxLength": "5"},
    {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"},
    {"type": "integer", "minimum": 5, "maximum": 2},
    {"type": "integer", "minimum": "2"},
    {"type": "integer", "minimum": 10**40},
    {"type": "number", "minimum": 0.12345678901234567},
    {"type": "number", "exclusiveMinimum": 2, "maximum": 2},
    {"type": "number", "minimum": True},
    {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
    {"type": "string", "enum": [1, 2]},
    {"const": 1, "enum": [2]},
    {"type": "string", "pattern": "(?=a)"},
    {"type": "string", "pattern": "a", "maxLength": 3},
    {"type": "string", "pattern": 5},
    {"type": "integer", "multipleOf": 5},
    {"if": {"type": "string"}},
    {"type": "object", "properties": 5},
    {"type": "object", "properties": {"a": False}},
    {"type": "object", "properties": {"a": {}}, "required": ["b"]},
    {"type": "object", "required": "a"},
    {"type": "object", "additionalProperties": 5},
    {"enum": []},
    {"enum": "ab"},
    {"anyOf": []},
    {"anyOf": [5]},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"not": {"type": "string"}},
    {"type": "array", "uniqueItems": True},
    {"properties": {f"p{i}": {"type": "string", "maxLength": 2000} for i in range(50)}},
    {"enum": ["x" * 100_000]},
    nested(80),
    nested(900),
]


@pytest.mark.parametrize("schema", HOSTILE, ids=lambda schema: json.dumps(schema)[:50])
def test_a_schema_that_cannot_be_used_is_refused_quickly(schema: dict[str, Any]) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest, match="JSON schema cannot be used: at #") as caught:
        compile_schema(schema)
    assert caught.value.param == "response_format"
    assert time.process_time() - started < 1


LARGE: list[dict[str, Any]] = [
    {"type": "array", "items": {"type": "string", "maxLength": 2000}, "minItems": 2000, "maxItems": 2000},
    {"type": "object", "properties": {f"property{i}": {"type": "integer"} for i in range(300)}},
    {"enum": [f"value {i}" for i in range(2000)]},
    nested(30),
    {"type": "object", "properties": {"c": {"$ref": "#"}, "n": {"type": "boolean"}}, "required": ["n"]},
]


@pytest.mark.parametrize("schema", LARGE, ids=lambda schema: json.dumps(schema)[:50])
def test_the_largest_schemas_taken_are_taken_by_llama_cpp(
    random_model: LlamaCppRuntime, schema: dict[str, Any]
) -> None:
    language = compile_schema(schema)
    sink = answer(random_model, Complete("abc", Sampling(max_tokens=20, temperature=0), constraint=JsonSchema(schema)))
    language.after(sink.text)  # raises where the answer strayed


def test_a_grammar_advances_over_text() -> None:
    rules = {"list": Sequence((Text("("), Repeat(Choice((Rule("list"), chars("az"))), 0, 3), Text(")")))}
    root = Rule("list")
    assert to_gbnf(remaining(root, rules, "(a(b"), rules) != to_gbnf(root, rules)
    with pytest.raises(MismatchError):
        remaining(root, rules, "(abcd")
    with pytest.raises(MismatchError):
        remaining(root, rules, "())")


def test_left_recursion_is_found_through_what_may_be_empty() -> None:
    assert left_recursive({"a": Sequence((Repeat(Text("x"), 0, 1), Rule("a")))}) == "a"
    assert left_recursive({"a": Choice((Text("x"), Rule("b"))), "b": Rule("a")}) in ("a", "b")
    assert left_recursive({"a": Sequence((Text("x"), Rule("a")))}) is None
