"""The figures of a benchmark: windows, when they agree, and what they say together. Pure; knows no clock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from inference_engine.domain.tensors import Array

AGREEING = 3
"""So many windows in a row must agree."""
ENOUGH = 0.95
"""The share of the best throughput that counts as having reached it."""


class Window(msgspec.Struct, eq=False):
    """What was answered during one stretch of time. Times are seconds; every array holds one value for each event.

    Of streams, `first_s` are the times to the first token, `gaps_s` the times between two pieces, `speeds` the tokens/s
    of whole answers after their first token, `pieces` the pieces that came, and `tokens` of `token_pieces` pieces are
    those of the answers that ended (a piece may hold several tokens).
    """

    seconds: float
    latencies_s: Array
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    first_s: Array = msgspec.field(default_factory=lambda: np.empty(0))
    gaps_s: Array = msgspec.field(default_factory=lambda: np.empty(0))
    speeds: Array = msgspec.field(default_factory=lambda: np.empty(0))
    pieces: int = 0
    token_pieces: int = 0
    tokens: int = 0
    prompt_tokens: int = 0

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Tokens that came in this window, also those of answers that have not ended."""
        each = self.tokens / self.token_pieces if self.token_pieces else 1.0
        return self.pieces * each / self.seconds

    @property
    def rate(self) -> float:
        """What has to be the same in all windows: tokens/s of streams, requests/s of everything else."""
        return self.tokens_per_s if self.pieces else self.requests_per_s


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Counters at one moment, of the server and of the machine; None where it cannot be known.

    Nanoseconds and counts are those of the statistics extension of v2, `*_cpu_s` CPU seconds used so far,
    `busy_cpu_s` those of the whole machine.
    """

    requests: int = 0
    failed: int = 0
    rows: int = 0
    batches: int = 0
    cache_hits: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    compute_ns: int = 0
    output_ns: int = 0
    generator_cpu_s: float | None = None
    server_cpu_s: float | None = None
    runner_cpu_s: float | None = None
    server_bytes: int | None = None
    runner_bytes: int | None = None
    busy_cpu_s: float | None = None


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """What one concurrency with one number of rows per request came to. Times are milliseconds.

    `queue_ms`, `compute_ms` and `other_ms` (merging, the way to the runner, splitting) are means of the server's own
    statistics for a request, `batch_rows` the rows of a batch it formed. `*_cpu` are cores in use (`other_cpu`:
    by programs that have nothing to do with it), `*_bytes` memory.
    """

    concurrency: int
    rows: int
    seconds: float
    stable: bool
    requests: int
    errors: dict[str, int] = {}
    requests_per_s: float = 0.0
    rows_per_s: float = 0.0
    mean_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    other_ms: float | None = None
    batch_rows: float | None = None
    cache_hits: int = 0
    generator_cpu: float | None = None
    server_cpu: float | None = None
    runner_cpu: float | None = None
    other_cpu: float | None = None
    server_bytes: int | None = None
    runner_bytes: int | None = None
    tokens_per_s: float | None = None
    stream_tokens_per_s: float | None = None
    first_token_p50_ms: float | None = None
    first_token_p99_ms: float | None = None
    inter_token_p50_ms: float | None = None
    inter_token_p99_ms: float | None = None
    prompt_tokens: float | None = None
    answer_tokens: float | None = None

    @property
    def throughput(self) -> float:
        """Tokens/s of language models, rows/s of all others."""
        return self.rows_per_s if self.tokens_per_s is None else self.tokens_per_s

    @property
    def middle_ms(self) -> float | None:
        """The median that people care for: of the first token for language models, else of the answer."""
        return self.p50_ms if self.tokens_per_s is None else self.first_token_p50_ms

    @property
    def tail_ms(self) -> float | None:
        """The p99 of the same, which a limit is held against."""
        return self.p99_ms if self.tokens_per_s is None else self.first_token_p99_ms

    def within(self, max_p99_ms: float | None) -> bool:
        """Whether it keeps the limit; what was never answered keeps none."""
        return max_p99_ms is None or (self.tail_ms is not None and self.tail_ms <= max_p99_ms)


def percentile(values: Array, share: float) -> float | None:
    """The smallest value that `share` percent of `values` do not exceed: one that really occurred. None of none."""
    if not len(values):
        return None
    return float(np.percentile(values, share, method="inverted_cdf"))


def settled(windows: Sequence[Window], tolerance: float) -> bool:
    """Whether the last three windows agree: each rate and mean latency within `tolerance` (0.1) of their mean."""
    last = windows[-AGREEING:]
    if len(last) < AGREEING:
        return False
    rates = [window.rate for window in last]
    means = [float(window.latencies_s.mean()) for window in last if len(window.latencies_s)]
    if any(window.pieces for window in last):
        means = []  # few answers end in a window, and they began in different ones
    return min(rates) > 0 and _agree(rates, tolerance) and _agree(means, tolerance)


def _agree(values: Sequence[float], tolerance: float) -> bool:
    middle = sum(values) / len(values) if values else 0.0
    return all(abs(value - middle) <= tolerance * middle for value in values)


def together(windows: Sequence[Window]) -> Window:
    """Windows that follow each other as one."""
    return Window(
        seconds=sum(window.seconds for window in windows),
        latencies_s=np.concatenate([window.latencies_s for window in windows]),
        errors=sum((window.errors for window in windows), Counter()),
        first_s=np.concatenate([window.first_s for window in windows]),
        gaps_s=np.concatenate([window.gaps_s for window in windows]),
        speeds=np.concatenate([window.speeds for window in windows]),
        pieces=sum(window.pieces for window in windows),
        token_pieces=sum(window.token_pieces for window in windows),
        tokens=sum(window.tokens for window in windows),
        prompt_tokens=sum(window.prompt_tokens for window in windows),
    )


def level_of(
    concurrency: int, rows: int, window: Window, before: Snapshot, after: Snapshot, *, stable: bool, streams: bool
) -> Level:
    """The figures of one level, from all its answers and the counters at its begin and end."""
    requests = after.requests - before.requests
    batches = after.batches - before.batches
    answers = len(window.latencies_s)
    middle = float(window.latencies_s.mean()) if answers else None
    of_streams = {}
    if streams:
        of_streams = {
            "tokens_per_s": window.tokens_per_s,
            "stream_tokens_per_s": percentile(window.speeds, 50),
            "first_token_p50_ms": _ms(percentile(window.first_s, 50)),
            "first_token_p99_ms": _ms(percentile(window.first_s, 99)),
            "inter_token_p50_ms": _ms(percentile(window.gaps_s, 50)),
            "inter_token_p99_ms": _ms(percentile(window.gaps_s, 99)),
            "prompt_tokens": window.prompt_tokens / answers if answers else None,
            "answer_tokens": window.tokens / answers if answers else None,
        }
    return Level(
        concurrency=concurrency,
        rows=rows,
        seconds=window.seconds,
        stable=stable,
        requests=answers,
        errors=dict(window.errors),
        requests_per_s=window.requests_per_s,
        rows_per_s=window.requests_per_s * rows,
        mean_ms=_ms(middle),
        p50_ms=_ms(percentile(window.latencies_s, 50)),
        p90_ms=_ms(percentile(window.latencies_s, 90)),
        p95_ms=_ms(percentile(window.latencies_s, 95)),
        p99_ms=_ms(percentile(window.latencies_s, 99)),
        queue_ms=_each(after.queue_ns - before.queue_ns, requests),
        compute_ms=_each(after.compute_ns - before.compute_ns, requests),
        other_ms=_each(after.input_ns + after.output_ns - before.input_ns - before.output_ns, requests),
        batch_rows=(after.rows - before.rows) / batches if batches > 0 else None,
        cache_hits=after.cache_hits - before.cache_hits,
        generator_cpu=_cores(before.generator_cpu_s, after.generator_cpu_s, window.seconds),
        server_cpu=_cores(before.server_cpu_s, after.server_cpu_s, window.seconds),
        runner_cpu=_cores(before.runner_cpu_s, after.runner_cpu_s, window.seconds),
        other_cpu=_others(before, after, window.seconds),
        server_bytes=after.server_bytes,
        runner_bytes=after.runner_bytes,
        **of_streams,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _each(nanoseconds: int, requests: int) -> float | None:
    return nanoseconds / requests / 1e6 if requests > 0 else None


def _cores(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None else max(0.0, after - before) / seconds


def _others(before: Snapshot, after: Snapshot, seconds: float) -> float | None:
    """Cores that other programs used; None where not all of ours is known."""
    busy = _cores(before.busy_cpu_s, after.busy_cpu_s, seconds)
    server = _cores(before.server_cpu_s, after.server_cpu_s, seconds)
    if busy is None or server is None:
        return None
    runner = _cores(before.runner_cpu_s, after.runner_cpu_s, seconds) or 0.0
    generator = _cores(before.generator_cpu_s, after.generator_cpu_s, seconds) or 0.0
    return max(0.0, busy - server - runner - generator)


# -- what a sweep says ---------------------------------------------------------------------------------------------


def recommended(levels: Sequence[Level], aim: str, max_p99_ms: float | None) -> Level | None:
    """The level to run at: for `throughput` the fewest requests at once that reach 95% of the best, for `latency` the
    one that answers soonest. Levels with errors or above the limit do not count; None when none is left.
    """
    usable = [level for level in levels if level.requests and not level.errors and level.within(max_p99_ms)]
    if not usable:
        return None
    if aim == "latency":
        return min(usable, key=lambda level: (level.middle_ms or math.inf, level.concurrency))
    best = max(level.throughput for level in usable)
    return min(
        (level for level in usable if level.throughput >= ENOUGH * best),
        key=lambda level: (level.concurrency * level.rows, level.concurrency),
    )


def limits(levels: Sequence[Level], max_batch_size: int, cores: int) -> list[str]:
    """What held the throughput back, in words for people, as far as the figures tell. `cores` the machine has."""
    found = []
    if any((level.generator_cpu or 0) >= 0.9 for level in levels):
        found.append(
            "the load generator used up its processor: the server can do more than this. Run it on another machine, "
            "or with more --batch rows"
        )
    top = max(levels, key=lambda level: level.throughput, default=None)
    if top is None or not top.requests:
        return found
    if top.tokens_per_s is None and (top.batch_rows or 0) >= 0.9 * max_batch_size > 1:
        found.append(f"batches are full at {max_batch_size} rows: a larger max_batch_size may bring more")
    if (top.queue_ms or 0) > 0.5 * (top.mean_ms or math.inf):
        found.append(f"at {top.concurrency} at once a request waits {top.queue_ms:.1f} of its {top.mean_ms:.1f} ms")
    others = max((level.other_cpu or 0.0 for level in levels), default=0.0)
    if others >= 0.15 * cores:
        found.append(
            f"other programs took up to {others:.1f} of {cores} cores meanwhile: quiet the machine to trust this"
        )
    if sum(level.cache_hits for level in levels):
        found.append("answers came from the cache: switch it off for this model (execution.cache: false)")
    if any(not level.stable for level in levels):
        found.append("~ marks levels whose windows did not agree: measure longer (--window), or quiet the machine")
    return found
