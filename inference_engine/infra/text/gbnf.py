"""Reads a grammar that a user wrote in GBNF into a tree, so that a bad one is an error before any library sees it.

Notation: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md, without its token references. Left
recursion makes llama.cpp fail, a repetition of what can be empty makes some bindings loop for ever: the first is
refused, the second is rewritten.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from inference_engine.infra.text.grammar import (
    ANY,
    EMPTY,
    Chars,
    Choice,
    Language,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
    left_recursive,
    productive,
    without_empty_repeats,
)

MAX_CHARACTERS = 65536
MAX_RULES = 2000
MAX_NESTING = 64
MAX_COUNT = 2000  # llama.cpp refuses more
MAX_COUNTS = 20_000

_TOKEN = re.compile(
    r"""
    (?P<skip> \s+ | \#[^\n]* )
    | (?P<rule> [A-Za-z0-9_-]+ (?= (?: \s | \#[^\n]*\n )* ::= ) )
    | (?P<name> [A-Za-z0-9_-]+ )
    | (?P<is> ::= )
    | (?P<literal> " (?: [^"\\\n] | \\[^\n] )* " )
    | (?P<class> \[ (?: [^\]\\\n] | \\[^\n] )* \] )
    | (?P<count> \{ \s* \d{1,9} \s* (?: , \s* \d{0,9} \s* )? \} )
    | (?P<sign> [|()*+?.] )
    """,
    re.VERBOSE | re.ASCII,
)
_CHARACTER = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|([^\\])", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class GbnfError(Exception):
    """The grammar cannot be used; the text says what and in which line."""


def parse_gbnf(text: str) -> Language:
    """The language of the rule `root`. Rules are renamed.

    Raises:
        GbnfError: malformed, too large, a rule that is unknown, declared twice, left-recursive or without end.
    """
    if len(text) > MAX_CHARACTERS:
        raise GbnfError(f"it has {len(text)} characters, at most {MAX_CHARACTERS} are read")
    names, rules = _Parser(text).rules()
    if "root" not in names:
        raise GbnfError("there is no rule named root")
    written = {rule: name for name, rule in names.items()}
    looping = left_recursive(rules)
    if looping is not None:
        raise GbnfError(f"the rule {written[looping]!r} can begin with itself (left recursion): turn it round")
    ending = productive(rules)
    endless = next((written[rule] for rule in rules if rule not in ending), None)
    if endless is not None:
        raise GbnfError(f"the rule {endless!r} never comes to an end")
    return without_empty_repeats(Rule(names["root"]), rules)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


_END = _Token("end", "the end", 0)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise GbnfError(f"{text[at : at + 20].splitlines()[0]!r} is not expected (line {line})")
        if match.lastgroup != "skip":
            found.append(_Token(match.lastgroup or "", match[0], line))
        at = match.end()
        line += match[0].count("\n")
    return found


class _Parser:
    """A cursor over the tokens. Rules get names of our own, so that they meet none of the grammar they are put into."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._counts = 0
        self._names: dict[str, str] = {}
        self._first_use: dict[str, _Token] = {}

    def rules(self) -> tuple[dict[str, str], dict[str, Node]]:
        """The own name of each rule, and the rules under their own names."""
        rules: dict[str, Node] = {}
        while self._at < len(self._tokens):
            token = self._next()
            if token.kind != "rule":
                raise _error("a rule, NAME ::= ..., is expected", token)
            name = self._reference(token).name
            if name in rules:
                raise _error(f"the rule {token.text!r} is declared twice", token)
            self._next()
            rules[name] = self._alternatives(0)
        unknown = next((name for name, own in self._names.items() if own not in rules), None)
        if unknown is not None:
            raise _error(f"the rule {unknown!r} is not declared", self._first_use[unknown])
        return self._names, rules

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _next(self) -> _Token:
        token = self._token
        self._at += 1
        return token

    def _alternatives(self, depth: int) -> Node:
        options = [self._sequence(depth)]
        while self._token.text == "|" and self._token.kind == "sign":
            self._at += 1
            options.append(self._sequence(depth))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self._token.kind not in ("rule", "end") and (self._token.kind, self._token.text) not in _STOPS:
            parts.append(self._repeated(self._atom(depth)))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _atom(self, depth: int) -> Node:
        token = self._next()
        if token.kind == "name":
            return self._reference(token)
        if token.kind == "literal":
            return Text("".join([character for character, _ in _characters(token)]))
        if token.kind == "class":
            return _class(token)
        if token.text == "." and token.kind == "sign":
            return ANY
        if token.text == "(":
            if depth >= MAX_NESTING:
                raise _error(f"groups are nested deeper than {MAX_NESTING}", token)
            node = self._alternatives(depth + 1)
            if self._next().text != ")":
                raise _error("a '(' is not closed", token)
            return node
        raise _error(f"{token.text!r} is not expected", token)

    def _repeated(self, node: Node) -> Node:
        while True:
            token = self._token
            counts = _SIGNS.get(token.text) if token.kind == "sign" else None
            if token.kind == "count":
                counts = self._count(token)
            if counts is None:
                return node
            self._at += 1
            node = EMPTY if counts[1] == 0 else Repeat(node, *counts)

    def _count(self, token: _Token) -> tuple[int, int | None]:
        low_text, comma, high_text = token.text[1:-1].partition(",")
        low = int(low_text)
        high = low if not comma else int(high_text) if high_text.strip() else None
        self._counts += max(low, high or 0)
        if max(low, high or 0) > MAX_COUNT or self._counts > MAX_COUNTS:
            raise _error(f"repetitions count at most to {MAX_COUNT}, all together to {MAX_COUNTS}", token)
        if high is not None and low > high:
            raise _error("a repetition ends before it begins", token)
        return low, high

    def _reference(self, token: _Token) -> Rule:
        if token.text not in self._names:
            if len(self._names) >= MAX_RULES:
                raise GbnfError(f"it has more than {MAX_RULES} rules")
            self._names[token.text] = f"user{len(self._names)}"
            self._first_use[token.text] = token
        return Rule(self._names[token.text])


_STOPS = {("sign", "|"), ("sign", ")")}
_SIGNS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def _error(why: str, token: _Token) -> GbnfError:
    return GbnfError(f"{why} (line {token.line})" if token.line else why)


def _characters(token: _Token) -> list[tuple[str, bool]]:
    """The characters between the quotes or brackets, and whether each was escaped."""
    found: list[tuple[str, bool]] = []
    for match in _CHARACTER.finditer(token.text[1:-1]):
        escape = match[1]
        character = match[2] or _ESCAPES.get(escape) or escape
        if escape and len(escape) > 1:
            if int(escape[1:], 16) > 0x10FFFF:
                raise _error(f"\\{escape} is not a character", token)
            character = chr(int(escape[1:], 16))
        elif escape and (escape.isalnum() and escape not in _ESCAPES):
            raise _error(f"the escape \\{escape} is not known", token)
        if token.kind == "literal" and (character == "\0" or "\ud800" <= character <= "\udfff"):
            raise _error(f"the character U+{ord(character):04X} cannot be written", token)
        found.append((character, bool(escape)))
    return found


def _class(token: _Token) -> Node:
    members = _characters(token)
    negated = bool(members) and members[0] == ("^", False)
    members = members[negated:]
    if not members:
        if negated:
            return ANY
        raise _error("a class is empty", token)
    ranges: list[tuple[int, int]] = []
    place = 0
    while place < len(members):
        low = high = ord(members[place][0])
        if place + 2 < len(members) and members[place + 1] == ("-", False):
            high = ord(members[place + 2][0])
            place += 2
        if low > high:
            raise _error("a range is not from a lower to a higher character", token)
        ranges.append((low, high))
        place += 1
    return Chars(tuple(ranges), negated)
