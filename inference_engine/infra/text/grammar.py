"""Grammars as trees: written as GBNF, and advanced over a text to what may still follow it. `Language` is the whole.

Knows nothing of JSON, tools or any runtime; GBNF is read by llama.cpp and by xgrammar. GBNF: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

_MAX_STATES = 200_000


@dataclass(frozen=True, eq=False)
class Text:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, eq=False)
class Chars:
    """One character in (or, `negated`, outside) these ranges of code points, both ends included."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False

    def __contains__(self, character: str) -> bool:
        code = ord(character)
        return any(low <= code <= high for low, high in self.ranges) != self.negated


@dataclass(frozen=True, eq=False)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """`body` at least `low` and at most `high` times (None: no limit). The body must not match the empty text."""

    body: Node
    low: int
    high: int | None


@dataclass(frozen=True, eq=False)
class Rule:
    """A reference to a named rule, so that grammars can be recursive. No rule may begin with itself."""

    name: str


Node: TypeAlias = Text | Chars | Sequence | Choice | Repeat | Rule
Rules: TypeAlias = Mapping[str, Node]
Stack: TypeAlias = "tuple[()] | tuple[Node, Stack]"
"""What must still be matched, next first; nested pairs so that alternatives share their tails."""


def chars(text: str, *, negated: bool = False) -> Chars:
    """A class from pairs of range ends, as in `chars("azAZ09")`."""
    codes = [ord(character) for character in text]
    return Chars(tuple(zip(codes[::2], codes[1::2], strict=True)), negated)


def optional(node: Node) -> Node:
    return Choice((node, Text("")))


EMPTY = Text("")
ANY = Chars(((1, 0xD7FF), (0xE000, 0x10FFFF)))
"""Any character that can be written; no zero, which llama.cpp takes for the end of a text, and no surrogates."""


class MismatchError(Exception):
    """The text cannot be the beginning of anything the grammar allows."""


@dataclass(frozen=True)
class Language:
    """All texts that `root` allows; what a runtime binds an answer to.

    A runtime cuts it to what may follow the text already delivered (`after`) and hands `gbnf()` to its library.
    """

    root: Node
    rules: Rules

    def after(self, text: str) -> Language:
        """The texts that may follow `text`.

        Raises:
            MismatchError: nothing in the language begins with `text`, or following it takes unreasonable memory.
        """
        return Language(remaining(self.root, self.rules, text), self.rules)

    def allows(self, text: str) -> bool:
        """Whether the whole `text` is in the language."""
        try:
            rest = self.after(text).root
        except MismatchError:
            return False
        return _skippable(rest, _can_be_empty(self.rules))

    def gbnf(self) -> str:
        """The language in llama.cpp's notation."""
        return to_gbnf(self.root, self.rules)


def remaining(root: Node, rules: Rules, text: str) -> Node:
    """The grammar of all texts that may follow `text`; it uses the same rules.

    Raises:
        MismatchError: `text` is not a prefix of the language, or following it takes unreasonable memory.
    """
    if not text:
        return root
    walk = _Walk(rules)
    states = walk.start(root)
    for character in text:
        states = walk.advance(states, character)
        if not states:
            raise MismatchError(f"the grammar does not allow {character!r} after what came before")
    return Choice(tuple(Sequence(tuple(_items(state))) for state in sorted(states, key=bool, reverse=True)))


def _items(stack: Stack) -> Iterable[Node]:
    while stack:
        yield stack[0]
        stack = stack[1]


