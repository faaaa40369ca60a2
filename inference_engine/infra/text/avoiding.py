"""Grammars of free text up to a marker. They make lazy triggers needless, and hold on every runtime and after a cut."""

from __future__ import annotations

from collections.abc import Mapping

from inference_engine.infra.text.grammar import ANY, EMPTY, Chars, Choice, Node, Rule, Sequence, Text

_BLANK = ((9, 10), (13, 13), (32, 32))
Markers = Mapping[str, Node | None]
"""What follows each marker; None: the marker cannot occur."""


def text_until(prefix: str, markers: Markers, *, may_end: bool) -> dict[str, Node]:
    """Any text up to the first marker and what follows it, as rules; `{prefix}0` is the one to begin with.

    `may_end`: the text may also end without a marker. The rules are the states of an Aho-Corasick automaton, each
    right-recursive, so that following them takes no stack.
    """
    states = _states(markers)
    rules: dict[str, Node] = {}
    for place, state in enumerate(states):
        options: list[Node] = [EMPTY] if may_end else []
        known: set[str] = set()
        for character in sorted(set("".join(markers))):
            ends = [(state + character)[start:] for start in range(len(state) + 1)]
            complete = next((end for end in ends if end in markers), None)
            longer = next((end for end in ends if end in states), None)
            if complete is not None:
                known.add(character)
                options += _followed(character, markers[complete])
            elif longer is not None:
                known.add(character)
                options.append(Sequence((Text(character), Rule(f"{prefix}{states.index(longer)}"))))
        options.append(Sequence((_other(known), Rule(f"{prefix}0"))))
        rules[f"{prefix}{place}"] = Choice(tuple(options))
    return rules


def text_unless(prefix: str, markers: Markers) -> dict[str, Node]:
    """Any text, but one that begins with a marker (after white space) goes on as `markers` says. Rules as above."""
    states = _states(markers)
    rules: dict[str, Node] = {f"{prefix}any": Choice((EMPTY, Sequence((ANY, Rule(f"{prefix}any")))))}
    for place, state in enumerate(states):
        options: list[Node] = [EMPTY]
        known: set[str] = set()
        for character in sorted(set("".join(markers))):
            longer = state + character
            if longer in markers:
                known.add(character)
                options += _followed(character, markers[longer])
            elif longer in states:
                known.add(character)
                options.append(Sequence((Text(character), Rule(f"{prefix}{states.index(longer)}"))))
        if not state:
            known |= {"\t", "\n", "\r", " "}
            options.append(Sequence((Chars(_BLANK), Rule(f"{prefix}0"))))
        options.append(Sequence((_other(known), Rule(f"{prefix}any"))))
        rules[f"{prefix}{place}"] = Choice(tuple(options))
    return rules


def _states(markers: Markers) -> list[str]:
    """The proper beginnings of the markers, the empty one first."""
    found = {"": None}
    for marker in markers:
        found.update(dict.fromkeys(marker[:size] for size in range(1, len(marker))))
    return list(found)


def _followed(character: str, node: Node | None) -> list[Node]:
    return [] if node is None else [Sequence((Text(character), node))]


def _other(known: set[str]) -> Node:
    return Chars(tuple((ord(character), ord(character)) for character in sorted(known | {"\0"})), negated=True)
