"""Compiles regular expressions to grammars. Knows their syntax (ECMA-262 and Python where they agree), no runtime.

`\\d`, `\\w` and `\\s` mean their ASCII characters. What a grammar cannot hold (look-around, back-references, word
boundaries, flags) and anchors in the middle are refused by name, with their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from inference_engine.infra.text.grammar import (
    ANY,
    Chars,
    Choice,
    Node,
    Repeat,
    Sequence,
    Text,
    without_empty_repeats,
)

MAX_PATTERN = 4096
MAX_COUNT = 2000  # llama.cpp refuses more
MAX_SIZE = 20_000  # characters of the pattern, counted as often as they may be repeated
MAX_NESTED = 1000  # the same, for counted repetitions within counted ones: all ways to share them out are followed
MAX_NESTING = 50

Ranges = tuple[tuple[int, int], ...]

_TOP = 0x10FFFF
_CLASSES: dict[str, Ranges] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
}
_WIDE_SPACES: Ranges = (
    (9, 13), (28, 32), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11}
_LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))


class RegexError(Exception):
    """The pattern cannot be compiled; the text says what and where."""


@dataclass(frozen=True)
class _Branch:
    """One alternative at the outermost level, and whether it is tied to the beginning and the end of the text."""

    node: Node
    start: bool
    end: bool


def compile_regex(pattern: str) -> Node:
    """The texts that `pattern` matches as a whole. The node uses no rules.

    Raises:
        RegexError: the pattern is malformed, too large, or uses what is not supported.
    """
    return _normal([branch.node for branch in _Parser(pattern).branches()])


def compile_search(pattern: str) -> Node:
    """The texts in which `pattern` matches somewhere, as JSON Schema's `pattern` means it. Raises as above."""
    anything = Repeat(ANY, 0, None)
    return _normal(
        [
            Sequence(
                (
                    *(() if branch.start else (anything,)),
                    branch.node,
                    *(() if branch.end else (anything,)),
                )
            )
            for branch in _Parser(pattern).branches()
        ]
    )


def _normal(options: list[Node]) -> Node:
    return without_empty_repeats(options[0] if len(options) == 1 else Choice(tuple(options)), {}).root


def mapped(node: Node, text: Callable[[str], Node], characters: Callable[[Chars], Node]) -> Node:
    """`node` with every text and every class replaced by what the functions make of it; no rules may be in it."""
    if isinstance(node, Text):
        return text(node.text)
    if isinstance(node, Chars):
        return characters(node)
    if isinstance(node, Sequence):
        return Sequence(tuple([mapped(part, text, characters) for part in node.parts]))
    if isinstance(node, Choice):
        return Choice(tuple([mapped(option, text, characters) for option in node.options]))
    if isinstance(node, Repeat):
        return Repeat(mapped(node.body, text, characters), node.low, node.high)
    raise ValueError(f"rule {node.name!r} cannot be mapped")


