"""Regular expressions and GBNF as grammars: the same texts, or a refusal that says why."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Grammar, Regex
from inference_engine.infra.text.constraints import compile_constraint
from inference_engine.infra.text.gbnf import parse_gbnf
from inference_engine.infra.text.grammar import Language
from inference_engine.infra.text.regex import compile_regex, compile_search

ATOMS = st.sampled_from(
    ["a", "b", "ab", r"\d", r"\w", r"\S", "[a-c]", "[^a]", ".", r"\.", "(a|b)", "(?:ab)?", "[a\\d-]"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", "{0}"])).map(
            lambda p: f"({p[0]}){p[1]}"
        ),
    ),
    max_leaves=5,
)


@given(PATTERNS, st.text(st.sampled_from("abc1. \n-"), max_size=6), st.data())
@settings(deadline=None, max_examples=200)
def test_a_pattern_allows_what_it_matches(pattern: str, text: str, data: st.DataObject) -> None:
    compiled = re.compile(pattern, re.ASCII)
    language = Language(compile_regex(pattern), {})
    assert language.allows(text) == bool(compiled.fullmatch(text))
    assert Language(compile_search(pattern), {}).allows(text) == bool(compiled.search(text))
    anchored = Language(compile_search(f"^{pattern}$"), {}) if "|" not in pattern else None
    matching = data.draw(st.from_regex(compiled, fullmatch=True, alphabet=st.sampled_from("abc1. -")))
    assume(compiled.fullmatch(matching))
    assert language.allows(matching)
    assert anchored is None or anchored.allows(matching)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(?=a)b", "look-ahead"),
        ("(?<!a)b", "look-behind"),
        (r"(a)\1", "back-reference"),
        (r"(?P<x>a)(?P=x)", "back-reference"),
        ("(?i)a", "flags"),
        (r"a\b", "word boundary"),
        ("a++", "possessive"),
        ("(?>a)", "atomic"),
        ("(^a)b", "anchor"),
        ("(a{1,1000}){1,1000}", "multiply"),
        ("([a-z]{0,50} ?){0,50}", "multiply to more than 1000"),
        ("a{3000}", "at most to 2000"),
        ("a{3,2}", "ends before it begins"),
        ("(", "not closed"),
        ("a)", "without its"),
        ("[a", "not closed"),
        ("[z-a]", "lower to a higher"),
        ("*a", "nothing to repeat"),
        ("\\", "backslash"),
        (r"\q", "not supported"),
        (r"\u12", "hexadecimal"),
        ("a" * 5000, "at most 4096"),
        ("(" * 60 + ")" * 60, "nested"),
        (r"\x00", "cannot be written"),
    ],
)
def test_a_pattern_that_cannot_be_held_is_refused_by_name(pattern: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        compile_constraint(Regex(pattern))
    assert caught.value.param == "response_format"


JSON = r"""
# a comment
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def test_a_grammar_is_read() -> None:
    language = parse_gbnf(JSON)
    for text in ("{}", '{"a": [1, -2.5e3, true]}', '{ "a\\u00e9": {}}'):
        assert language.allows(text)
        assert parse_gbnf(language.gbnf()).allows(text)
    for text in ("[]", '{"a" 1}', "{} x"):
        assert not language.allows(text)


def test_repetitions_of_what_can_be_empty_are_rewritten() -> None:
    language = parse_gbnf('root ::= (a b*)* "x"\na ::= "k"?\nb ::= [0-9]* | "[" b "]"')
    for text in ("x", "kk12x", "12x", "[[3]]kx"):
        assert language.allows(text)
    assert not language.allows("k")
    for line in language.gbnf().splitlines():
        assert "{0,}{" not in line


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "no rule named root"),
        ('a ::= "x"', "no rule named root"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= a "x"\na ::= "y"? root', "left recursion"),
        ('root ::= "a"\nb ::= missing', "'missing' is not declared"),
        ('root ::= "a" root', "never comes to an end"),
        ('root ::= "a"\nroot ::= "b"', "declared twice"),
        ('root ::= ("a"', "not closed"),
        ('root ::= "a")', "expected"),
        ('root ::= "a', "not expected"),
        ("root ::= [z-a]", "lower to a higher"),
        ("root ::= []", "empty"),
        ('root ::= "a"{5,2}', "ends before it begins"),
        ('root ::= "a"{99999}', "at most to 2000"),
        ('root ::= "\\q"', r"the escape \\q is not known"),
        ('root ::= "\\x00"', "cannot be written"),
        ("root ::= <[1000]>", "not expected"),
        ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "nested"),
        ("x" * 70_000, "at most 65536"),
        ('root = "a"', "is not expected"),
        ("* ::= 5", "is expected"),
    ],
)
def test_a_bad_grammar_is_refused_with_its_place(grammar: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        compile_constraint(Grammar(grammar))
    assert caught.value.param == "response_format"


@given(st.text(st.sampled_from('rotab:=|()[]{}"\\*+?.,0-9#^<>! \n'), max_size=40))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_grammar_or_a_clear_error(text: str) -> None:
    for grammar in (text, f"root ::= {text}"):
        with contextlib.suppress(InvalidRequest):  # anything else is a failure
            parse_gbnf(compile_constraint(Grammar(grammar)).gbnf())
