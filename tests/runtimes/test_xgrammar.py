"""What is given to xgrammar: no negated class, no range over a border of UTF-8, no escape of two digits."""

from __future__ import annotations

import re

import pytest

from inference_engine.domain.requests import Grammar, JsonSchema, Regex
from inference_engine.infra.runtimes.openvino.xgrammar import to_xgrammar
from inference_engine.infra.text.constraints import compile_constraint

_RANGE = re.compile(r"(\\u[0-9A-F]{4}|\\U[0-9A-F]{8}|\w)-(\\u[0-9A-F]{4}|\\U[0-9A-F]{8}|\w)")


def code(end: str) -> int:
    return int(end[2:], 16) if end.startswith("\\") else ord(end)


def test_escapes_have_four_digits() -> None:
    written = to_xgrammar(compile_constraint(Regex(r'"a\\x22')))
    assert "\\u0022" in written
    assert "\\u005C" in written
    assert "\\x" not in written


@pytest.mark.parametrize(
    "constraint",
    [
        Grammar("root ::= [^a] [^a]* [b-\\U0010FFFF]{2}"),
        JsonSchema({"type": "string", "maxLength": 5}),
        Regex("[^é-🙂]"),
    ],
)
def test_classes_are_positive_and_stay_within_one_form_of_utf_8(constraint: Grammar | JsonSchema | Regex) -> None:
    written = to_xgrammar(compile_constraint(constraint))
    assert "[^" not in written
    ranges = [(code(low), code(high)) for low, high in _RANGE.findall(written)]
    assert ranges
    for low, high in ranges:
        assert 0 < low <= high
        assert len(chr(low).encode()) == len(chr(high).encode())


def test_a_negated_class_is_what_remains() -> None:
    ranges = [(code(low), code(high)) for low, high in _RANGE.findall(to_xgrammar(compile_constraint(Regex("[^a]"))))]
    covered = [any(low <= number <= high for low, high in ranges) for number in (ord("a"), 0, 0xD800, 0xDFFF)]
    assert covered == [False] * 4
    assert all(any(low <= ord(c) <= high for low, high in ranges) for c in "\x01`bé\ud7ff\ue000🙂\U0010ffff")
