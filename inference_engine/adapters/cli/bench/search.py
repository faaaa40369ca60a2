"""The search for execution settings: which are tried, in which order, and what counts as better. Pure."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import msgspec

from inference_engine.adapters.cli.bench.figures import Level
from inference_engine.domain.model import Execution

Settings = dict[str, Any]
Axes = Mapping[str, Sequence[Any]]
MIN_GAIN = 0.03
"""What is nearer than this is noise: the settings that were there stay."""
_BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)
_DELAYS_MS = (0.0, 0.5, 2.0, 5.0)
_PATIENCE = 2  # values in a row that bring nothing before an axis is left


class Trial(msgspec.Struct, frozen=True):
    """Settings, and what they came to; `failed` says why they cannot be used."""

    settings: Settings
    levels: tuple[Level, ...] = ()
    score: float = 0.0
    failed: str = ""


def axes(execution: Execution, cores: int, *, generates: bool, executor: bool) -> dict[str, tuple[Any, ...]]:
    """What may be changed, the most promising first. The values in force are among those of each axis.

    `executor` lets a model move between the server and a process of its own.
    """
    parallel = sorted({number for number in (1, 2, 4, 8, 16, 32, 64) if number <= cores} | {cores})
    found: dict[str, tuple[Any, ...]] = {}
    if executor or execution.executor == "thread":
        found["executor"] = ("thread", "runner")
    found["threads"] = (0, *parallel)
    found["instances"] = tuple(parallel)
    if not generates:
        found["max_batch_size"] = _BATCHES
        found["max_delay_ms"] = _DELAYS_MS
    return {name: _with(values, getattr(execution, name)) for name, values in found.items()}


def _with(values: tuple[Any, ...], current: Any) -> tuple[Any, ...]:
    if current in values:
        return values
    return tuple(sorted((*values, current))) if not isinstance(current, str) else (*values, current)


def climb(axes: Axes, start: Settings) -> Generator[Settings, float, None]:
    """Settings to try, one after the other; send the score of each (more is better, 0 for what does not work).

    One axis after the other, from the best settings so far: upwards and, where that brings nothing, downwards, until
    two values in a row bring nothing. Ends when a whole round over the axes has changed nothing.
    """
    known: dict[tuple[Any, ...], float] = {}
    best, best_score = start, (yield start)
    known[_key(start)] = best_score
    changed = True
    while changed:
        changed = False
        for name, values in axes.items():
            for direction in (1, -1):
                moved, failures, index = False, 0, values.index(best[name])
                while 0 <= index + direction < len(values) and failures < _PATIENCE:
                    index += direction
                    candidate = best | {name: values[index]}
                    score = known.get(_key(candidate))
                    if score is None:
                        score = known[_key(candidate)] = yield candidate
                    if score > best_score * (1 + MIN_GAIN):
                        best, best_score, moved, failures = candidate, score, True, 0
                    else:
                        failures += 1
                changed |= moved
                if moved:
                    break


def _key(settings: Settings) -> tuple[Any, ...]:
    return tuple(settings.values())


def score(levels: Sequence[Level], aim: str, max_p99_ms: float | None) -> float:
    """How good settings are. Above the limit, the nearer to it the better, and always less than anything below it."""
    usable = [level for level in levels if level.requests and not level.errors]
    if not usable:
        return 0.0
    within = [level for level in usable if level.within(max_p99_ms)]
    if not within:
        assert max_p99_ms is not None
        return max(1e-6 * max_p99_ms / (level.tail_ms or math.inf) for level in usable)
    if aim == "throughput":
        return max(level.throughput for level in within)
    soonest = min(_p95_ms(level) for level in within)
    return 1000 / soonest if soonest > 0 else 0.0


def _p95_ms(level: Level) -> float:
    """The tail of the first token or of the answer; p95, as a p99 of a short measurement is one request."""
    found = level.p95_ms if level.tokens_per_s is None else level.first_token_p99_ms
    return found if found is not None else float("inf")


def best_of(trials: Sequence[Trial]) -> Trial:
    """Of the same score, the one that was found first. The first trial is that of the settings in force."""
    return max(trials, key=lambda trial: trial.score)
