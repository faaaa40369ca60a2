"""Counts what happens and tells it to Prometheus. Knows metrics, not what is served.

Counting is a bisection and two additions: prometheus_client's own histograms cost ten times that. Its classes are used
when a scrape asks, and imported then.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from inference_engine.domain.model import ModelRef
from inference_engine.domain.requests import Kind
from inference_engine.domain.results import CacheOutcome

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

_PREFIX = "inference_engine_"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "time_to_first_token_seconds": ("From the arrival of a generation to its first delta", _SECONDS),
    "time_per_output_token_seconds": ("Seconds between the tokens of a generation, after the first", _TOKEN_SECONDS),
    "queue_seconds": ("Wait of the oldest request of a batch", _SECONDS),
    "compute_seconds": ("The runtime's time for a batch", _SECONDS),
    "batch_rows": ("Rows computed together", _ROWS),
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts",
    "generation_tokens": "Tokens generated",
    "rows": "Rows predicted",
    "runner_restarts": "Runners that were replaced after a crash or a hang",
}
RUNTIME_GAUGES = {
    "kv_cache_usage_ratio": "Share of the KV cache that holds the tokens of prompts and answers",
    "busy_slots": "Sequences being computed",
    "slots": "Sequences that can be computed together",
    "prompt_tokens_per_second": "Speed of reading prompts while they are read",
    "generated_tokens_per_second": "Speed of writing of one sequence while it writes",
    "prefix_cache_hit_ratio": "Share of the prompts' tokens that was found in the KV cache",
    "draft_acceptance_ratio": "Share of the tokens guessed in advance that the model accepted",
    "draft_tokens": "Tokens guessed in advance since the model was loaded",
    "draft_accepted_tokens": "Guessed tokens that the model accepted since it was loaded",
}
"""What runtimes measure of themselves, by the names that `Runtime.gauges` uses; others are passed on without a word."""

_METRIC = re.compile(r"[a-z_][a-z0-9_]*")
_GAUGES = {
    "model_loaded": "1 when the model is ready",
    "model_memory_bytes": "Measured memory of the model's runner",
    "model_in_flight_requests": "Requests being worked on",
    "model_queued_requests": "Requests waiting",
}


class ModelReading(Protocol):
    """What a scrape wants to know of one model at that moment."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def gauges(self) -> Mapping[str, float]: ...


