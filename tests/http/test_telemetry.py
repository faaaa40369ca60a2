"""What is counted is what Prometheus reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference_engine.domain.model import ModelRef
from inference_engine.infra.telemetry import Histogram, PrometheusTelemetry

REF = ModelRef("iris", "1")


class Reading(NamedTuple):
    name: str = "iris"
    version: str = "1"
    state: str = "ready"
    memory_bytes: int = 4096
    in_flight: int = 2
    queued: int = 3
    gauges: Mapping[str, float] = {"kv_cache_usage_ratio": 0.25, "own_thing": 7.0, "no metric": 1.0}


def samples(telemetry: PrometheusTelemetry) -> dict[tuple[str, str], float]:
    """Values by name and by the labels beyond model and version."""
    text, content_type = telemetry.exposition()
    assert content_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            rest = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k not in ("model", "version"))
            found[sample.name.removeprefix("inference_engine_"), rest] = sample.value
    return found


def test_counts() -> None:
    telemetry = PrometheusTelemetry("0.1.0")
    telemetry.watch(lambda: [Reading()])
    telemetry.request(REF, "predict", "ok", 0.003)
    telemetry.request(REF, "predict", "ok", 0.004)
    telemetry.request(REF, "chat", "queue_full", 400.0)
    telemetry.batch(REF, 8, 0.001, 0.002)
    telemetry.first_token(REF, 0.15)
    telemetry.tokens(REF, 10, 5, 0.4)
    telemetry.tokens(REF, 10, 1, 0.0)
    telemetry.restart(REF)
    found = samples(telemetry)
    assert found["requests_total", "kind=predict,outcome=ok"] == 2
    assert found["requests_total", "kind=chat,outcome=queue_full"] == 1
    assert found["request_seconds_sum", "kind=predict"] == pytest.approx(0.007)
    assert found["request_seconds_bucket", "kind=predict,le=0.005"] == 2
    assert found["request_seconds_bucket", "kind=chat,le=300.0"] == 0
    assert found["request_seconds_bucket", "kind=chat,le=+Inf"] == 1
    assert found["batch_rows_bucket", "le=4.0"] == 0
    assert found["batch_rows_bucket", "le=8.0"] == 1
    assert found["rows_total", ""] == 8
    assert found["time_to_first_token_seconds_count", ""] == 1
    assert found["time_per_output_token_seconds_sum", ""] == pytest.approx(0.1)
    assert found["time_per_output_token_seconds_count", ""] == 1
    assert (found["prompt_tokens_total", ""], found["generation_tokens_total", ""]) == (20, 6)
    assert found["runner_restarts_total", ""] == 1
    assert (found["models_loaded", ""], found["model_memory_bytes", ""]) == (1, 4096)
    assert (found["model_in_flight_requests", ""], found["model_queued_requests", ""]) == (2, 3)
    assert (found["kv_cache_usage_ratio", ""], found["own_thing", ""]) == (0.25, 7.0)


def test_a_server_without_requests_can_be_scraped() -> None:
    found = samples(PrometheusTelemetry("0.1.0"))
    assert found["models_loaded", ""] == 0
    assert found["server_info", ""] == 1


def test_a_bucket_holds_its_upper_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [1, 2, 1]
