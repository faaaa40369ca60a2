"""Turns what is measured in rounds into ratios. Knows numbers and targets, not what they are of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Measurements = dict[str, list[float]]


@dataclass(frozen=True)
class Target:
    """The ratio to reach: at least (more is better) or at most (less is better), and the one to stretch for."""

    kind: Literal["at least", "at most"]
    limit: float
    stretch: float
    unit: str = "x"

    def verdict(self, value: float) -> str:
        if self._reached(value, self.stretch):
            return "stretch"
        return "met" if self._reached(value, self.limit) else "MISSED"

    def _reached(self, value: float, limit: float) -> bool:
        return value >= limit if self.kind == "at least" else value <= limit

    def __str__(self) -> str:
        sign = "≥" if self.kind == "at least" else "≤"
        unit = "" if self.unit == "x" else f" {self.unit}"
        return f"{sign} {self.limit:g}{unit} ({self.stretch:g})"


@dataclass(frozen=True)
class Row:
    """One line of a result, medians over the rounds. `judged` is the ratio if there is a peer, else our own value."""

    what: str
    unit: str
    ours: float
    peer: float | None
    judged: float
    spread: tuple[float, float]
    target: Target | None = None
    peer_name: str = ""

    @property
    def verdict(self) -> str:
        return self.target.verdict(self.judged) if self.target else ""


@dataclass(frozen=True)
class Result:
    """What one benchmark found. `notes` are sentences for the reader."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def interleaved(rounds: int, measure: Mapping[str, Callable[[], float]]) -> Measurements:
    """Call each function once a round, every second round backwards, so that a drift of the machine cancels out."""
    found: Measurements = {name: [] for name in measure}
    for index in range(rounds):
        for name in list(measure) if index % 2 == 0 else reversed(list(measure)):
            found[name].append(measure[name]())
    return found


def ratio_row(
    what: str, unit: str, ours: list[float], peer: list[float], peer_name: str, *, target: Target | None = None
) -> Row:
    """Ours against a peer: the ratio is taken within each round, then its median and extremes."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    return Row(
        what,
        unit,
        statistics.median(ours),
        statistics.median(peer),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        target,
        peer_name,
    )


def plain_row(what: str, unit: str, ours: list[float], target: Target | None = None) -> Row:
    """A value that is judged by itself."""
    middle = statistics.median(ours)
    return Row(what, unit, middle, None, middle, (min(ours), max(ours)), target)