def normal_ranges(ranges: Ranges, *, negated: bool = False) -> Ranges:
    """The same characters as sorted ranges that do not touch; negated: all other characters."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    if not negated:
        return tuple(merged)
    outside: list[tuple[int, int]] = []
    start = 0
    for low, high in merged:
        if low > start:
            outside.append((start, low - 1))
        start = high + 1
    if start <= _TOP:
        outside.append((start, _TOP))
    return tuple(outside)


def common_ranges(first: Ranges, second: Ranges) -> Ranges:
    """The characters that are in both."""
    return tuple(
        (max(a, c), min(b, d))
        for a, b in normal_ranges(first)
        for c, d in normal_ranges(second)
        if max(a, c) <= min(b, d)
    )


class _Parser:
    """A cursor over the pattern. Sizes are counted so that nested repetitions cannot explode."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise RegexError(f"it has {len(pattern)} characters, at most {MAX_PATTERN} are compiled")
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def branches(self) -> list[_Branch]:
        found = [self._branch()]
        while self._take("|"):
            found.append(self._branch())
        if self._at < len(self._pattern):
            raise self._error("there is a ')' without its '('")
        return found

    def _branch(self) -> _Branch:
        start = self._take("^")
        node, size = self._sequence()
        if size > MAX_SIZE:
            raise RegexError(f"its repetitions multiply to more than {MAX_SIZE} characters")
        return _Branch(node, start, self._take("$"))

    def _error(self, why: str, at: int | None = None) -> RegexError:
        return RegexError(f"{why} (at character {(self._at if at is None else at) + 1})")

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if self._pattern.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _next(self, missing: str) -> str:
        if self._at >= len(self._pattern):
            raise self._error(missing)
        self._at += 1
        return self._pattern[self._at - 1]

    def _sequence(self) -> tuple[Node, int]:
        parts: list[Node] = []
        total = 0
        while self._peek() not in ("", "|", ")"):
            if self._peek() == "$" and self._pattern[self._at + 1 : self._at + 2] in ("", "|") and not self._depth:
                break
            node, size = self._repeated()
            parts.append(node)
            total += size
        return (parts[0] if len(parts) == 1 else Sequence(tuple(parts))), total

    def _alternatives(self) -> tuple[Node, int]:
        node, total = self._sequence()
        options = [node]
        while self._take("|"):
            node, size = self._sequence()
            options.append(node)
            total += size
        return (options[0] if len(options) == 1 else Choice(tuple(options))), total

    def _repeated(self) -> tuple[Node, int]:
        node, size = self._atom()
        place = self._at
        counts = self._counts()
        if counts is None:
            return node, size
        low, high = counts
        if self._take("+"):
            raise self._error("possessive repetitions are not supported", place)
        self._take("?")  # reluctant: another match, the same language
        if self._peek() in ("*", "+", "?") or self._counts() is not None:
            raise self._error("a repetition is repeated: put it in a group")
        total = size * max(1, low, high or 0)
        if total > MAX_NESTED and (high or 0) > 1 and _counts_inside(node):
            raise self._error(f"repetitions within repetitions multiply to more than {MAX_NESTED}", place)
        return Repeat(node, low, high), total

    def _counts(self) -> tuple[int, int | None] | None:
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        if self._peek() != "{":
            return None
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at + 1 : max(end, self._at)].partition(",")
        if end < 0 or not low.isdecimal() or not low.isascii() or (high and not (high.isdecimal() and high.isascii())):
            return None  # a brace that counts nothing stands for itself
        numbers = int(low), int(low) if not comma else int(high) if high else None
        if max(numbers[0], numbers[1] or 0) > MAX_COUNT:
            raise self._error(f"a repetition counts at most to {MAX_COUNT}")
        if numbers[1] is not None and numbers[0] > numbers[1]:
            raise self._error(f"the repetition {{{low},{high}}} ends before it begins")
        self._at = end + 1
        return numbers

    def _atom(self) -> tuple[Node, int]:
        place = self._at
        character = self._next("it ends too early")
        if character == "(":
            return self._group(place)
        if character == "[":
            return self._class(place), 1
        if character == ".":
            return _positive(normal_ranges(_LINE_ENDS, negated=True)), 1
        if character == "\\":
            return self._escape(place), 1
        if character in "*+?":
            raise self._error(f"{character!r} has nothing to repeat", place)
        if character in "^$":
            raise self._error(
                f"the anchor {character!r} is supported only where a whole alternative begins or ends", place
            )
        return Text(_writable(character, self._error)), 1

    def _group(self, place: int) -> tuple[Node, int]:
        if self._take("?"):
            self._group_kind(place)
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"groups are nested deeper than {MAX_NESTING}", place)
        node, size = self._alternatives()
        self._depth -= 1
        if not self._take(")"):
            raise self._error("a '(' is not closed", place)
        return node, max(1, size)

    def _group_kind(self, place: int) -> None:
        for sign, name in (
            ("=", "look-ahead"), ("!", "look-ahead"), ("<=", "look-behind"), ("<!", "look-behind"),
            (">", "atomic group"), ("P=", "back-reference"), ("P>", "recursion"), ("(", "condition"), ("#", "comment"),
        ):  # fmt: skip
            if self._take(sign):
                raise self._error(f"a {name} is not supported", place)
        if self._take(":"):
            return
        if self._take("P<") or self._take("<"):
            end = self._pattern.find(">", self._at)
            if end < 0 or not self._pattern[self._at : end].isidentifier():
                raise self._error("the name of a group is not valid", place)
            self._at = end + 1
            return
        raise self._error("flags inside the pattern are not supported", place)

    def _escape(self, place: int) -> Node:
        character = self._next("it ends with a backslash")
        if character.lower() in _CLASSES:
            return _positive(_class_ranges(character))
        if character in "123456789":
            raise self._error("a back-reference is not supported", place)
        if character == "k":
            raise self._error("a back-reference is not supported", place)
        if character in "bB":
            raise self._error("a word boundary is not supported", place)
        if character in "AZz":
            raise self._error(f"the anchor \\{character} is not supported: use ^ and $", place)
        return Text(chr(self._code(character, place)))

    def _code(self, character: str, place: int) -> int:
        """The character an escape stands for, where it stands for one."""
        if character in _CONTROLS:
            return _CONTROLS[character]
        digits = {"x": 2, "u": 4, "U": 8}.get(character)
        if digits is None:
            if character.isalnum():
                raise self._error(f"the escape \\{character} is not supported", place)
            return ord(_writable(character, self._error))
        if character == "u" and self._take("{"):
            end = self._pattern.find("}", self._at)
            text = self._pattern[self._at : max(end, self._at)]
            self._at = end + 1
            digits = len(text)
        else:
            text = self._pattern[self._at : self._at + digits]
            self._at += digits
        if len(text) != digits or not re.fullmatch("[0-9A-Fa-f]{1,8}", text) or int(text, 16) > _TOP:
            raise self._error(f"\\{character} is not followed by the hexadecimal digits of a character", place)
        return ord(_writable(chr(int(text, 16)), self._error))

    def _class(self, place: int) -> Node:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            if self._at >= len(self._pattern):
                raise self._error("a '[' is not closed", place)
            if first and self._peek() == "]":
                raise self._error(
                    "a class that begins with ']' is read differently by different tools: write \\]", place
                )
            first = False
            low = self._member()
            if not isinstance(low, int):
                ranges += low
                continue
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._member()
                if not isinstance(high, int) or high < low:
                    raise self._error("a range in a class is not from a lower to a higher character", place)
                ranges.append((low, high))
            else:
                ranges.append((low, low))
        self._at += 1
        return _positive(normal_ranges(tuple(ranges), negated=negated), lambda: self._error("a class is empty", place))

    def _member(self) -> int | Ranges:
        place = self._at
        character = self._next("a '[' is not closed")
        if character != "\\":
            return ord(_writable(character, self._error))
        character = self._next("it ends with a backslash")
        if character.lower() in _CLASSES:
            return _class_ranges(character)
        return 8 if character == "b" else self._code(character, place)


def _counts_inside(node: Node) -> bool:
    """Whether a repetition that counts is in it."""
    if isinstance(node, Repeat):
        return (node.high or 0) > 1 or node.low > 1 or _counts_inside(node.body)
    if isinstance(node, Sequence):
        return any(map(_counts_inside, node.parts))
    return isinstance(node, Choice) and any(map(_counts_inside, node.options))


def _class_ranges(letter: str) -> Ranges:
    if letter == "S":  # what counts as space differs: leave out what any tool takes for one
        return normal_ranges(_WIDE_SPACES, negated=True)
    return normal_ranges(_CLASSES[letter.lower()], negated=letter.isupper())


def _positive(ranges: Ranges, empty: Callable[[], RegexError] = lambda: RegexError("a class is empty")) -> Node:
    found = common_ranges(ranges, ANY.ranges)
    if not found:
        raise empty()
    return Chars(found)


def _writable(character: str, error: Callable[[str], RegexError]) -> str:
    if character == "\0" or "\ud800" <= character <= "\udfff":
        raise error(f"the character U+{ord(character):04X} cannot be written")
    return character
