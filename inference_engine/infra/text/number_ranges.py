"""Grammars for numbers between two bounds, written in decimal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

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


def whole_in_range(low: int | None, high: int | None) -> Node:
    """Whole numbers from `low` to `high` (None: no limit)."""
    options: list[Node] = []
    if high is None or high >= 0:
        options.append(_whole(max(low or 0, 0), high))
    if low is None or low < 0:
        least = -high if high is not None and high < 0 else 1
        options.append(Sequence((Text("-"), _whole(least, None if low is None else -low))))
    return Choice(tuple(options))


@dataclass(frozen=True)
class Bound:
    """An end of a range of decimal numbers; `open` leaves the number itself out."""

    value: Decimal
    open: bool = False

    @property
    def digits(self) -> tuple[int, str]:
        """The whole part, and the digits after the point without closing zeros; the sign is left out."""
        whole, _, fraction = f"{abs(self.value):f}".partition(".")
        return int(whole), fraction.rstrip("0")


def decimal_in_range(low: Bound | None, high: Bound | None) -> Node | None:
    """Decimal numbers from `low` to `high` (None: no limit), or None where there is none.

    So few digits follow the point that no number is rounded over a bound when it is read as a double.
    """
    ends = [bound for bound in (low, high) if bound is not None]
    places = max(1, 15 - max((len(str(bound.digits[0])) for bound in ends), default=0))
    places = max([places, *(len(bound.digits[1]) for bound in ends)])
    options: list[Node | None] = []
    if high is None or high.value >= 0:
        options.append(_magnitude(low if low is not None and low.value >= 0 else Bound(Decimal(0)), high, places))
    if low is None or low.value < 0:
        least = high if high is not None and high.value < 0 else Bound(Decimal(0), open=True)
        options.append(_signed(_magnitude(least, low, places)))
    return _choice(options)


def _signed(node: Node | None) -> Node | None:
    return None if node is None else Sequence((Text("-"), node))


def _choice(options: Iterable[Node | None]) -> Node | None:
    found = tuple([option for option in options if option is not None])
    return None if not found else found[0] if len(found) == 1 else Choice(found)


def _magnitude(low: Bound, high: Bound | None, places: int) -> Node | None:
    """Numbers without sign. The signs of the bounds do not count: they are as far from zero as they are."""
    least, after = low.digits
    any_fraction = optional(Sequence((Text("."), Repeat(_DIGIT, 1, places))))
    first = _after_point(_above(after, places, open_=low.open))
    if high is None:
        return _choice([_with_whole(least, first), Sequence((_whole(least + 1, None), any_fraction))])
    most, before = high.digits
    if least > most:
        return None
    if least == most:
        both = _between(after, before, places, low.open, high.open)
        return _with_whole(least, _after_point(both))
    between = Sequence((_whole(least + 1, most - 1), any_fraction)) if most - least > 1 else None
    last = _after_point(_below(before, places, open_=high.open))
    return _choice([_with_whole(least, first), between, _with_whole(most, last)])


def _with_whole(whole: int, fraction: Node | None) -> Node | None:
    return None if fraction is None else Sequence((Text(str(whole)), fraction))


@dataclass(frozen=True)
class _Digits:
    """Digits after the point: `node` matches at least one, `none` tells whether there may also be none."""

    node: Node | None
    none: bool


def _after_point(digits: _Digits) -> Node | None:
    dotted = None if digits.node is None else Sequence((Text("."), digits.node))
    return _choice([dotted, Text("") if digits.none else None])


def _then(low: str, high: str, rest: _Digits) -> Node | None:
    """One digit from `low` to `high`, then `rest`."""
    if low > high:
        return None
    digit = Chars(((ord(low), ord(high)),))
    more = _choice([rest.node, Text("") if rest.none else None])
    return None if more is None else Sequence((digit, more))


def _any(places: int) -> _Digits:
    return _Digits(Repeat(_DIGIT, 1, places) if places else None, True)


def _zeros(places: int) -> _Digits:
    return _Digits(Repeat(Chars(((48, 48),)), 1, places) if places else None, True)


def _next_digit(digit: str, step: int) -> str:
    return chr(ord(digit) + step)  # outside 0 to 9 where there is none: `_then` makes nothing of it


def _above(bound: str, places: int, *, open_: bool) -> _Digits:
    """Digits that make a fraction of at least `bound`, or, `open_`, of more."""
    if not bound and not open_:
        return _any(places)
    if not places:
        return _Digits(None, False)
    first = bound[:1] or "0"
    same = _then(first, first, _above(bound[1:], places - 1, open_=open_))
    return _Digits(_choice([same, _then(_next_digit(first, 1), "9", _any(places - 1))]), False)


def _below(bound: str, places: int, *, open_: bool) -> _Digits:
    """Digits that make a fraction of at most `bound`, or, `open_`, of less."""
    if not bound:
        return _Digits(None, False) if open_ else _zeros(places)
    if not places:
        return _Digits(None, True)
    same = _then(bound[0], bound[0], _below(bound[1:], places - 1, open_=open_))
    return _Digits(_choice([same, _then("0", _next_digit(bound[0], -1), _any(places - 1))]), True)


def _between(low: str, high: str, places: int, low_open: bool, high_open: bool) -> _Digits:
    """Digits that make a fraction between two."""
    if not low and not low_open:
        return _below(high, places, open_=high_open)
    if not places or (not high and (low or high_open)):
        return _Digits(None, False)
    first, last = low[:1] or "0", high[:1] or "0"
    if first == last:
        rest = _between(low[1:], high[1:], places - 1, low_open, high_open)
        return _Digits(_then(first, first, rest), False)
    if first > last:
        return _Digits(None, False)
    return _Digits(
        _choice(
            [
                _then(first, first, _above(low[1:], places - 1, open_=low_open)),
                _then(_next_digit(first, 1), _next_digit(last, -1), _any(places - 1)),
                _then(last, last, _below(high[1:], places - 1, open_=high_open)),
            ]
        ),
        False,
    )


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