class _Walk:
    """Advances sets of stacks. Derived nodes are kept, so that equal stacks are the same objects and merge."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._derived: dict[tuple[object, ...], Node] = {}
        self._expanded: dict[Stack, frozenset[Stack]] = {}

    def start(self, root: Node) -> frozenset[Stack]:
        return self._expand((root, ()))

    def advance(self, states: frozenset[Stack], character: str) -> frozenset[Stack]:
        found: set[Stack] = set()
        for state in states:
            if not state:
                continue
            node, rest = state
            if isinstance(node, Text) and node.text[0] == character:
                found |= self._expand((self._tail(node), rest))
            elif isinstance(node, Chars) and character in node:
                found |= self._expand(rest)
        return frozenset(found)

    def _expand(self, stack: Stack) -> frozenset[Stack]:
        """All stacks that begin with a character to be matched (or are empty) which `stack` stands for."""
        known = self._expanded.get(stack)
        if known is not None:
            return known
        found: set[Stack] = set()
        seen: set[Stack] = set()
        work = [stack]
        while work:
            current = work.pop()
            if current in seen:
                continue
            seen.add(current)
            if len(seen) + len(self._expanded) > _MAX_STATES:
                raise MismatchError("the grammar has too many ways to match")
            if not current or isinstance(current[0], Chars) or (isinstance(current[0], Text) and current[0].text):
                found.add(current)
            else:
                work += self._unfold(*current)
        self._expanded[stack] = frozenset(found)
        return self._expanded[stack]

    def _unfold(self, node: Node, rest: Stack) -> list[Stack]:
        if isinstance(node, Rule):
            return [(self._rules[node.name], rest)]
        if isinstance(node, Choice):
            return [(option, rest) for option in node.options]
        if isinstance(node, Sequence):
            for part in reversed(node.parts):
                rest = (part, rest)
            return [rest]
        if isinstance(node, Repeat) and node.high != 0:
            taken: Stack = (node.body, (self._fewer(node), rest))
            return [taken] if node.low else [taken, rest]
        return [rest]  # an empty text, or a repetition that has come to its end

    def _tail(self, node: Text) -> Node:
        return self._derived.setdefault(("text", node.text[1:]), Text(node.text[1:]))

    def _fewer(self, node: Repeat) -> Node:
        low, high = max(0, node.low - 1), None if node.high is None else node.high - 1
        if (low, high) == (node.low, node.high):
            return node
        return self._derived.setdefault((node.body, low, high), Repeat(node.body, low, high))


def left_recursive(rules: Rules) -> str | None:
    """The name of a rule that can begin with itself, or None. Matching one would not end."""
    empty = _can_be_empty(rules)
    begins = {name: set(_beginnings(node, empty)) for name, node in rules.items()}
    done: set[str] = set()
    for name in begins:
        path: dict[str, list[str]] = {}
        work = [name]
        while work:  # depth first, by hand: chains of rules may be longer than Python's stack
            current = work[-1]
            if current not in path:
                path[current] = [other for other in begins[current] if other not in done]
            if path[current]:
                work.append(path[current].pop())
                if work[-1] in path:
                    return work[-1]
            else:
                done.add(current)
                del path[current]
                work.pop()
    return None


def _can_be_empty(rules: Rules) -> set[str]:
    found: set[str] = set()
    while True:
        more = {name for name, node in rules.items() if name not in found and _skippable(node, found)}
        if not more:
            return found
        found |= more


def _beginnings(node: Node, empty: set[str]) -> Iterable[str]:
    """The rules `node` can begin with, before any character."""
    if isinstance(node, Rule):
        yield node.name
    elif isinstance(node, Choice):
        for option in node.options:
            yield from _beginnings(option, empty)
    elif isinstance(node, Repeat):
        yield from _beginnings(node.body, empty)
    elif isinstance(node, Sequence):
        for part in node.parts:
            yield from _beginnings(part, empty)
            if not _skippable(part, empty):
                return


def _skippable(node: Node, empty: set[str]) -> bool:
    if isinstance(node, Rule):
        return node.name in empty
    if isinstance(node, Sequence):
        return all(_skippable(part, empty) for part in node.parts)
    if isinstance(node, Choice):
        return any(_skippable(option, empty) for option in node.options)
    if isinstance(node, Repeat):
        return not node.low or _skippable(node.body, empty)
    return isinstance(node, Text) and not node.text


def without_empty_repeats(root: Node, rules: Rules) -> Language:
    """The same language, with no repetition of what can be empty: libraries loop over those.

    The rules must not be left-recursive.
    """
    return _Filler(rules).language(root)


class _Filler:
    """Rewrites `(a*)*` to `(a+)*`. A rule that can be empty gets a twin that cannot."""

    def __init__(self, rules: Rules) -> None:
        self._given = rules
        self._empty = _can_be_empty(rules)
        self._rules: dict[str, Node] = {}
        self._twins: dict[str, Rule] = {}

    def language(self, root: Node) -> Language:
        for name, node in self._given.items():
            self._rules[name] = self._rewritten(node)
        return Language(self._rewritten(root), self._rules)

    def _rewritten(self, node: Node) -> Node:
        if isinstance(node, Sequence):
            return Sequence(tuple(map(self._rewritten, node.parts)))
        if isinstance(node, Choice):
            return Choice(tuple(map(self._rewritten, node.options)))
        if not isinstance(node, Repeat):
            return node
        if not _skippable(node.body, self._empty):
            return Repeat(self._rewritten(node.body), node.low, node.high)
        body = self._filled(node.body)
        return EMPTY if body is None else Repeat(body, 0, node.high)

    def _filled(self, node: Node) -> Node | None:
        """The texts of `node` but the empty one; None where that is all it has."""
        if not _skippable(node, self._empty):
            return self._rewritten(node)
        if isinstance(node, Rule):
            return self._twin(node.name)
        if isinstance(node, Choice):
            options = [filled for option in node.options if (filled := self._filled(option)) is not None]
            return Choice(tuple(options)) if options else None
        if isinstance(node, Repeat):
            body = self._filled(node.body)
            return None if body is None or node.high == 0 else Repeat(body, 1, node.high)
        if isinstance(node, Sequence):
            starts: list[Node] = []
            for place, part in enumerate(node.parts):
                first = self._filled(part)
                if first is not None:
                    starts.append(Sequence((first, *map(self._rewritten, node.parts[place + 1 :]))))
            return Choice(tuple(starts)) if starts else None
        return None

    def _twin(self, name: str) -> Rule | None:
        if name not in self._twins:
            self._twins[name] = Rule(f"{name}-filled")
            self._rules[f"{name}-filled"] = self._filled(self._given[name]) or EMPTY
        return self._twins[name]


def productive(rules: Rules) -> set[str]:
    """The rules from which some text can be derived; the others go round in circles."""
    found: set[str] = set()
    while True:
        more = {name for name, node in rules.items() if name not in found and _ends(node, found)}
        if not more:
            return found
        found |= more


def _ends(node: Node, known: set[str]) -> bool:
    if isinstance(node, Rule):
        return node.name in known
    if isinstance(node, Sequence):
        return all(_ends(part, known) for part in node.parts)
    if isinstance(node, Choice):
        return any(_ends(option, known) for option in node.options)
    return not isinstance(node, Repeat) or not node.low or _ends(node.body, known)


def to_gbnf(root: Node, rules: Rules) -> str:
    """The grammar in llama.cpp's notation."""
    return _Writer(rules).write(root)


