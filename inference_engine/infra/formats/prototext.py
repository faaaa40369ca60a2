"""Reads protobuf's text format, without a schema: fields with their values and lines. Knows no message type.

Source: protobuf.dev, Text Format Language Specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)
    |(?P<line>\n)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?))
    |(?P<word>-?[A-Za-z_][A-Za-z0-9_.]*)
    |(?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSING = {"{": "}", "<": ">"}
_MAX_DEPTH = 32
_FLOATS = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}


class PrototextError(ValueError):
    """The text is not of this format; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


class Word(str):
    """A value without quotes: the name of an enumeration's value, or `true` and `false`."""

    __slots__ = ()


class Message(NamedTuple):
    """A message: its fields in the order they were written; repeated ones stand several times."""

    fields: tuple[Field, ...]
    line: int


Value = str | int | float | Word | Message


class Field(NamedTuple):
    name: str
    value: Value
    line: int


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse_prototext(text: str) -> Message:
    """The message that `text` holds.

    Raises:
        PrototextError: with the line of the mistake.
    """
    return _Parser(list(_tokens(text))).whole()


def _tokens(text: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise PrototextError(line, f"{text[at : at + 20]!r} cannot be read here")
        if found.lastgroup == "line":
            line += 1
        elif found.lastgroup != "space":
            yield _Token(found.lastgroup, found.group(), line)
        at = found.end()
    yield _Token("end", "", line)


class _Parser:
    """Reads tokens from first to last."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def whole(self) -> Message:
        return self._message("", 1, 0)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _took(self, *marks: str) -> str | None:
        if self._next.kind == "mark" and self._next.text in marks:
            return self._take().text
        return None

    def _message(self, end: str, line: int, depth: int) -> Message:
        if depth > _MAX_DEPTH:
            raise PrototextError(line, f"messages are nested more than {_MAX_DEPTH} deep")
        fields: list[Field] = []
        while True:
            token = self._take()
            if token.kind == "end" and not end:
                return Message(tuple(fields), line)
            if token.kind == "end":
                raise PrototextError(line, f"the message that begins here is never closed: {end!r} is missing")
            if token.kind == "mark" and token.text == end:
                return Message(tuple(fields), line)
            if token.kind != "word":
                raise PrototextError(token.line, f"a field's name is expected, not {token.text!r}")
            fields.extend(self._field(token, depth))
            self._took(",", ";")

    def _field(self, name: _Token, depth: int) -> Iterator[Field]:
        colon = self._took(":")
        if self._took("["):
            while not self._took("]"):
                yield Field(name.text, self._value(name, depth), name.line)
                if not self._took(",") and self._next.text != "]":
                    raise PrototextError(self._next.line, f"the list of {name.text!r} needs ',' or ']'")
            return
        if not colon and self._next.text not in _CLOSING:
            raise PrototextError(name.line, f"':' is missing after {name.text!r}")
        line = self._next.line
        yield Field(name.text, self._value(name, depth), line)

    def _value(self, name: _Token, depth: int) -> Value:
        token = self._take()
        if token.kind == "mark" and token.text in _CLOSING:
            return self._message(_CLOSING[token.text], token.line, depth + 1)
        if token.kind == "string":
            text = _unquoted(token)
            while self._next.kind == "string":
                text += _unquoted(self._take())
            return text
        if token.kind == "number":
            return _number(token)
        if token.kind == "word":
            low = token.text.lower()
            if low.removeprefix("-") in _FLOATS:
                return -_FLOATS[low[1:]] if low.startswith("-") else _FLOATS[low]
            return Word(token.text)
        raise PrototextError(token.line, f"{name.text!r} has no value")


def _unquoted(token: _Token) -> str:
    try:
        return _ESCAPE.sub(_unescaped, token.text[1:-1])
    except (ValueError, OverflowError):
        raise PrototextError(token.line, f"{token.text[:40]} holds an escape that names no character") from None


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "xuU" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPED.get(code, code)


def _number(token: _Token) -> int | float:
    text = token.text.replace(" ", "")
    if "x" in text.lower():
        return int(text, 16)
    digits = text.lstrip("-")
    if digits.isdigit():
        octal = len(digits) > 1 and digits.startswith("0")
        try:
            return int(text, 8) if octal else int(text)
        except ValueError:
            raise PrototextError(token.line, f"{text} is no octal number") from None
    return float(text.rstrip("fF"))