class CacheReading(Protocol):
    """What a scrape wants to know of the answers that are kept."""

    @property
    def entries(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class Histogram:
    """Counts per bucket; the last bucket has no upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class _ModelCounts:
    """Everything that is counted of one model."""

    __slots__ = ("batch_rows", "compute_s", "counters", "histograms", "outcomes", "queue_s", "requests", "reused")

    def __init__(self) -> None:
        self.reused: defaultdict[CacheOutcome, int] = defaultdict(int)
        self.outcomes: defaultdict[tuple[Kind, str], int] = defaultdict(int)
        self.requests: defaultdict[Kind, Histogram] = defaultdict(lambda: Histogram(_SECONDS))
        self.histograms = {name: Histogram(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
        self.batch_rows = self.histograms["batch_rows"]
        self.queue_s = self.histograms["queue_seconds"]
        self.compute_s = self.histograms["compute_seconds"]
        self.counters = dict.fromkeys(_COUNTERS, 0)


class PrometheusTelemetry:
    """`Telemetry` whose counts can be scraped. Used by one event loop."""

    def __init__(self, version: str = "") -> None:
        self._version = version
        self._models: defaultdict[ModelRef, _ModelCounts] = defaultdict(_ModelCounts)
        self._readings: Callable[[], Iterable[ModelReading]] = tuple
        self._cache: Callable[[], CacheReading] | None = None
        self._registry: CollectorRegistry | None = None

    def watch_cache(self, reading: Callable[[], CacheReading]) -> None:
        """Ask `reading` for the size of the cache at each scrape."""
        self._cache = reading

    def watch(self, readings: Callable[[], Iterable[ModelReading]]) -> None:
        """Ask `readings` for the state of the models at each scrape."""
        self._readings = readings

    # -- counting ------------------------------------------------------------------------------------------------

    def request(self, ref: ModelRef, kind: Kind, outcome: str, seconds: float) -> None:
        counts = self._models[ref]
        counts.outcomes[kind, outcome] += 1
        counts.requests[kind].observe(seconds)

    def batch(self, ref: ModelRef, rows: int, queue_s: float, compute_s: float) -> None:
        counts = self._models[ref]
        counts.batch_rows.observe(rows)
        counts.queue_s.observe(queue_s)
        counts.compute_s.observe(compute_s)
        counts.counters["rows"] += rows

    def first_token(self, ref: ModelRef, seconds: float) -> None:
        self._models[ref].histograms["time_to_first_token_seconds"].observe(seconds)

    def tokens(self, ref: ModelRef, prompt: int, completion: int, seconds: float) -> None:
        counts = self._models[ref]
        counts.counters["prompt_tokens"] += prompt
        counts.counters["generation_tokens"] += completion
        if completion > 1:
            counts.histograms["time_per_output_token_seconds"].observe(seconds / (completion - 1))

    def restart(self, ref: ModelRef) -> None:
        self._models[ref].counters["runner_restarts"] += 1

    def reused(self, ref: ModelRef, outcome: CacheOutcome) -> None:
        self._models[ref].reused[outcome] += 1

    # -- telling -------------------------------------------------------------------------------------------------

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and the content type of that."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        if self._registry is None:
            self._registry = self._make_registry()
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _make_registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client at each scrape."""
        from prometheus_client.core import InfoMetricFamily

        yield InfoMetricFamily(_PREFIX + "server", "This server", {"version": self._version})
        yield from self._request_metrics()
        yield from self._histogram_metrics()
        yield from self._counter_metrics()
        yield from self._cache_metrics()
        yield from self._gauge_metrics()

    def _request_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        ended = CounterMetricFamily(
            _PREFIX + "requests", "Requests that ended, by outcome", labels=("model", "version", "kind", "outcome")
        )
        lasted = HistogramMetricFamily(
            _PREFIX + "request_seconds", "From arrival to end of a request", labels=("model", "version", "kind")
        )
        for ref, counts in self._models.items():
            for (kind, outcome), count in counts.outcomes.items():
                ended.add_metric((ref.name, ref.version, kind, outcome), count)
            for kind, histogram in counts.requests.items():
                lasted.add_metric((ref.name, ref.version, kind), _buckets(histogram), histogram.total)
        yield ended
        yield lasted

    def _histogram_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        for name, (meaning, _) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(_PREFIX + name, meaning, labels=("model", "version"))
            for ref, counts in self._models.items():
                histogram = counts.histograms[name]
                if any(histogram.counts):
                    family.add_metric((ref.name, ref.version), _buckets(histogram), histogram.total)
            yield family

    def _counter_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        for name, meaning in _COUNTERS.items():
            family = CounterMetricFamily(_PREFIX + name, meaning, labels=("model", "version"))
            for ref, counts in self._models.items():
                family.add_metric((ref.name, ref.version), counts.counters[name])
            yield family

    def _cache_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        reused = CounterMetricFamily(
            _PREFIX + "cache_requests",
            "Requests whose answers may be used again, by outcome",
            labels=("model", "version", "outcome"),
        )
        for ref, counts in self._models.items():
            for outcome, count in counts.reused.items():
                reused.add_metric((ref.name, ref.version, outcome), count)
        yield reused
        kept = self._cache() if self._cache else None
        yield GaugeMetricFamily(_PREFIX + "cache_entries", "Answers that are kept", kept.entries if kept else 0)
        yield GaugeMetricFamily(
            _PREFIX + "cache_bytes", "Bytes of the answers that are kept", kept.bytes if kept else 0
        )

    def _gauge_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        readings = list(self._readings())
        ready = sum(reading.state == "ready" for reading in readings)
        yield GaugeMetricFamily(_PREFIX + "models_loaded", "Models that are ready", ready)
        families = {
            name: GaugeMetricFamily(_PREFIX + name, meaning, labels=("model", "version"))
            for name, meaning in _GAUGES.items()
        }
        for reading in readings:
            for name, value in zip(_GAUGES, _values(reading), strict=True):
                families[name].add_metric((reading.name, reading.version), value)
            for name, value in reading.gauges.items():
                if not _METRIC.fullmatch(name):
                    continue  # a runtime's own word, which would make the whole page unreadable
                if name not in families:
                    meaning = RUNTIME_GAUGES.get(name, "Measured by the model's runtime")
                    families[name] = GaugeMetricFamily(_PREFIX + name, meaning, labels=("model", "version"))
                families[name].add_metric((reading.name, reading.version), value)
        yield from families.values()


def _values(reading: ModelReading) -> tuple[Any, ...]:
    """In the order of `_GAUGES`."""
    return (reading.state == "ready", reading.memory_bytes, reading.in_flight, reading.queued)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as the text format has them."""
    bounds = [str(float(bound)) for bound in histogram.bounds] + ["+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
