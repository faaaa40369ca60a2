"""YAML with places."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_engine.core.yaml_source import YamlError, dotted, parse_yaml, split_problem, suggestion


def test_every_key_knows_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  c: [x, {d: 1.10}]\n")
    assert document.data == {"a": 1, "b": {"c": ["x", {"d": 1.1}]}}
    assert document.line(("b", "c")) == 3
    assert document.line(("b", "missing", 4)) == 2
    assert document.scalars["b", "c", 1, "d"] == "1.10"


def test_an_empty_text_is_an_empty_document() -> None:
    assert parse_yaml("# nothing\n").data is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", 2),
        ("a: [", 1),
        ("x: 1\ny: !!python/object:os.system {}", 2),
        ("a: \x00", 1),
        ("a: 1\n---\nb: 2", 2),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(YamlError) as raised:
        parse_yaml(text)
    assert raised.value.line == line


def test_aliases_that_grow_without_bound_are_refused() -> None:
    levels = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(YamlError, match="too large"):
        parse_yaml("\n".join(levels))


def test_a_problem_is_split_into_place_and_words() -> None:
    class Inner(msgspec.Struct, forbid_unknown_fields=True):
        a: int = 0

    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({"x": [{"a": "no"}]}, dict[str, list[Inner]])
    assert split_problem(raised.value)[1:] == ("Expected `int`, got `str`", None)
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert([{"b": 1}], list[Inner])
    keys, _, unknown = split_problem(raised.value)
    assert (keys, unknown) == ((0,), "b")


def test_words() -> None:
    assert dotted(("signature", "inputs", 0, "shape")) == "signature.inputs[0].shape"
    assert suggestion("thread", ["threads", "device"]) == "did you mean 'threads'?"
    assert suggestion("zzz", ["b", "a"]) == "known are a, b"


@given(st.text(max_size=200))
def test_any_text_gives_a_document_or_a_yaml_error(text: str) -> None:
    with contextlib.suppress(YamlError):
        assert parse_yaml(text).line(()) >= 1
