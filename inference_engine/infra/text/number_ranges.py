"""Grammars for numbers between two bounds, written in decimal."""

from __future__ import annotations

from inference_engine.infra.text.grammar import (
    Chars,
    Choice,
    Node,
    Repeat,
    Sequence,
    Text,
    chars,
    optional,
)

_DIGIT = chars("09")
FRACTION = Sequence((Text("."), Repeat(_DIGIT, 1, 16)))


def number_in_range(low: int | None, high: int | None, *, fractions: bool) -> Node:
    """Numbers from `low` to `high` (None: no limit), whole ones or with `fractions` after the point."""
    options: list[Node] = []
    if high is None or high >= 0:
        options.append(_magnitude(max(low or 0, 0), high, fractions))
    if low is None or low < 0:
        least = -high if high is not None and high < 0 else int(not fractions)
        options.append(Sequence((Text("-"), _magnitude(least, None if low is None else -low, fractions))))
    return Choice(tuple(options))


def _magnitude(low: int, high: int | None, fractions: bool) -> Node:
    """Numbers without sign from `low` to `high`."""
    if not fractions:
        return _whole(low, high)
    fraction = optional(FRACTION)
    if high is None:
        return Sequence((_whole(low, None), fraction))
    top = Sequence((_whole(high, high), optional(Sequence((Text("."), Repeat(Chars(((48, 48),)), 1, 16))))))
    return Choice((Sequence((_whole(low, high - 1), fraction)), top)) if low < high else top


def _whole(low: int, high: int | None) -> Node:
    """Whole numbers from `low` to `high`, without leading zeros."""
    size = len(str(low))
    last = len(str(high)) if high is not None else size
    options = []
    for digits in range(size, last + 1):
        least = low if digits == size else 10 ** (digits - 1)
        most = high if high is not None and digits == last else 10**digits - 1
        options.append(digits_between(str(least), str(most)))
    if high is None:
        options.append(Sequence((chars("19"), Repeat(_DIGIT, size, max(size, 17)))))
    return Choice(tuple(options))


def digits_between(low: str, high: str) -> Node:
    """All texts of digits from `low` to `high`, which have the same length."""
    if not low:
        return Text("")
    rest = len(low) - 1
    if low == "0" * len(low) and high == "9" * len(low):
        return Repeat(_DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return Sequence((Text(low[0]), digits_between(low[1:], high[1:])))
    options: list[Node] = [
        Sequence((Text(low[0]), digits_between(low[1:], "9" * rest))),
        Sequence((Text(high[0]), digits_between("0" * rest, high[1:]))),
    ]
    if ord(high[0]) - ord(low[0]) > 1:
        between = Chars(((ord(low[0]) + 1, ord(high[0]) - 1),))
        options.append(Sequence((between, Repeat(_DIGIT, rest, rest))) if rest else between)
    return Choice(tuple(options))
