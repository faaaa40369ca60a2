"""Strings as JSON writes them: grammars of plain characters turned into grammars of their JSON text."""

from __future__ import annotations

import json

from inference_engine.infra.text.grammar import ANY, Chars, Choice, Node, Text
from inference_engine.infra.text.regex import RegexError, common_ranges, mapped, normal_ranges

_ESCAPED = {0x22: '\\"', 0x5C: "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
_PLAIN = normal_ranges(((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)), negated=True)


def json_text(value: object) -> str:
    """`value` as JSON text that can be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value)
    return text


def in_json(node: Node) -> Node:
    """The texts of `node` as they stand between the quotes of a JSON string; each in one of its spellings.

    Raises:
        RegexError: a class holds only characters that this does not write.
    """
    return mapped(node, lambda text: Text(json_text(text)[1:-1]), _characters)


def _characters(node: Chars) -> Node:
    wanted = common_ranges(normal_ranges(node.ranges, negated=node.negated), ANY.ranges)
    options: list[Node] = []
    plain = common_ranges(wanted, _PLAIN)
    if plain:
        options.append(Chars(plain))
    options += [Text(text) for code, text in _ESCAPED.items() if any(low <= code <= high for low, high in wanted)]
    if not options:
        raise RegexError("a class holds nothing but control characters")
    return options[0] if len(options) == 1 else Choice(tuple(options))
