"""A language in the notation of xgrammar, which binds answers in OpenVINO GenAI. It reads GBNF, with three traps.

`\\x22a` is one character there, U+022A: `\\x` takes all the digits there are, `\\u` takes four. What is not in a
negated class is matched byte by byte, so that it lets broken characters through: such classes are written positively.
And a range whose ends differ in the length or kind of their UTF-8 form lets broken characters through too: it is cut.
"""

from __future__ import annotations

import re

from inference_engine.infra.text.grammar import Chars, Choice, Language, Node, Repeat, Sequence

_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|.)", re.DOTALL)
_LAST = 0x10FFFF
_OUTSIDE = ((0, 0), (0xD800, 0xDFFF))  # no characters that can be written
_CUTS = (0x80, 0x800, 0x1000, 0xD000, 0xE000, 0x10000, 0x40000, 0x100000)
"""Where another range of UTF-8 begins: its length changes, or what may follow its first byte."""

_Ranges = tuple[tuple[int, int], ...]


def to_xgrammar(language: Language) -> str:
    """The language, read by xgrammar as llama.cpp reads `language.gbnf()`."""
    known: dict[int, Node] = {}
    rules = {name: _plain(node, known) for name, node in language.rules.items()}
    gbnf = Language(_plain(language.root, known), rules).gbnf()
    return _ESCAPE.sub(lambda found: rf"\u00{found[1]}" if found[1] else found[0], gbnf)


def _plain(node: Node, known: dict[int, Node]) -> Node:
    """The same node with classes that xgrammar reads rightly. `known`: what became of each node, by identity."""
    found = known.get(id(node))
    if found is None:
        found = known[id(node)] = _made_plain(node, known)
    return found


def _made_plain(node: Node, known: dict[int, Node]) -> Node:
    if isinstance(node, Chars):
        others = _complement(node.ranges)
        return _classes(others if node.negated else _complement(others))
    if isinstance(node, Sequence):
        return Sequence(tuple([_plain(part, known) for part in node.parts]))
    if isinstance(node, Choice):
        return Choice(tuple([_plain(option, known) for option in node.options]))
    if isinstance(node, Repeat):
        return Repeat(_plain(node.body, known), node.low, node.high)
    return node


def _complement(ranges: _Ranges) -> _Ranges:
    """All characters that can be written and are in none of the ranges."""
    found: list[tuple[int, int]] = []
    free = 0
    for low, high in sorted((*ranges, *_OUTSIDE)):
        if low > free:
            found.append((free, low - 1))
        free = max(free, high + 1)
    return (*found, *(((free, _LAST),) if free <= _LAST else ()))


def _classes(ranges: _Ranges) -> Node:
    """One class for each kind of UTF-8 form in the ranges."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for low, high in ranges:
        start = low
        for kind, cut in enumerate((*_CUTS, _LAST + 1)):
            if start < cut and start <= high:
                groups.setdefault(kind, []).append((start, min(high, cut - 1)))
                start = cut
    classes = [Chars(tuple(group)) for _, group in sorted(groups.items())]
    return classes[0] if len(classes) == 1 else Choice(tuple(classes))