class _Writer:
    def __init__(self, rules: Rules) -> None:
        self._rules = dict(rules)
        self._used: list[str] = []
        self._seen: set[str] = set()
        self._bodies: dict[Node, Rule] = {}

    def write(self, root: Node) -> str:
        lines = [f"root ::= {self._text(root)}"]
        for name in self._used:  # grows while the rules are written
            lines.append(f"{name} ::= {self._text(self._rules[name])}")
        return "\n".join(lines)

    def _text(self, node: Node) -> str:
        if isinstance(node, Text):
            return '"' + "".join(map(_escape, node.text)) + '"'
        if isinstance(node, Chars):
            ranges = "".join(f"{_escape(chr(low))}-{_escape(chr(high))}" for low, high in node.ranges)
            return f"[{'^' if node.negated else ''}{ranges}]"
        if isinstance(node, Sequence):
            return " ".join(map(self._text, node.parts)) or '""'
        if isinstance(node, Choice):
            return "(" + " | ".join(map(self._text, node.options)) + ")"
        if isinstance(node, Repeat):
            return self._repeat(node)
        if node.name not in self._seen:
            self._seen.add(node.name)
            self._used.append(node.name)
        return node.name

    def _repeat(self, node: Repeat) -> str:
        if node.high == 0:
            return '""'
        body = node.body
        if not isinstance(body, Chars | Rule):  # llama.cpp multiplies nested groups, named rules are counted once
            rule = self._bodies.setdefault(body, Rule(f"part{len(self._bodies)}"))
            self._rules[rule.name] = body
            body = rule
        return f"{self._text(body)}{{{node.low},{'' if node.high is None else node.high}}}"


def _escape(character: str) -> str:
    code = ord(character)
    if character.isascii() and character.isalnum():
        return character
    # never \x: xgrammar reads as many hexadecimal digits after it as there are, llama.cpp two
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
