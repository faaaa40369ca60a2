"""The figures of `bench` without a clock: percentiles, windows that agree, recommendations, the search."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from inference_engine.adapters.cli.bench.figures import (
    Level,
    Snapshot,
    Window,
    level_of,
    limits,
    percentile,
    recommended,
    settled,
    together,
)
from inference_engine.adapters.cli.bench.plots import drawn, nice_ticks
from inference_engine.adapters.cli.bench.report import Outcome, as_csv, number, sentence, table
from inference_engine.adapters.cli.bench.search import MIN_GAIN, axes, climb, score
from inference_engine.domain.model import Execution


def window(answers: int = 100, latency_s: float = 0.01, seconds: float = 1.0) -> Window:
    return Window(seconds, np.full(answers, latency_s))


def level(concurrency: int, rate: float, p99_ms: float = 10.0, **more: Any) -> Level:
    values = {"rows": 1, "seconds": 3.0, "stable": True, "requests": 100, "rows_per_s": rate, "requests_per_s": rate}
    values |= {"p50_ms": p99_ms / 2, "p95_ms": p99_ms * 0.9, "p99_ms": p99_ms, "mean_ms": p99_ms / 2}
    return Level(concurrency=concurrency, **(values | more))


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    assert [percentile(values, share) for share in (0, 20, 50, 90, 99, 100)] == [1, 1, 3, 5, 5, 5]
    assert percentile(np.arange(1, 101), 99) == 99
    assert percentile(np.empty(0), 99) is None


@pytest.mark.parametrize(
    ("rates", "agree"),
    [
        ([100, 100], False),
        ([100, 105, 98], True),
        ([10, 100, 105, 98], True),
        ([100, 105, 130], False),
        ([100, 105, 98, 150], False),
        ([0, 0, 0], False),
    ],
)
def test_windows_agree_when_the_last_three_do(rates: list[int], agree: bool) -> None:
    assert settled([window(rate) for rate in rates], 0.1) is agree


def test_latencies_must_agree_too_but_not_those_of_streams() -> None:
    drifting = [window(100, latency) for latency in (0.010, 0.010, 0.015)]
    assert not settled(drifting, 0.1)
    streams = [Window(1.0, np.array([ended]), pieces=200, token_pieces=50, tokens=100) for ended in (0.5, 1.5, 2.5)]
    assert settled(streams, 0.1)
    assert streams[0].tokens_per_s == 400  # two tokens a piece, also those of answers that have not ended


def test_windows_are_joined() -> None:
    joined = together([window(10, 0.1), Window(2.0, np.full(30, 0.2), Counter(rejected=2), pieces=4, tokens=3)])
    assert (joined.seconds, len(joined.latencies_s), joined.errors, joined.pieces) == (3.0, 40, {"rejected": 2}, 4)
    assert joined.requests_per_s == pytest.approx(40 / 3)


def test_a_level_from_windows_and_counters() -> None:
    before = Snapshot(
        requests=100, rows=200, batches=50, queue_ns=10, generator_cpu_s=1.0, server_cpu_s=2.0, busy_cpu_s=1.0
    )
    after = Snapshot(
        requests=300,
        rows=1000,
        batches=150,
        queue_ns=200_000_010,
        compute_ns=400_000_000,
        generator_cpu_s=1.5,
        server_cpu_s=3.0,
        server_bytes=5,
        busy_cpu_s=4.0,
    )
    found = level_of(8, 4, window(200, 0.02, 2.0), before, after, stable=True, streams=False)
    assert (found.requests_per_s, found.rows_per_s, found.p50_ms, found.p99_ms) == (100, 400, 20, 20)
    assert (found.queue_ms, found.compute_ms, found.batch_rows) == (1.0, 2.0, 8.0)
    assert (found.generator_cpu, found.server_cpu, found.runner_cpu, found.server_bytes) == (0.25, 0.5, None, 5)
    assert found.other_cpu == pytest.approx(0.75)
    empty = level_of(8, 4, window(0), before, before, stable=False, streams=True)
    assert (empty.p99_ms, empty.queue_ms, empty.batch_rows, empty.answer_tokens) == (None, None, None, None)


LADDER = [level(1, 100, 2), level(8, 600, 9), level(16, 980, 15), level(32, 1000, 40), level(64, 990, 90)]


@pytest.mark.parametrize(
    ("aim", "limit", "expected"),
    [("throughput", None, 16), ("throughput", 10, 8), ("throughput", 1, None), ("latency", None, 1)],
)
def test_what_is_recommended(aim: str, limit: float | None, expected: int | None) -> None:
    found = recommended(LADDER, aim, limit)
    assert (found.concurrency if found else None) == expected


def test_levels_with_errors_are_not_recommended() -> None:
    refused = level(64, 5000, 1, errors={"rejected": 3})
    found = recommended([*LADDER, refused, level(128, 0, requests=0)], "throughput", None)
    assert found is not None
    assert found.concurrency == 16


def test_language_models_are_held_to_their_first_token() -> None:
    slow = level(4, 1, 900, tokens_per_s=400.0, first_token_p50_ms=20.0, first_token_p99_ms=50.0)
    late = level(8, 2, 900, tokens_per_s=800.0, first_token_p50_ms=200.0, first_token_p99_ms=500.0)
    found = recommended([slow, late], "throughput", 100)
    assert found is slow


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"generator_cpu": 0.97}, "the load generator used up its processor"),
        ({"batch_rows": 63.0}, "batches are full at 64 rows"),
        ({"queue_ms": 4.0}, "a request waits 4.0 of its 5.0 ms"),
        ({"other_cpu": 1.4}, "other programs took up to 1.4 of 2 cores"),
        ({"cache_hits": 3}, "answers came from the cache"),
        ({"stable": False}, "windows did not agree"),
    ],
)
def test_what_held_it_back_is_told(more: dict[str, Any], words: str) -> None:
    assert [line for line in limits([level(8, 100, **more)], 64, 2) if words in line]
    assert limits([level(8, 100, other_cpu=0.2)], 64, 2) == []


# -- the search ----------------------------------------------------------------------------------------------------


def searched(axes: dict[str, tuple[Any, ...]], start: dict[str, Any], rate: Callable[[dict[str, Any]], float]) -> Any:
    """All that is tried, in order, and the best of it."""
    search = climb(axes, start)
    candidate = next(search)
    tried = []
    while True:
        tried.append((rate(candidate), candidate))
        try:
            candidate = search.send(tried[-1][0])
        except StopIteration:
            return tried, max(tried, key=lambda one: one[0])[1]


def test_the_search_finds_the_top_without_trying_everything() -> None:
    grid = axes(Execution(), 8, generates=False, executor=True)
    start = {name: getattr(Execution(), name) for name in grid}

    def rate(settings: dict[str, Any]) -> float:
        used = min(8, max(1, settings["threads"]) * settings["instances"])
        return 100 * used + settings["max_batch_size"] - 10 * settings["max_delay_ms"]

    tried, best = searched(grid, start, rate)
    assert max(1, best["threads"]) * best["instances"] >= 8
    assert (best["max_batch_size"], best["max_delay_ms"]) == (256, 0)
    everything = np.prod([len(values) for values in grid.values()])
    assert len(tried) < everything / 20
    assert len({tuple(settings.values()) for _, settings in tried}) == len(tried)


def test_noise_moves_nothing() -> None:
    tried, _ = searched({"threads": (0, 1, 2)}, {"threads": 1}, lambda one: 100 * (1 + MIN_GAIN / 2 * one["threads"]))
    assert [settings["threads"] for _, settings in tried] == [1, 2, 0]


def test_the_axes_hold_the_settings_in_force() -> None:
    found = axes(Execution(max_batch_size=48, threads=3), 2, generates=False, executor=False)
    assert found["threads"] == (0, 1, 2, 3)
    assert 48 in found["max_batch_size"]
    assert "executor" not in found
    assert set(axes(Execution(), 4, generates=True, executor=False)) == {"threads", "instances"}
    assert axes(Execution(executor="thread"), 1, generates=True, executor=False)["executor"] == ("thread", "runner")


def test_the_score_knows_the_aim_and_the_limit() -> None:
    assert score(LADDER, "throughput", None) == 1000
    assert score(LADDER, "throughput", 20) == 980
    assert 0 < score([level(1, 5000, 100)], "throughput", 20) < score([level(1, 5000, 50)], "throughput", 20) < 1
    assert score([level(1, 10, 2)], "latency", None) > score([level(1, 900, 4)], "latency", None)
    assert score([], "throughput", None) == 0.0


# -- telling -------------------------------------------------------------------------------------------------------


def outcome(*levels: Level, kind: str = "predict") -> Outcome:
    unit = "tokens/s" if kind == "chat" else "rows/s"
    best = recommended(levels, "throughput", None)
    return Outcome(model="m:1", where="http://x", kind=kind, unit=unit, levels=list(levels), recommended=best)


def test_numbers_for_people() -> None:
    assert [number(value) for value in (12345.6, 123.4, 12.34, 1.234, 0.1234, 0, None)] == [
        *("12,346", "123", "12.3", "1.23", "0.123", "0.000", "-")
    ]


def test_columns_that_say_nothing_are_left_out() -> None:
    head, rows = table([level(1, 100), level(2, 200, stable=False)])
    assert "ROWS" not in head
    assert "ERRORS" not in head
    assert "SERVER CPU" not in head
    assert [row[0] for row in rows] == ["1", "2 ~"]
    head, rows = table([level(1, 100, rows=8, errors={"rejected": 2, "timeout": 1})])
    assert dict(zip(head, rows[0], strict=True))["ERRORS"] == "2 rejected, 1 timeout"


def test_the_sentence() -> None:
    found = sentence(outcome(*LADDER))
    assert found == "most throughput: 16 at once: 980 rows/s, p50 7.50 ms, p99 15.0 ms"
    assert sentence(outcome()) == "no level without errors"


def test_csv_has_a_line_for_each_level() -> None:
    lines = as_csv([level(1, 100, errors={"rejected": 2})]).splitlines()
    values = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert (values["concurrency"], values["rows_per_s"], values["errors"]) == ("1", "100", "2")


@pytest.mark.parametrize(
    ("top", "ticks"), [(9.7, [0, 2, 4, 6, 8, 10]), (1000, [0, 200, 400, 600, 800, 1000]), (0, [0, 1])]
)
def test_ticks_are_round(top: float, ticks: list[float]) -> None:
    assert nice_ticks(top) == ticks


def test_pictures() -> None:
    chat = level(1, 5, tokens_per_s=500.0, first_token_p50_ms=20.0, first_token_p99_ms=40.0)
    for found in (outcome(*LADDER), outcome(level(1, 1), level(1, 2, rows=8)), outcome(chat, kind="chat"), outcome()):
        picture = drawn(found, ".svg").decode()
        texts = [element.text for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
        assert "m:1" in texts
        assert f"throughput ({found.unit})" in texts
        assert "requests at once" in texts
        assert "nan" not in picture
    page = drawn(outcome(*LADDER), ".html").decode()
    assert "<td>980</td>" in page
    assert "<svg" in page


def test_a_png_is_drawn_with_matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed", exc_type=ImportError)
    assert drawn(outcome(*LADDER), ".png").startswith(b"\x89PNG")


def test_an_outcome_is_json() -> None:
    import msgspec

    found = json.loads(msgspec.json.encode(outcome(*LADDER)))
    assert found["recommended"]["concurrency"] == 16
    assert len(found["levels"]) == 5
